"""Where nothing draws, no generator is seeded: that nothing draws must be true."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from plainloop.assembly.assemble import assemble
from plainloop.assembly.trainer import make_trainer
from plainloop.config.compose import compose
from plainloop.seeding import StepSeed
from plainloop.training.callbacks import Callback
from plainloop.training.randomness import may_draw, no_seed

QUIET = {
    "mlp": ["model=mlp", "model.norm=batch"],
    "linear": ["model=linear"],
    "by hand": ["model=manual_linear"],
    "series": ["data=fake", "data.size=8", "model=autoencoder", "task=reconstruction"],
    "table": ["data=penguins", "model=tabular", "data.categories=embed"],
}


@pytest.mark.parametrize("words", QUIET.values(), ids=QUIET)
def test_what_is_held_to_be_quiet_draws_nothing(words):
    trainer = make_trainer(assemble(compose([*words, "trainer.max_epochs=1", "trainer.limit_batches=3"])))
    assert trainer.seed_step is no_seed
    steps, moved = trainer.train_step, []

    def watched(window, logging):
        before = torch.get_rng_state()
        result = steps(window, logging)
        moved.append(not torch.get_rng_state().equal(before))
        return result

    trainer.train_step = watched
    trainer.fit()
    assert moved
    assert not any(moved)


@pytest.mark.parametrize(
    "words",
    [
        ["model=mlp", "model.dropout=0.1"],
        ["model=cnn", "transforms.flip=true"],
        ["data=one_string", "task=sequence_labelling", "model=char_transformer", "model.dropout=0.1"],
        ["data=mine", "model=mine"],  # the user's own: nobody knows
        ["scheduler=lambda", "scheduler.lr_lambda=tests.plainloop.training.test_randomness.rate"],
        ["metrics.own._target_=tests.plainloop.training.test_randomness.Own"],
        ["callbacks.own._target_=tests.plainloop.training.test_randomness.Shakes"],
    ],
    ids=lambda words: words[-1],
)
def test_whatever_may_draw_is_seeded(words):
    trust = ["trust=[tests.plainloop.training.test_randomness.rate]"] if "scheduler=lambda" in words else []
    trainer = make_trainer(assemble(compose([*words, *trust])))
    assert isinstance(trainer.seed_step, StepSeed)


def test_layers():
    quiet = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.GELU(), nn.MaxPool2d(2), nn.GRU(2, 3))
    assert not may_draw([quiet, torch.optim.Adam(quiet.parameters())])
    for drawing in (nn.Dropout(0.5), nn.RReLU(), nn.FractionalMaxPool2d(2, 1), nn.LSTM(2, 3, 2, dropout=0.1)):
        assert may_draw([nn.Sequential(quiet, drawing)]), drawing
    assert not may_draw([lr_scheduler.StepLR(torch.optim.SGD(quiet.parameters()), 1)])


def test_several_optimizers_are_looked_at_one_by_one():
    words = ["model=mlp", "optimizer=several", "trainer.max_epochs=1"]
    assert make_trainer(assemble(compose(words))).seed_step is no_seed
    words += [f"optimizer.rest._target_={Noisy.__module__}.Noisy"]
    assert isinstance(make_trainer(assemble(compose(words))).seed_step, StepSeed)


class Noisy(torch.optim.SGD):
    """Adds noise to each step."""


def rate(tick: int) -> float:
    return 1.0


class Own:
    """A metric of the user's."""

    higher_is_better = True

    def reset(self) -> None: ...

    def update(self, predictions: torch.Tensor, targets: torch.Tensor) -> None: ...

    def compute(self) -> float:
        return 0.0


class Shakes(Callback):
    """It draws at a log point."""

    def on_log(self, trainer, record):
        torch.rand(1)
