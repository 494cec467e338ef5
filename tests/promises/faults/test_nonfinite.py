"""Numbers that aren't finite end a run, are never saved, and are never the best."""

import itertools
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn

import plainloop
from plainloop.assembly.assemble import assemble
from plainloop.assembly.trainer import make_trainer
from plainloop.config.compose import compose
from plainloop.errors import MachineError
from plainloop.runs import checkpoint
from tests.conftest import path_of
from tests.promises.faults.fragile import FRAGILE, Net, steps

pytestmark = pytest.mark.slow  # plain `pytest` has the catalogue of mistakes, and stays short


def trainer_for(*overrides: str, **hooks: Any):
    """A session and its trainer, without a run directory."""
    words = [word for word in FRAGILE if not word.startswith("name=")]
    session = assemble(compose([*words, *overrides]))
    return session, make_trainer(session, **hooks)


POISONS = ("loss nan", "loss inf", "loss -inf", "gradient inf", "gradient -inf", "gradient nan", "elsewhere inf",
           "elsewhere nan")  # fmt: skip
HOWS = ("trainer.max_grad_norm=1", "trainer.accumulate_steps=2", "optimizer=sgd", "optimizer=adamw",
        "trainer.ema_decay=0.9")  # fmt: skip
POISONED = [(poison, at, "") for poison in POISONS for at in (7, 9)]
POISONED += [(poison, 7, how) for poison in ("loss nan", "gradient inf", "elsewhere inf") for how in HOWS]


@pytest.mark.parametrize(("poison", "at", "how"), POISONED)
def test_what_is_not_finite_ends_the_run_by_the_next_log_point_or_epoch(poison, at, how):
    """In one step alone, between log points and at one (every three steps); no validation, no save comes first. What
    only a weight shows that no other step uses is seen when the epoch of five steps ends."""
    words = [f"model.poison={poison}", f"model.at={at}", "trainer.validate_every=0", "trainer.max_epochs=9"]
    if "accumulate" in how:  # five batches an epoch are three steps, and batch 11 is in the seventh
        words[1] = "model.at=11"
    _, trainer = trainer_for(*words, *how.split())
    with pytest.raises(MachineError, match=r"optimizer\.lr.*trainer\.max_grad_norm"):
        trainer.fit()
    hidden = "elsewhere" in poison and at == 7 and "accumulate" not in how
    assert trainer.step == (10 if hidden else 9)


@pytest.mark.parametrize("poison", ["loss nan", "gradient inf", "gradient nan", "elsewhere inf"])
def test_what_is_not_finite_is_never_saved(poison):
    """Where a checkpoint is due after each step, the step that poisoned the weights is the first without one."""
    saved = []
    _, trainer = trainer_for(
        f"model.poison={poison}",
        "model.at=7",
        "trainer.log_every=100",
        save=lambda state, best: saved.append((state["position"]["step"], best)),
        due=lambda trainer, ended: True,
    )
    with pytest.raises(MachineError, match="the weights hold NaN or infinity at step 7 and aren't saved"):
        trainer.fit()
    assert [step for step, _ in saved] == [1, 2, 3, 4, 5, 5, 6]  # the fifth ends an epoch
    assert [step for step, best in saved if best] == [5]


@pytest.mark.parametrize("poison", ["loss nan", "gradient inf", "gradient nan"])
def test_a_step_that_is_not_finite_is_left_out_where_that_is_wanted(poison):
    """trainer.nonfinite=skip: the weights are those of a loop that leaves this step out, and it is counted."""
    records = []
    session, trainer = trainer_for(
        f"model.poison={poison}",
        "model.at=7",
        "trainer.nonfinite=skip",
        "trainer.validate_every=0",
        log=records.append,
    )
    model = Net()
    model.load_state_dict(session.model.state_dict())
    trainer.fit()
    optimizer = torch.optim.Adam([model.layer.weight, model.layer.bias], lr=trainer.schedule.rate(), fused=True)
    batches = itertools.chain.from_iterable(trainer.train_batches.epoch(number) for number in range(3))
    for step, (inputs, targets) in enumerate(batches, 1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        if step != 7:
            optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, session.model.state_dict()[name])
    points = [record for record in records if "train/loss" in record]
    assert [record["skipped_steps"] for record in points] == [0, 0, 1, 1, 1]  # at steps 3, 6, 9, 12, 15
    assert all(numpy.isfinite(record["train/loss"]) for record in points)


class Sometimes(plainloop.tasks.Accuracy):
    """A half in the first validation, and half of that in each that follows, but NaN in those of `nan`."""

    def __init__(self, nan: list[int]):
        self.nan, self.computed = nan, 0
        super().__init__()

    def compute(self):
        self.computed += 1
        return torch.tensor(torch.nan if self.computed in self.nan else 0.5**self.computed)


@pytest.mark.parametrize(("nan", "best"), [([1], 2), ([1, 2], 3), ([2], 1), ([2, 3], 1), ([1, 2, 3], None)])
def test_a_metric_that_is_nan_is_never_best(nan, best, tmp_path):
    """Though its epoch is saved as the last one is, and though it comes first."""
    words = [f"metrics.some._target_={path_of(Sometimes)}", f"metrics.some.nan={nan}".replace(" ", "")]
    run = plainloop.train([*FRAGILE, *words, "monitor=val/some", "trainer.log_every=50", "checkpoint.keep=9"])
    values = [record["val/some"] for record in run.history()]
    assert values == [None if number in nan else 0.5**number for number in (1, 2, 3)]
    assert steps(run.path) == ["step-10.pt", "step-15.pt", "step-5.pt"]
    path = run.path / "checkpoints/best.pt"
    assert path.exists() == (best is not None)
    if best is not None:
        assert checkpoint.load(path)["position"]["step"] == 5 * best
        assert run.metrics["best/epoch"] == best


def test_a_validation_that_is_nan_is_never_best(tmp_path):
    """The outputs are NaN from the second epoch on."""
    Path("trap").write_text("validation nan")
    run = plainloop.train([*FRAGILE, "trainer.max_epochs=2"])
    assert [record["val/loss"] is None for record in run.history() if "val/loss" in record] == [False, True]
    assert run.metrics["best/epoch"] == 1
    assert checkpoint.load(run.path / "checkpoints/best.pt")["position"]["epoch"] == 1
