"""Steps that aren't finite: left out, or the end of the run."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from plainloop.errors import MachineError
from plainloop.training.trainer import Trainer
from tests.conftest import one_in
from tests.promises.resume.runs import ROUGH, Net, fitted, own, trainers
from tests.resuming import records, unequal


class Exploding(torch.autograd.Function):
    """The identity, whose gradient is infinite where an image is brighter than 50."""

    @staticmethod
    def forward(context: Any, outputs: Tensor, images: Tensor, limit: float) -> Tensor:
        context.save_for_backward(images.flatten(1).amax(1) > limit)
        return outputs.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (bright,) = context.saved_tensors
        return torch.where(bright.unsqueeze(1), torch.inf, gradient), None, None


class Fragile(Net):
    """Its loss is always finite, its gradient isn't."""

    def __init__(self, norm: bool = False, limit: float = 50.0):
        super().__init__(norm, dropout=0.0)
        self.limit = limit

    def forward(self, images: Tensor) -> Tensor:
        return Exploding.apply(super().forward(images), images, self.limit)


POISON = {
    "inputs": ["data.poisoned=25", "model.norm=false"],
    "gradient": ["data.poisoned=25", "data.poison=100", *own(model=Fragile)],
}


def poisoned_steps(trainer: Trainer, epochs: int, index: int = 25) -> list[int]:
    """The steps (from 1) whose batch holds this sample, by the order of the epochs."""
    per_epoch, size = len(trainer.train_batches), trainer.train_batches.batch_size
    places = [(trainer.train_batches.source.order(epoch) == index).nonzero().item() for epoch in range(epochs)]
    return [epoch * per_epoch + place // size + 1 for epoch, place in enumerate(places)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "optimizer"),
    one_in(
        3, [("inputs", "adam"), ("gradient", "sgd optimizer.momentum=0.9"), ("gradient", "adam optimizer.fused=false")]
    ),
)
def test_a_skipped_step_leaves_everything_as_it_was(what, optimizer):
    """Weights and the optimizer's state; all other steps are taken, and the count stands in the history."""
    words = [*POISON[what], "trainer.nonfinite=skip", *f"optimizer={optimizer}".split(), "trainer.max_epochs=4"]
    seen: list[dict[str, Any]] = []
    trainer = trainers(*words, "trainer.max_grad_norm=5", "trainer.log_every=2")(log=seen.append)
    expected = poisoned_steps(trainer, 4)
    step, skipped = trainer.train_step, []

    def watched_step(window: Any, logging: bool) -> Any:
        before = copy.deepcopy([trainer.model.state_dict(), trainer.optimizer.state_dict()])
        result = step(window, logging)
        if unequal(before, [trainer.model.state_dict(), trainer.optimizer.state_dict()]) == []:
            skipped.append(trainer.step + 1)
        return result

    trainer.train_step = watched_step
    trainer.fit()
    assert skipped == expected
    assert trainer.step == 20
    points = [record for record in seen if "skipped_steps" in record]
    assert [record["step"] for record in points] == list(range(2, 21, 2))
    for record in points:
        assert record["skipped_steps"] == sum(number <= record["step"] for number in expected)
    assert all(math.isfinite(record["train/epoch_loss"]) for record in seen if "train/epoch_loss" in record)
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_a_skipped_step_does_not_change_what_the_others_do():
    """With nothing to skip, the bits are those of a run that would stop."""
    skip, stop = (fitted(trainers(f"trainer.nonfinite={policy}")).trainer for policy in ("skip", "stop"))
    for name in ("model", "optimizer", "schedule"):
        assert unequal(getattr(skip, name).state_dict(), getattr(stop, name).state_dict()) == []


@pytest.mark.parametrize(
    ("what", "every"), one_in(2, [("inputs", 1), ("gradient", 1), ("gradient", 50), ("inputs", 3)])
)
def test_a_single_skipped_step_never_ends_a_run(what, every):
    """Wherever it stands in an epoch or a log window, also alone in one."""
    for index in (7, 25):  # of 7 the second step is alone behind an epoch's end, where there is a log point every 3
        words = [*POISON[what], f"data.poisoned={index}", "trainer.nonfinite=skip", f"trainer.log_every={every}"]
        trainer = trainers(*words, "trainer.max_epochs=3")()
        trainer.fit()
        assert trainer.epoch == 3
        assert int(trainer.update.skipped) == 3


def test_batch_norms_statistics_survive_a_skipped_step():
    """What goes forward through a network leaves its traces in the statistics, which a skipped step must take back."""
    saved: list[dict[str, Any]] = []
    words = [*POISON["inputs"], "model.norm=true", "trainer.nonfinite=skip", "trainer.ema_decay=0.9"]
    trainer = trainers(*words)(save=lambda state, best: saved.append(copy.deepcopy(state)), due=lambda *_: True)
    trainer.fit()
    assert trainer.step == 10
    assert len(saved) >= 10
    for state in saved:
        for weights in (state["model"], state["average"]["model"]):
            assert all(tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.parametrize(
    "words",
    [
        ["model.norm=false", "optimizer=sgd", "optimizer.lr=1e30"],  # the first step is taken, and no other after it
        [*own(model=Fragile), "model.limit=-1e9"],  # no step is, and the losses look well
        [*own(model=Fragile), "model.limit=-1e9", "trainer.log_every=50", "trainer.max_epochs=2"],  # no log point
    ],
    ids=str,
)
def test_a_run_that_skips_everything_ends_with_an_error(words):
    trainer = trainers("trainer.max_epochs=40", "trainer.nonfinite=skip", *words)()
    with pytest.raises(MachineError, match=r"skipped|finite"):
        trainer.fit()
    assert trainer.epoch < 20


@pytest.mark.parametrize(
    ("what", "optimizer"), [("inputs", "sgd"), ("gradient", "adam"), ("gradient", "sgd"), ("norm", "adam")]
)
def test_a_run_that_stops_saves_nothing_poisoned(what, optimizer):
    """It ends at the latest at the log point behind the poisoned step, or before something is saved."""
    words = {**POISON, "norm": [*POISON["inputs"], "model.norm=true"]}[what]
    for saves in (True, False):
        saved: list[dict[str, Any]] = []
        trainer = trainers(*words, f"optimizer={optimizer}", "trainer.ema_decay=0.9", "trainer.log_every=4")(
            save=lambda state, best, saved=saved: saved.append(copy.deepcopy(state)),
            due=lambda trainer, ended, saves=saves: saves,
        )
        (step,) = poisoned_steps(trainer, 1)
        with pytest.raises(MachineError, match=rf"(NaN|nan|inf).*step {step if saves else -(-step // 4) * 4}\b"):
            trainer.fit()
        assert len(saved) == (step - 1 if saves else 0)
        for state in saved:
            parts = [state["model"], state["average"]["model"], *state["optimizer"]["state"].values()]
            assert all(
                tensor.isfinite().all() for part in parts for tensor in part.values() if isinstance(tensor, Tensor)
            )


def test_the_count_that_gives_a_run_up_goes_on():
    """A run that skips everything comes to the same end when it is interrupted; without the count it would go on."""
    make = trainers(*own(model=Fragile), "model.limit=-1e9", "trainer.nonfinite=skip", "trainer.max_epochs=40")

    def ends(state: dict[str, Any] | None) -> tuple[int, list[dict[str, Any]]]:
        saved: list[dict[str, Any]] = []
        trainer = make(save=lambda state, best: saved.append(copy.deepcopy(state)), due=lambda *_: True)
        if state is not None:
            trainer.load_state_dict(state)
        with pytest.raises(MachineError, match="skipped"):
            trainer.fit()
        return trainer.step, saved

    end, saved = ends(None)
    assert ends(copy.deepcopy(saved[-1]))[0] == end
    assert ends({**saved[-1], "update": make().update.state_dict()})[0] > end


def test_a_run_that_has_skipped_steps_says_so_in_its_history(uninterrupted):
    points = [record for record in records(uninterrupted("rough").path) if "train/loss" in record]
    make = trainers(*(word for word in ROUGH if word != "logger=none"))
    steps = poisoned_steps(make(), 5)
    assert [record["skipped_steps"] for record in points] == [
        sum(number <= record["step"] for number in steps) for record in points
    ]
