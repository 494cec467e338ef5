"""The commands from end to end: what they print, what they write, and that the numbers agree."""

import json
import math
import re
import shutil
from pathlib import Path

import numpy
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from torch.utils.data import Dataset

import plainloop
from plainloop.assembly.session import Session
from plainloop.commands import sweep, train
from plainloop.errors import MachineError, UserError
from plainloop.reports import terminal
from plainloop.runs import directory
from plainloop.runs.checkpoint import Checkpoints
from plainloop.runs.directory import RunDir
from plainloop.training.trainer import Trainer
from tests.conftest import ROOT, Done, command, copy_configs


def trained(*overrides: str) -> plainloop.Run:
    """A quick run in process."""
    return plainloop.train(["trainer.max_epochs=2", "logger=none", *overrides])


def copy_of(run, folder: Path) -> Path:
    """A run directory that a test may spoil."""
    return Path(shutil.copytree(run.path, folder / "copy"))


# --- python train.py model=mlp ------------------------------------------------------------------------------


def test_the_default_run_reaches_96_percent(digits_command: Done):
    assert digits_command.status == 0, digits_command.err
    assert digits_command.metrics()["test/accuracy"] >= 0.96


def test_the_run_says_what_it_found_and_what_to_type_next(digits_command: Done):
    out = digits_command.out
    assert "digits: 1,258 train, 180 val, 359 test; inputs 1 x 8 x 8 uint8; 10 classes (0, 1, 2" in out
    assert "17,226 parameters" in out  # 64*128+128 + 128*64+64 + 64*10+10
    run = digits_command.run.relative_to(digits_command.folder)
    assert f"python {ROOT}/evaluate.py run={run}" in out  # beside the train.py that was typed
    assert f"python {ROOT}/train.py resume={run} trainer.max_epochs=60" in out
    assert "tensorboard --logdir outputs" in out
    assert re.search(r"\n +loss +accuracy +macro_f1\n +val .*\n +test ", out)


def test_on_a_pipe_there_is_one_clean_line_per_epoch(digits_command: Done):
    lines = [line for line in digits_command.out.splitlines() if line.startswith("epoch ")]
    form = r"epoch \d+/30  loss \d\.\d{4}  val/loss \d\.\d{4}  val/accuracy \d\.\d{4}  [\d,]+ samples/s"
    assert len(lines) == 30
    assert all(re.fullmatch(form, line) for line in lines)
    assert "\r" not in digits_command.out + digits_command.err
    assert digits_command.err == ""


def test_a_run_directory_holds_what_the_contract_says(digits_command: Done):
    run = digits_command.run
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[0-9a-f]{4}", run.name)
    assert run.parent == digits_command.folder / "outputs" / "digits_mlp"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["in_features"] == 64
    assert config["spec"]["num_train"] == 1258
    assert config["choices"]["data"] == "digits"
    assert "${" not in (run / "config.yaml").read_text()
    assert yaml.safe_load((run / "overrides.yaml").read_text()) == ["model=mlp"]
    environment = json.loads((run / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["seed"] == 0
    assert environment["command"].endswith("train.py model=mlp")
    splits = json.loads((run / "splits.json").read_text())
    indices = sorted(i for split in splits.values() for i in split["indices"])
    assert indices == list(range(1797))
    assert {path.name for path in run.iterdir()} == {
        "config.yaml",
        "composed.yaml",
        "overrides.yaml",
        "environment.json",
        "train.log",
        "history.jsonl",
        "metrics.json",
        "splits.json",
        "layers.txt",
        "checkpoints",
        "tensorboard",
        "figures",
    }
    checkpoints = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert checkpoints == ["best.pt", "step-1160.pt", "step-1200.pt"]  # 40 steps in each of 30 epochs
    assert (run / "train.log").read_text().splitlines() == digits_command.out.splitlines()


def test_the_history_has_every_log_point_and_every_epoch(digits_command: Done):
    records = [json.loads(line) for line in (digits_command.run / "history.jsonl").read_text().splitlines()]
    points = [record for record in records if "train/loss" in record]
    epochs = [record for record in records if "train/epoch_loss" in record]
    assert [record["step"] for record in points] == list(range(50, 1201, 50))
    assert [record["step"] for record in epochs] == list(range(40, 1201, 40))
    assert [record["epoch"] for record in epochs] == list(range(1, 31))
    assert set(points[0]) == {
        "step",
        "epoch",
        "train/loss",
        "train/accuracy",
        "train/macro_f1",
        "lr",
        "grad_norm",
        "samples_per_second",
    }
    assert {"val/loss", "val/accuracy", "val/macro_f1"} <= set(epochs[0])


def test_the_best_epoch_is_chosen_by_validation_alone(digits_command: Done):
    records = [json.loads(line) for line in (digits_command.run / "history.jsonl").read_text().splitlines()]
    validations = [
        (record["val/accuracy"], -record["val/loss"], record["epoch"]) for record in records if "val/loss" in record
    ]
    metrics = digits_command.metrics()
    assert metrics["best/epoch"] == max(validations)[2]
    assert metrics["val/accuracy"] == max(validations)[0]
    assert not any(name.startswith("test/") for record in records for name in record)


@pytest.mark.slow
def test_a_pipe_that_is_closed_does_not_end_the_training(tmp_path: Path):
    """`python train.py | head -1`: nobody reads any more, and the run goes on to its end."""
    import os
    import subprocess
    import sys

    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "trainer.max_epochs=3", "logger=none"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0
    (log,) = (tmp_path / "outputs").glob("*/*/train.log")
    assert "done    3 epochs done" in log.read_text()


@pytest.mark.slow
def test_a_terminal_gets_a_bar_per_epoch(tmp_path: Path):
    """A pseudo-terminal stands in for the screen."""
    import os
    import pty
    import subprocess
    import sys

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "model=mlp", "trainer.max_epochs=2", "logger=none"],
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other side has closed
            break
        if not piece:
            break
        shown += piece
    assert process.wait() == 0
    text = shown.decode()
    for epoch in (1, 2):
        assert re.search(
            rf"epoch {epoch}/2 100%\|█+\| [\d.,]+k? samples/s, loss \d.\d+  val/loss \d.\d+  val/accuracy", text
        )
    assert "epoch 2/2  loss" in next((tmp_path / "outputs").glob("*/*/train.log")).read_text()


# --- evaluate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_evaluate_reproduces_the_runs_own_numbers_exactly(digits_command: Done, split, checkpoint):
    values = plainloop.evaluate(digits_command.run, split=split, checkpoint=checkpoint)
    own = digits_command.metrics()
    prefix = "last/" if (split, checkpoint) == ("val", "last") else ""
    if (split, checkpoint) == ("test", "last"):
        assert set(values) == {"test/loss", "test/accuracy", "test/macro_f1"}  # the run measured the best weights only
    else:
        assert values == {name: own[prefix + name] for name in values}
    written = json.loads((digits_command.run / f"evaluate-{split}-{checkpoint}.json").read_text())
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
def test_the_evaluate_command_finds_the_latest_run(digits_command: Done):
    done = command("evaluate.py", "run=latest", folder=digits_command.folder)
    assert done.status == 0, done.err
    assert "equal to the run's own numbers" in done.out
    for file in digits_command.run.glob("evaluate-*.json"):
        file.unlink()  # the directory is as the run left it, for the other tests


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


def test_data_may_lie_elsewhere_when_a_run_is_evaluated(tmp_path: Path):
    run = trained()
    elsewhere = tmp_path / "moved"
    shutil.copytree(ROOT / "data", elsewhere)
    values = plainloop.evaluate(run.path, overrides=[f"paths.data={elsewhere}"])
    assert values["test/loss"] == run.metrics["test/loss"]
    with pytest.raises(UserError, match="no such file"):
        plainloop.evaluate(run.path, overrides=["paths.data=nowhere"])


def test_data_that_has_changed_is_named(tmp_path: Path):
    import numpy

    run = trained()
    (tmp_path / "moved").mkdir()
    with numpy.load(ROOT / "data/digits.npz") as held:
        numpy.savez(
            tmp_path / "moved/digits.npz",
            **{name: held[name] for name in held} | {"images": held["images"][:1000], "labels": held["labels"][:1000]},
        )
    with pytest.raises(UserError, match=r"the data has changed since .*: num_train was 1258 and is 700"):
        plainloop.evaluate(run.path, overrides=[f"paths.data={tmp_path}/moved"])


# --- resume and extend --------------------------------------------------------------------------------------


def final_state(run) -> dict:
    return Checkpoints(run.path / "checkpoints").last()[1]


def comparable(run) -> list[dict]:
    """The history without what a clock measured."""
    return [{name: v for name, v in record.items() if name != "samples_per_second"} for record in run.history()]


@pytest.mark.slow
def test_a_longer_resumed_run_equals_one_that_was_never_interrupted():
    whole = trained("model=cnn", "trainer.max_epochs=4", "model.dropout=0.3", "trainer.log_every=10")
    run = trained("model=cnn", "trainer.max_epochs=2", "model.dropout=0.3", "trainer.log_every=10")
    resumed = plainloop.train([f"resume={run.path}", "trainer.max_epochs=4"])
    assert resumed.path == run.path
    assert comparable(resumed) == comparable(whole)
    one, other = final_state(whole), final_state(resumed)
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    for number, state in one["optimizer"]["state"].items():
        assert all(torch.equal(state[name], other["optimizer"]["state"][number][name]) for name in state)
    for name in ("test/loss", "val/loss", "best/step", "last/val/loss", "samples"):
        assert resumed.metrics[name] == whole.metrics[name]
    assert OmegaConf.load(run.path / "config.yaml").trainer.max_epochs == 4


def test_resume_goes_on_within_an_epoch(monkeypatch: pytest.MonkeyPatch):
    """Stopped at step 61 of 80, in the middle of a log window, and resumed: the same bits as without a stop."""
    options = ["model.dropout=0.3", "scheduler=one_cycle", "optimizer.lr=1e-4", "trainer.log_every=7"]
    whole = trained(*options)
    fit = Trainer.train_step

    def stop_at_61(self, window, logging):
        if self.step == 60:
            self.signal = 15
        return fit(self, window, logging)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", stop_at_61)
        with pytest.raises(KeyboardInterrupt, match=r"saved at step 61.\nContinue .*resume=") as stopped:
            trained(*options, "name=stopped")
    assert stopped.value.status == 143
    resumed = plainloop.train(["resume=latest"])
    assert resumed.path.parent.name == "stopped"
    assert comparable(resumed) == comparable(whole)
    one, other = final_state(whole), final_state(resumed)
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    assert resumed.metrics["test/loss"] == whole.metrics["test/loss"]


@pytest.mark.slow
def test_a_signal_during_validation_is_obeyed_and_the_validation_repeated(monkeypatch: pytest.MonkeyPatch):
    """In the middle of an epoch and at its end: nothing is lost, nothing is counted twice."""
    for every, at in (("15s", 15), ("1", 40)):
        options = [f"trainer.validate_every={every}", "early_stopping.patience=9", "model.dropout=0.3"]
        whole = trained(*options)
        update = Trainer.validate

        def interrupted(self, at=at, update=update):
            if self.step == at:
                self.signal = 2
            return update(self)

        with monkeypatch.context() as patched:
            patched.setattr(Trainer, "validate", interrupted)
            with pytest.raises(KeyboardInterrupt, match=f"saved at step {at}"):
                trained(*options, "name=stopped")
        resumed = plainloop.train(["resume=latest"])
        assert comparable(resumed) == comparable(whole)
        one, other = final_state(whole), final_state(resumed)
        assert one["best"] == other["best"]
        assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])


def test_a_run_stopped_early_stays_stopped(capsys: pytest.CaptureFixture):
    run = trained("early_stopping.patience=1", "early_stopping.min_delta=1", "trainer.max_epochs=9")
    assert run.metrics["epochs"] == 2
    plainloop.train([f"resume={run.path}"])
    assert "this run is finished (val/accuracy has not become better" in capsys.readouterr().out


def test_what_happened_when_it_was_resumed_is_recorded():
    run = trained()
    plainloop.evaluate(run.path)
    resumed = plainloop.train([f"resume={run.path}", "trainer.max_epochs=3"])
    assert not list(run.path.glob("evaluate-*.json"))  # they were about older weights
    (entry,) = json.loads((run.path / "environment.json").read_text())["resumed"]
    assert entry["overrides"] == [f"resume={run.path}", "trainer.max_epochs=3"]
    assert resumed.metrics["seconds"] > run.metrics["seconds"]


def test_a_run_is_trained_by_one_process_at_a_time():
    run = trained()
    import os

    held = RunDir(run.path).lock()
    with pytest.raises(MachineError, match=r"is being trained by another process\.$"):  # and no advice to resume it
        plainloop.train([f"resume={run.path}", "trainer.max_epochs=3"])
    os.close(held)
    assert plainloop.train([f"resume={run.path}", "trainer.max_epochs=3"]).metrics["epochs"] == 3


def test_a_history_that_lost_its_end_is_continued_where_it_ends():
    """After a power cut a file may be shorter than the checkpoint remembers: no bytes are made up."""
    run = trained("trainer.log_every=10")
    text = (run.path / "history.jsonl").read_bytes()
    lines = text.splitlines(keepends=True)
    (run.path / "history.jsonl").write_bytes(b"".join(lines[:-2]))
    resumed = plainloop.train([f"resume={run.path}", "trainer.max_epochs=3"])
    assert [record["step"] for record in resumed.history()][-1] == 120


def test_a_run_from_before_a_key_existed_is_still_read():
    run = trained()
    composed = (run.path / "composed.yaml").read_text()
    assert "  channels_last: false\n" in composed
    (run.path / "composed.yaml").write_text(composed.replace("  channels_last: false\n", ""))
    assert plainloop.evaluate(run.path)["test/loss"] == run.metrics["test/loss"]


def test_splits_that_would_change_are_refused(tmp_path: Path):
    """Else an extended run would be tested on what the first one was trained on."""
    run = trained()
    with pytest.raises(UserError, match="seed=1: this can't change"):
        plainloop.train([f"extend={run.path}", "seed=1"])
    splits = json.loads((run.path / "splits.json").read_text())
    splits["test"], splits["val"] = splits["val"], splits["test"]
    (run.path / "splits.json").write_text(json.dumps(splits))
    with pytest.raises(UserError, match="the splits have changed"):
        plainloop.evaluate(run.path)


def test_resuming_a_finished_run_says_so(capsys: pytest.CaptureFixture):
    run = trained()
    again = plainloop.train([f"resume={run.path}"])
    assert "this run is finished (2 epochs done)" in capsys.readouterr().out
    assert again.metrics == run.metrics


def test_a_schedule_built_for_one_length_never_runs_at_another():
    run = trained("scheduler=cosine")
    with pytest.raises(UserError, match=rf"extend={re.escape(str(run.path))} trainer.max_epochs=4"):
        plainloop.train([f"resume={run.path}", "trainer.max_epochs=4"])


@pytest.mark.parametrize("word", ["model=cnn", "optimizer.lr=1", "seed=3", "optimizer=sgd", "loader.batch_size=7"])
def test_what_the_numbers_follow_from_cannot_change_on_resume(word):
    run = trained()
    name = word.split("=")[0]
    with pytest.raises(UserError, match=rf"{re.escape(word)}: this can't change .*\(the run has {re.escape(name)}="):
        plainloop.train([f"resume={run.path}", word])


def test_extend_is_a_new_run_from_the_weights_with_a_schedule_of_its_own():
    run = trained("scheduler=cosine")
    longer = plainloop.train([f"extend={run.path}", "trainer.max_epochs=3", "optimizer.lr=5e-4"])
    assert longer.path != run.path
    assert longer.metrics["epochs"] == 3
    assert longer.config.spec.schedule_length == 3 * 40
    rates = [record["lr"] for record in longer.history()]
    assert rates[0] < 5e-4
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)
    assert (
        next(record["train/loss"] for record in longer.history() if "train/loss" in record)
        < run.history()[-1]["train/epoch_loss"]
    )  # it starts where the run ended
    state = final_state(longer)["optimizer"]["state"][0]
    assert float(state["step"]) == 5 * 40  # Adam's own count goes on


@pytest.mark.parametrize(
    ("before", "after", "interval"),
    [
        ("cosine", "step", "epoch"),
        ("cosine", "plateau", "validation"),
        ("plateau", "cosine", "step"),
    ],
)
def test_another_scheduler_ticks_in_its_own_interval(before, after, interval):
    """Else scheduler=step would take a tenth of the rate after every 10 steps, and not epochs."""
    run = trained(f"scheduler={before}", "trainer.max_epochs=1")
    longer = plainloop.train([f"extend={run.path}", f"scheduler={after}"])
    assert longer.config.schedule.interval == interval
    assert {record["lr"] for record in longer.history()} == {0.001} or after == "cosine"


@pytest.mark.parametrize(
    ("before", "typed"),
    [
        ("optimizer=several", "optimizer.weights.parameters=bias"),  # moments of other shapes crash a fused kernel
        ("optimizer=several", "optimizer.rest._target_=torch.optim.RMSprop"),
        ("optimizer=adam", "optimizer._target_=torch.optim.NAdam"),
        ("optimizer=adam", "optimizer.amsgrad=true"),
    ],
)
def test_an_extended_run_keeps_its_optimizers_and_what_each_of_them_has(before, typed):
    run = trained(before, "trainer.max_epochs=1")
    with pytest.raises(UserError, match=r"can't change when a run is extended.*state wouldn't fit"):
        plainloop.train([f"extend={run.path}", typed])


def test_extend_takes_the_last_weights_and_moments():
    """One step with a rate of zero leaves the weights where the old run ended."""
    run = trained()
    longer = plainloop.train([f"extend={run.path}", "trainer.max_steps=1", "optimizer.lr=0.0"])
    one, other = final_state(run)["model"], final_state(longer)["model"]
    assert all(torch.equal(one[name], other[name]) for name in one)


# --- sweeps -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_ranks_its_trials_and_tests_the_winner_alone(tmp_path: Path):
    done = command(
        "train.py", "-m", "model=mlp,linear", "seed=0,1", "trainer.max_epochs=2", "logger=none", folder=tmp_path
    )
    assert done.status == 0, done.err
    (folder,) = (tmp_path / "outputs/digits").glob("sweep-*")
    runs = [folder / str(number) for number in range(4)]
    values = {run.name: json.loads((run / "metrics.json").read_text()) for run in runs}
    assert not any(name.startswith("test/") for metrics in values.values() for name in metrics)
    table = done.out[done.out.index("rank ") :].splitlines()
    assert table[0].split() == ["rank", "val/accuracy", "model", "seed", "run"]
    ranked = [line.split() for line in table[1:5]]
    scores = [float(row[1]) for row in ranked]
    assert scores == sorted(scores, reverse=True)
    best = max(values, key=lambda name: values[name]["val/accuracy"])
    assert ranked[0][4] == f"outputs/digits/{folder.name}/{best}"
    assert {tuple(row[2:4]) for row in ranked} == {("mlp", "0"), ("mlp", "1"), ("linear", "0"), ("linear", "1")}
    assert [run.name for run in runs if (run / "evaluate-test-best.json").exists()] == [best]
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


@pytest.mark.slow
def test_a_sweep_over_folds_prints_their_mean_and_deviation(capsys: pytest.CaptureFixture):
    """Of each model; the folds' validation samples are everything but the test split, each once."""
    words = ["model=linear,mlp", "split.folds=3", "split.fold=0,1,2", "trainer.max_epochs=1", "logger=none"]
    trials = sweep.run(words, train.train_config)
    table = capsys.readouterr().out.partition("deviation")[2].splitlines()
    assert table[0].split() == ["of", "model"]
    said = {row.split()[3]: [float(number) for number in row.split()[:3]] for row in table[1:3]}
    for model in ("linear", "mlp"):
        chosen = [trial for trial in trials if trial.setting("model") == model]
        values = numpy.array([directory.RunDir(trial.folder).read_metrics()["val/accuracy"] for trial in chosen])
        assert said[model] == pytest.approx([values.mean(), values.std(ddof=1), 3], abs=5e-5)
        splits = [json.loads((trial.folder / "splits.json").read_text()) for trial in chosen]
        validated = [index for split in splits for index in split["val"]["indices"]]
        assert sorted(validated + splits[0]["test"]["indices"]) == list(range(1797))
        assert splits[0]["test"] == splits[1]["test"] == splits[2]["test"]


def test_a_trial_that_fails_does_not_end_the_sweep(capsys: pytest.CaptureFixture):
    trials = sweep.run(
        ["model.dropout=0.1,2", "trainer.max_epochs=1", "logger=none"],
        train.train_config,
    )
    assert [bool(trial.failure) for trial in trials] == [False, True]
    out = capsys.readouterr().out
    assert re.search(r"1 +0\.\d+ +0\.1 +outputs", out)
    assert re.search(r"- +failed +2 +model.dropout=2: a share", out)


def test_all_trials_are_checked_before_the_first_is_trained(tmp_path: Path):
    with pytest.raises(UserError, match=r"trainer.max_epochs=-1"):
        sweep.run(["trainer.max_epochs=1,-1"], lambda *given: pytest.fail("a trial was started"))
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("words", "times"), [([], 1), (["test=false"], 0), (["debug=fast"], 0), (["debug=overfit"], 0)], ids=str
)
def test_the_test_split_is_touched_once_or_not_at_all(words, times, monkeypatch: pytest.MonkeyPatch):
    """Counted where batches are made: whoever wants a sample of the test split has to come by here."""
    touched = []
    loader = Session.loader

    def counted(self, split):
        touched.append(split)
        return loader(self, split)

    monkeypatch.setattr(Session, "loader", counted)
    trained(*words)
    assert touched.count("test") == times


# --- debug modes --------------------------------------------------------------------------------------------


def test_debug_fast_takes_a_few_batches_and_leaves_the_test_split_alone():
    run = plainloop.train(["debug=fast"])
    assert run.metrics["steps"] == 6
    assert not any(name.startswith("test/") for name in run.metrics)
    assert run.path.parent.name == "debug_fast"
    with pytest.raises(UserError, match="no run with a checkpoint"):
        plainloop.load_run("latest")  # a debug run is nobody's latest


@pytest.mark.slow
@pytest.mark.parametrize("data", ["digits", "breast_cancer", "penguins"])
def test_debug_overfit_learns_one_batch_by_heart(data):
    run = plainloop.train(["debug=overfit", f"data={data}", "logger=none"])
    assert run.history()[-1]["train/epoch_loss"] < 0.01
    assert run.metrics["steps"] < 1000


@pytest.mark.slow
def test_debug_profile_writes_a_trace_for_the_browser():
    run = plainloop.train(["debug=profile"])
    trace = json.loads((run.path / "profile/trace.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert "aten::addmm" in names
    assert "Self CPU" in (run.path / "profile/operations.txt").read_text()
    assert run.metrics["steps"] == 20


def test_debug_anomaly_names_the_operation_that_made_a_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "broken.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, n):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(n, 10)\n"
        "    def forward(self, x):\n"
        "        return torch.sqrt(self.layer(x.flatten(1)) * 0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["model=custom", "model._target_=broken.Net", "model.n=64"]
    with pytest.raises(RuntimeError, match="MulBackward0"), pytest.warns(UserWarning, match="MulBackward0"):
        plainloop.train([*words, "debug=anomaly"])


# --- every group can be swapped alone -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["model=linear"],
        ["model=cnn"],
        ["model=mine"],
        ["model=mlp", "model.norm=batch", "model.activation=gelu"],
        ["optimizer=sgd"],
        ["optimizer=adamw"],
        ["scheduler=step"],
        ["scheduler=cosine"],
        ["scheduler=one_cycle"],
        ["scheduler=plateau"],
        ["scheduler=cosine", "schedule.warmup_steps=5"],
        ["scheduler=none"],
        ["metrics=none", "monitor=val/loss"],
        ["data=breast_cancer"],
        ["data=penguins"],
        ["data=penguins", "loss=l1"],
        ["data=mine"],
        ["task=mine"],
        ["trainer.precision=bf16"],
        ["trainer.accumulate_steps=2"],
        ["trainer.max_grad_norm=1"],
        ["early_stopping.patience=1"],
        ["transforms.normalize=none"],
        ["loader.drop_last=true"],
        ["transforms.normalize={mean: 0.1, std: 0.2}"],
        ["trainer.deterministic=true"],
    ],
    ids=" ".join,
)
def test_every_swap_trains_and_is_reproduced_by_evaluate(words):
    run = trained("trainer.max_epochs=2", *words)
    assert run.metrics["test/loss"] == plainloop.evaluate(run.path)["test/loss"]


@pytest.mark.slow
def test_a_torchvision_model_trains_on_grey_images():
    run = trained("model=torchvision", "model.name=resnet18", "trainer.max_steps=3")
    assert run.model.conv1.in_channels == 1
    assert run.model.fc.out_features == 10
