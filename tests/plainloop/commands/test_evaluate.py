"""`python evaluate.py`: a run is rebuilt from its directory alone, and has the same numbers."""

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import numpy
import pytest
import torch
from torch.utils.data import Dataset

import plainloop
from plainloop.errors import UserError
from plainloop.reports import terminal
from tests.conftest import ROOT, Done, command, copy_configs, one_in
from tests.plainloop.commands.runs import trained


@pytest.fixture
def digits(digits_command: Done, tmp_path: Path) -> Done:
    """A copy of the run and its folder, in which an evaluation may write."""
    return dataclasses.replace(digits_command, folder=Path(shutil.copytree(digits_command.folder, tmp_path / "digits")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("split", "checkpoint"), one_in(4, [("test", "best"), ("val", "best"), ("test", "last"), ("val", "last")])
)
def test_evaluate_reproduces_the_runs_own_numbers_exactly(digits: Done, split, checkpoint):
    values = plainloop.evaluate(digits.run, split=split, checkpoint=checkpoint)
    own = digits.metrics()
    prefix = "last/" if (split, checkpoint) == ("val", "last") else ""
    if (split, checkpoint) == ("test", "last"):
        assert set(values) == {"test/loss", "test/accuracy", "test/macro_f1"}  # the run measured the best weights only
    else:
        assert values == {name: own[prefix + name] for name in values}
    written = json.loads((digits.run / f"evaluate-{split}-{checkpoint}.json").read_text())
    assert written == values


@pytest.mark.parametrize(
    ("values", "own", "said"),
    [
        ({"val/loss": 0.5, "val/auroc": math.nan}, {"val/loss": 0.5, "val/auroc": None}, "equal to the run's own"),
        ({"val/loss": 0.5, "val/auroc": 0.5}, {"val/loss": 0.5, "val/auroc": None}, "differs .* by up to inf"),
        ({"val/loss": 0.5, "val/auroc": math.nan}, {"val/loss": 0.5, "val/auroc": 0.5}, "differs .* by up to inf"),
        ({"val/loss": 0.5}, {"val/loss": 0.75}, "differs .* by up to 0.25"),
    ],
)
def test_what_is_no_number_is_compared_too(values, own, said, tmp_path, capsys):
    """As an AUROC where one class only occurs: NaN in the evaluation, null in metrics.json."""
    terminal.say_evaluation(tmp_path, values, {**own, "best/step": 1}, "val", "best", "best", tmp_path / "x.json")
    assert re.search(f"check   {said}", capsys.readouterr().out)


@pytest.mark.slow
def test_the_evaluate_command_finds_the_latest_run(digits: Done):
    done = command("evaluate.py", "run=latest", folder=digits.folder)
    assert done.status == 0, done.err
    assert "equal to the run's own numbers" in done.out


@pytest.mark.slow
def test_a_run_that_ends_before_its_first_log_point_has_a_training_loss():
    run = plainloop.train(["model=linear", "trainer.max_steps=2", "trainer.log_every=50", "logger=none"])
    logged = plainloop.train(["model=linear", "trainer.max_steps=2", "trainer.log_every=2", "logger=none"])
    assert run.metrics["train/loss"] == logged.history()[0]["train/loss"]


def test_evaluate_with_larger_batches_asks_for_no_warm_up():
    """Which the training had; with batches of 1,000 samples there would be fewer steps than that."""
    run = plainloop.train(["model=linear", "schedule.warmup_steps=50", "trainer.max_epochs=2", "logger=none"])
    again = plainloop.evaluate(run.path, overrides=["loader.batch_size=1000"])
    assert again["test/accuracy"] == pytest.approx(run.metrics["test/accuracy"])


def test_evaluate_needs_the_run_directory_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Not the configs that it was composed from, which may have changed since."""
    run = trained()
    (copy_configs(tmp_path, monkeypatch) / "model/mlp.yaml").write_text("_target_: plainloop.models.Linear\n")
    moved = shutil.move(run.path, tmp_path / "elsewhere")
    assert plainloop.evaluate(moved)["test/loss"] == run.metrics["test/loss"]


class Counted(Dataset):
    """Counts how often a sample is read."""

    classes = ("a", "b")
    targets = torch.arange(1000) % 2
    reads = 0

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int):
        type(self).reads += 1
        return torch.full((3,), float(index)), index % 2


@pytest.mark.slow
def test_statistics_are_taken_once(tmp_path: Path):
    """A run's own are loaded when it is evaluated, resumed or extended: its training split isn't read for them."""
    words = ["data=custom", f"data._target_={__name__}.Counted", "task=multiclass", "transforms.normalize=train"]
    run = trained(*words, "loader.num_workers=0")
    inputs = torch.stack([torch.full((3,), float(index)) for index in run.data.indices["train"]["indices"]])
    torch.testing.assert_close(run.preprocess(inputs).std(0, unbiased=False), torch.ones(3))
    Counted.reads = 0
    plainloop.evaluate(run.path, "test")
    assert 100 <= Counted.reads < 400  # the test split's, and some for digests
    again = plainloop.load_run(run.path)
    assert torch.equal(again.preprocess(inputs), run.preprocess(inputs))
    resumed = plainloop.train([f"resume={run.path}", "trainer.max_epochs=3"])
    extended = plainloop.train([f"extend={run.path}", "trainer.max_epochs=1"])
    for longer in (resumed, extended):
        assert torch.equal(longer.preprocess(inputs), run.preprocess(inputs))


def test_load_run_gives_back_model_preprocess_data_and_config():
    run = trained()
    again = plainloop.load_run(run.path)
    assert not again.model.training
    test = again.data.test
    with torch.no_grad():
        accuracy = (again.model(again.preprocess(test.inputs)).argmax(1) == test.targets).float().mean()
    assert float(accuracy) == pytest.approx(run.metrics["test/accuracy"])
    assert again.config.model.hidden_sizes == [128, 64]
    assert again.metrics == run.metrics
    assert len(again.history()) == len(run.history()) > 0


@pytest.mark.slow
def test_data_may_lie_elsewhere_when_a_run_is_evaluated(tmp_path: Path):
    run = trained()
    elsewhere = tmp_path / "moved"
    shutil.copytree(ROOT / "data", elsewhere)
    values = plainloop.evaluate(run.path, overrides=[f"paths.data={elsewhere}"])
    assert values["test/loss"] == run.metrics["test/loss"]
    with pytest.raises(UserError, match="no such file"):
        plainloop.evaluate(run.path, overrides=["paths.data=nowhere"])


def test_data_that_has_changed_is_named(tmp_path: Path):

    run = trained()
    (tmp_path / "moved").mkdir()
    with numpy.load(ROOT / "data/digits.npz") as held:
        numpy.savez(
            tmp_path / "moved/digits.npz",
            **{name: held[name] for name in held} | {"images": held["images"][:1000], "labels": held["labels"][:1000]},
        )
    with pytest.raises(UserError, match=r"the data has changed since .*: num_train was 1258 and is 700"):
        plainloop.evaluate(run.path, overrides=[f"paths.data={tmp_path}/moved"])
