"""Trainers alone, without a run directory, interrupted everywhere; and those of the user's own."""

import copy
import random
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import plainloop
from plainloop.errors import UserError
from plainloop.training.trainer import Trainer
from tests.conftest import one_in, path_of
from tests.promises.resume.runs import RUNS, Images, Net, Scaled, fitted, own, trainers
from tests.resuming import newest, resumed, unequal


@pytest.mark.slow
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "words",
    one_in(
        2,
        [
            ["scheduler=step", "scheduler.step_size=1", "optimizer=sgd", "optimizer.momentum=0.9"],
            ["scheduler=cosine", "schedule.warmup_steps=3", "optimizer=adamw", "optimizer.amsgrad=true"],
            ["scheduler=plateau", "scheduler.patience=0", "early_stopping.patience=2", "early_stopping.min_delta=9"],
            ["trainer.validate_every=3s", "trainer.ema_decay=0.5", "trainer.max_steps=8"],
            ["trainer.validate_every=0", "trainer.stop_below=0.9"],
            ["trainer.accumulate_steps=3", "loader.drop_last=true", "loader.batch_size=7", "trainer.precision=bf16"],
            ["trainer.nonfinite=skip", "data.poisoned=9", "model.norm=false", "trainer.log_every=1"],
            ["trainer.limit_batches=2", "loader.shuffle=false", "loss=custom", f"loss._target_={path_of(Scaled)}"],
        ],
    ),
    ids=" ".join,
)
def test_a_trainer_goes_on_from_its_states(words, every):
    make = trainers(*words)
    whole = fitted(make)
    wrong = {}
    for number, (state, before) in list(enumerate(whole.states))[2::every] if every > 1 else enumerate(whole.states):
        wrong[number] = whole.differences(fitted(make, state), before)
    assert {number: found for number, found in wrong.items() if found} == {}
    assert len(whole.states) > whole.trainer.step


@pytest.mark.slow
def test_a_gradient_scaler_goes_on():
    """Half precision on the CPU, which is refused on the command line (it is slow), has one too."""

    def half(session: Any) -> None:
        session.config.trainer.precision = "fp16"

    make = trainers(prepare=half)
    whole = fitted(make)
    state, before = next(saved for saved in whole.states if saved[0]["position"]["step"] == 9)
    assert whole.differences(fitted(make, state), before) == []
    fresh = {**state, "update": make().update.state_dict()}
    assert whole.differences(fitted(make, fresh), before) != []


class Centred(nn.Module):
    """A preprocessing with a state that moves: the running mean of what it has seen in training."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.mean.lerp_(inputs.mean(), 0.3)
        return inputs - self.mean


def test_a_preprocessing_with_a_state_goes_on():
    def centred(session: Any) -> None:
        session.prepare.preprocess = Centred()

    make = trainers(prepare=centred)
    whole = fitted(make)
    state, before = whole.states[4]
    assert whole.differences(fitted(make, state), before) == []
    fresh = {**state, "preprocess": make().prepare.preprocess.state_dict()}
    assert whole.differences(fitted(make, fresh), before) != []


@pytest.mark.slow
def test_the_statistics_of_the_old_data_stay(uninterrupted, tmp_path, monkeypatch):
    """Where the data has changed and the user goes on all the same, the inputs are still measured by the old."""
    run = uninterrupted("smooth").interrupted(7, tmp_path)
    getitem = Images.__getitem__
    monkeypatch.setattr(Images, "__getitem__", lambda self, index: (3 * getitem(self, index)[0], self.targets[index]))
    with pytest.raises(UserError, match=r"the content of split train has changed.*\n.*resume_inexact=true"):
        resumed(run)
    before = newest(run)["preprocess"]
    resumed(run, "resume_inexact=true")
    assert unequal(newest(run)["preprocess"], before) == []
    assert plainloop.load_run(run).preprocess.scale.equal(before["scale"])


@pytest.mark.slow
def test_what_was_accepted_is_not_asked_again(uninterrupted, tmp_path, monkeypatch, capsys):
    """The content of the data is compared with what the checkpoint was trained on, which is the new one by now."""
    words = [word for word in RUNS["short"] if not word.startswith("scheduler")]
    run = plainloop.train([*words, f"hydra.run.dir={tmp_path}/run"]).path
    getitem = Images.__getitem__
    monkeypatch.setattr(Images, "__getitem__", lambda self, index: (3 * getitem(self, index)[0], self.targets[index]))
    longer = "trainer.max_steps=10"
    with pytest.raises(UserError, match="the content of split train has changed"):
        resumed(run, longer)
    resumed(run, longer, "resume_inexact=true")
    resumed(run, "trainer.max_steps=12")
    assert newest(run)["position"]["step"] == 12
    monkeypatch.undo()
    with pytest.raises(UserError, match="the content of split train has changed"):
        resumed(run, "trainer.max_steps=14")
    capsys.readouterr()
    plainloop.train([f"extend={run}", "trainer.max_steps=1", f"hydra.run.dir={tmp_path}/extended"])
    assert f"the content of split train isn't what {run} was trained on" in capsys.readouterr().out


class TwoOptimizers(Trainer):
    """A trainer with something of its own that learns: it says what must be remembered of it."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.other = nn.Linear(64, 1)
        self.other_optimizer = torch.optim.Adam(self.other.parameters(), lr=0.01)

    def train_step(self, window: Any, logging: bool) -> Any:
        loss = (self.other(window[0][0].flatten(1)) - window[0][1]).square().mean()
        self.other_optimizer.zero_grad()
        loss.backward()
        self.other_optimizer.step()
        return super().train_step(window, logging)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "other": [self.other.state_dict(), self.other_optimizer.state_dict()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.other.load_state_dict(state["other"][0])
        self.other_optimizer.load_state_dict(state["other"][1])


def test_a_trainer_of_ones_own_adds_to_the_state():
    make = trainers(f"trainer._target_={path_of(TwoOptimizers)}", "trainer.max_epochs=1")
    whole = fitted(make)
    state, before = whole.states[2]
    assert whole.differences(fitted(make, state), before) == []


class Mixing(Trainer):
    """A step that draws from NumPy's and Python's generators."""

    def train_step(self, window: Any, logging: bool) -> Any:
        share = float(numpy.random.beta(1, 1)) * random.random()
        return super().train_step([(share * images, targets) for images, targets in window], logging)


@pytest.mark.slow
def test_a_step_of_ones_own_may_draw_from_any_library():
    make = trainers(f"trainer._target_={path_of(Mixing)}")
    whole = fitted(make)
    numpy.random.seed(5), random.seed(5)
    assert whole.differences(fitted(make)) == []
    for state, before in whole.states[1::6]:
        numpy.random.seed(6), random.seed(6)
        assert whole.differences(fitted(make, state), before) == []


class Sampling(Net):
    """It draws in eval mode too, as a variational autoencoder does."""

    def forward(self, images: Tensor) -> Tensor:
        outputs = super().forward(images)
        return outputs + torch.randn_like(outputs)


@pytest.mark.slow
def test_what_a_model_draws_when_it_is_measured_is_the_same_every_time(tmp_path):
    make = trainers(f"model._target_={path_of(Sampling)}")
    whole = fitted(make)
    torch.manual_seed(5)
    assert whole.differences(fitted(make)) == []
    for state, before in whole.states[1::6]:
        assert whole.differences(fitted(make, state), before) == []
    words = [
        *own(data=Images, model=Sampling),
        "logger=none",
        "trainer.max_epochs=1",
        f"hydra.run.dir={tmp_path}/run",
    ]
    run = plainloop.train(words)
    assert plainloop.evaluate(run.path, split="val")["val/loss"] == run.metrics["val/loss"]


@pytest.mark.parametrize(
    ("words", "step"),
    one_in(
        2,
        [
            (["trainer.max_steps=7"], 7),  # the one at the run's end, within an epoch
            (["trainer.validate_every=3s"], 3),
            (
                ["trainer.validate_every=3s", "early_stopping.patience=1", "early_stopping.min_delta=9"],
                6,
            ),  # it stops here
            (["trainer.validate_every=1"], 5),
            (["trainer.validate_every=1"], 10),
            (["trainer.validate_every=5s"], 5),
        ],
    ),
    ids=str,
)
def test_a_validation_that_a_signal_interrupts_is_made_again(words, step):
    """At every place where there can be one."""
    make = trainers(*words)
    whole = fitted(make)
    states: list[tuple[dict[str, Any], int]] = []
    seen: list[dict[str, Any]] = []
    trainer = make(log=seen.append, save=lambda state, best: states.append((copy.deepcopy(state), len(seen))))
    validate = trainer.validate

    def interrupted() -> dict[str, float]:
        trainer.signal = 15 if trainer.step == step else None
        return validate()

    trainer.validate = interrupted
    with pytest.raises(KeyboardInterrupt, match=f"saved at step {step}"):
        trainer.fit()
    state, before = states[-1]
    assert whole.differences(fitted(make, state), before) == []
