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
from plainloop.training.randomness import may_draw, no_seed, somebody_elses

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


def test_hooks_may_draw():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters())
    assert not may_draw([model, optimizer])
    hook = model[0].register_forward_hook(lambda module, inputs, outputs: outputs + torch.rand(()))
    assert may_draw([model])
    hook.remove()
    assert not may_draw([model])
    optimizer.register_step_pre_hook(lambda *_: None)
    assert may_draw([optimizer])
    model[1].forward = lambda inputs: inputs[:, :2]
    assert may_draw([model])


def test_what_somebody_else_wrote_may_draw_from_numpy_too():
    """Dropout draws from torch alone, and seeding all three generators would be in vain."""
    assert not somebody_elses([nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))])
    assert somebody_elses([nn.Sequential(nn.Linear(2, 2), Stranger())])
    assert somebody_elses([Noisy([torch.zeros(1, requires_grad=True)])])


class Stranger(nn.Module):
    """The user's own."""


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
