"""The mean of the weights at epochs' ends against the same by hand and by torch's own; the moving average is in
test_resume.py."""

import copy
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

import plainloop
from plainloop.assembly.assemble import assemble
from plainloop.assembly.trainer import make_trainer
from plainloop.config.compose import compose
from plainloop.errors import UserError
from plainloop.runs import checkpoint
from plainloop.training.averaging import SWA
from plainloop.training.callbacks import Callback
from plainloop.training.trainer import Trainer
from tests.promises.resume.runs import NONE, TWO
from tests.resuming import differences, newest, unequal

CNN = ["model=cnn", "model.channels=[4,8]", "trainer.limit_batches=6", "optimizer.lr=0.01"]
MLP = ["model.norm=batch", "model.dropout=0.5", "trainer.limit_batches=6", "optimizer.lr=0.01"]
IMAGES = ["data=custom", "data._target_=tests.promises.resume.runs.Images", "loader.batch_size=16"]
STREAM = ["data=custom", "data._target_=tests.promises.resume.runs.Remembering", "loader.batch_size=6",
          "model.norm=batch", "model.hidden_sizes=[8]"]  # fmt: skip
MEANS = ["trainer.swa_start=2", "trainer.max_epochs=4", "trainer.log_every=3", "logger=none"]


class AtEnds(Callback):
    """Calls a function with the trainer at the end of every epoch."""

    def __init__(self, function: Callable[[Trainer], None]):
        self.function = function

    def on_epoch_end(self, trainer: Trainer, record: dict[str, Any]) -> None:
        self.function(trainer)


def trainer_for(*words: str) -> Trainer:
    return make_trainer(assemble(compose([*MEANS, *words])))


@pytest.mark.parametrize("words", [CNN, MLP], ids=["cnn", "mlp"])
def test_it_is_the_mean_by_hand_and_torchs_own(words):
    """Weights in float64; BatchNorm's statistics as update_bn measures them, on the last epoch's batches and without
    dropout, which has no place in them."""
    trainer = trainer_for(*words)
    ends: list[dict[str, Tensor]] = []
    theirs = AveragedModel(trainer.model)

    def at_end(trainer: Trainer) -> None:  # the epoch's number has moved on
        if trainer.epoch >= 2:
            ends.append({name: weight.detach().double() for name, weight in trainer.model.named_parameters()})
            theirs.update_parameters(trainer.model)

    trainer.callbacks["ends"] = AtEnds(at_end)
    trainer.fit()
    assert len(ends) == 3 == trainer.average.count
    for name, weight in trainer.average.model.named_parameters():
        mean = torch.stack([end[name] for end in ends]).mean(0)
        torch.testing.assert_close(weight.double(), mean, rtol=1e-5, atol=1e-7)
        assert not torch.allclose(weight, trainer.model.get_parameter(name), atol=1e-4)

    for module in theirs.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    update_bn((trainer.preprocess(inputs) for inputs, _ in trainer.train_batches.epoch(3)), theirs)
    expected = theirs.module.state_dict()
    assert any(name.endswith("running_var") for name in expected)
    for name, tensor in trainer.average.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("trainable", "measured"), [("head", set()), ("^features[.][45]|head", {"features.5"})])
def test_frozen_statistics_are_left_alone(trainable, measured):
    """Those of what isn't trained; where that is all of them, there is nothing to measure."""
    trainer = trainer_for(*CNN, f"finetune.trainable='{trainable}'")
    average = trainer.average
    before, passes, see = copy.deepcopy(trainer.model.state_dict()), [], average._see_training_split
    average._see_training_split = lambda trainer: passes.append(trainer.epoch) or see(trainer)
    trainer.fit()
    after = trainer.average.model.state_dict()
    statistics = [name for name in after if "running" in name]
    changed = {name.rpartition(".")[0] for name in statistics if not torch.equal(after[name], before[name])}
    assert len(statistics) == 4
    assert changed == measured
    assert len(passes) == (3 if measured else 0)


def test_training_is_the_same_without_it():
    one, other = trainer_for(*CNN), trainer_for(*CNN, "trainer.swa_start=null")
    for trainer in (one, other):
        trainer.fit()
    assert other.average.chosen is None
    for name in ("model", "optimizer"):
        assert unequal(getattr(one, name).state_dict(), getattr(other, name).state_dict()) == []


@pytest.mark.slow
def test_it_is_validated_selected_and_evaluated():
    run = plainloop.train([*CNN, *MEANS, "monitor=val/loss"])
    assert run.metrics["best/epoch"] >= 2
    best = checkpoint.load(run.path / "checkpoints/best.pt")
    loaded = plainloop.load_run(run.path)
    assert unequal(dict(loaded.model.state_dict()), dict(best["average"]["model"])) == []
    assert unequal(dict(best["model"]), dict(best["average"]["model"])) != []
    for split in ("val", "test"):
        found = plainloop.evaluate(run.path, split=split)
        assert found[f"{split}/loss"] == run.metrics[f"{split}/loss"]
        assert found[f"{split}/accuracy"] == run.metrics[f"{split}/accuracy"]

    ends = [record["val/loss"] for record in run.history() if "val/loss" in record]
    assert len(ends) == 4
    assert plainloop.evaluate(run.path, split="val", checkpoint="last")["val/loss"] == ends[-1]
    last = newest(run.path)
    assert ends[-1] == pytest.approx(by_hand(run, last["average"]["model"]), rel=1e-5)
    assert ends[-1] != pytest.approx(by_hand(run, last["model"]), rel=1e-3)


def by_hand(run: plainloop.Run, weights: dict[str, Tensor]) -> float:
    """The loss over the six batches of the validation split."""
    model = copy.deepcopy(run.model)
    model.load_state_dict(weights)
    model.eval()
    batches = list(run.session.loader("val"))
    with torch.no_grad():
        losses = [
            nn.functional.cross_entropy(model(run.preprocess(inputs)), targets, reduction="sum")
            for inputs, targets in batches
        ]
    return float(sum(losses)) / sum(len(targets) for _, targets in batches)


# --- interrupted -------------------------------------------------------------------------------------------------


def in_validation(self: Trainer) -> dict[str, float]:
    """Right after the averaging."""
    if self.epoch == 2:
        self.signal = signal.SIGTERM
    return VALIDATE(self)


def in_the_pass(self: SWA, trainer: Trainer) -> bool:
    """When some of the training split has been seen for the second average, by statistics that have been reset."""
    batches = trainer.train_batches.epoch

    def interrupted(number: int) -> Iterator[Any]:
        for place, batch in enumerate(batches(number)):
            if place == 3:
                trainer.signal = signal.SIGTERM
            yield batch

    if trainer.epoch == 2:
        trainer.train_batches.epoch = interrupted  # type: ignore[method-assign]
    return SEE(self, trainer)


VALIDATE, SEE = Trainer.validate, SWA._see_training_split


@pytest.mark.slow
@pytest.mark.parametrize("words", [[*CNN, "transforms.crop=1"], STREAM], ids=["in memory", "stream"])
@pytest.mark.parametrize("where", [in_validation, in_the_pass], ids=lambda function: function.__name__)
def test_an_interruption_counts_once_and_changes_nothing(where, words, monkeypatch, tmp_path: Path):
    """A stream that knows its own position goes on from training's, and not from the pass's."""
    undisturbed = plainloop.train([*words, *MEANS, f"hydra.run.dir={tmp_path}/whole"])
    held, name = (Trainer, "validate") if where is in_validation else (SWA, "_see_training_split")
    with monkeypatch.context() as patched:
        patched.setattr(held, name, where)
        with pytest.raises(KeyboardInterrupt, match="stopped by a signal and saved"):
            plainloop.train([*words, *MEANS, "checkpoint.keep=9", f"hydra.run.dir={tmp_path}/stopped"])
    state = newest(tmp_path / "stopped")
    assert state["position"]["epoch"] == 2
    assert state["average"]["count"] == (2 if where is in_validation else 1)
    if where is in_the_pass:  # what the checkpoint holds can be evaluated: the average as it was, whole
        steps = state["position"]["step"] // 3
        earlier = checkpoint.load(tmp_path / f"stopped/checkpoints/step-{2 * steps}.pt")
        assert unequal(dict(state["average"]), dict(earlier["average"])) == []
    run = plainloop.train([f"resume={tmp_path}/stopped"])
    assert newest(run.path)["average"]["count"] == 3
    keep = [file for file in differences(undisturbed.path, run.path) if not file.startswith("files")]
    assert keep == []


@pytest.mark.slow
def test_the_number_of_workers_does_not_matter():
    """With what is random about a sample, and about a batch on the device."""
    words = [*IMAGES, "model=cnn", "model.channels=[4]", "transforms.flip=true", "transforms.crop=1", *MEANS]
    one, other = (plainloop.train([*words, *workers]) for workers in (TWO, NONE))
    assert newest(one.path)["average"]["count"] == 3
    assert differences(one.path, other.path) == []


def test_what_training_skips_leaves_no_traces():
    """An image full of NaN: the step is left out, and the statistics are those of the other batches."""
    words = [*IMAGES, "data.poisoned=25", "model=cnn", "model.channels=[4]", "trainer.nonfinite=skip"]
    trainer = trainer_for(*words)
    trainer.fit()
    assert int(trainer.update.skipped) == 4
    assert trainer.average.count == 3
    for name, tensor in trainer.average.model.state_dict().items():
        assert tensor.isfinite().all(), name
        if name.endswith("num_batches_tracked"):
            assert tensor == len(trainer.train_batches) - 1


# --- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trainer.ema_decay=0.99"], ["trainer.ema_decay", "trainer.swa_start", "one of them"]),
        (["trainer.max_epochs=1"], ["trainer.swa_start=2", "trainer.max_epochs=1"]),
        (["trainer.max_steps=79"], ["trainer.swa_start=2", "trainer.max_steps=79"]),  # of 40 in each epoch
        (["trainer.swa_start=0"], ["trainer.swa_start=0"]),
    ],
    ids=lambda value: value[0],
)
def test_what_averages_nothing_is_refused(words, said, tmp_path: Path):
    with pytest.raises(UserError) as error:
        plainloop.train([*MEANS, *words])
    assert all(word in str(error.value) for word in said), error.value
    assert not (tmp_path / "outputs").exists()


def test_a_run_that_just_reaches_it_is_not():
    run = plainloop.train([*MEANS, "trainer.max_steps=80"])
    assert newest(run.path)["average"]["count"] == 1
    assert "debug" in str(plainloop.train(["debug=fast", "trainer.swa_start=20"]).path)
    assert json.loads((run.path / "metrics.json").read_text())["steps"] == 80
