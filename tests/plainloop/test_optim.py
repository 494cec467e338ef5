"""Optimizers are fused unless somebody says otherwise; the learning rate follows torch's own schedulers and closed
forms, step by step over a whole run, with a warm-up in front."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from plainloop import checkpoint
from plainloop.errors import UserError
from plainloop.optim import make_optimizer
from plainloop.schedule import Schedule, make_schedule

CPU, RATE = torch.device("cpu"), 0.5


def weights(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes or ((3, 2), (2,))]


def optimizer_of(name: str = "SGD", parameters: Any = None, device: torch.device = CPU, **arguments: Any):
    node = {"_target_": f"torch.optim.{name}", "lr": 0.1, **arguments}
    return make_optimizer(node, nn.ParameterList(parameters or weights()), device)


# --- optimizers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_fused_where_torch_has_it(name):
    assert optimizer_of(name).param_groups[0]["fused"] is True


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"fused": False}, False),
        ({"fused": None}, None),
        ({"foreach": True}, None),
        ({"foreach": False}, None),
        ({"differentiable": True}, None),
        ({"capturable": True}, None),
        ({"capturable": False, "differentiable": False}, True),
    ],
    ids=str,
)
def test_the_users_choice_of_implementation_is_left_alone(arguments, expected):
    """Whoever names an implementation gets it, fused or not."""
    group = optimizer_of("Adam", **arguments).param_groups[0]
    assert group["fused"] is expected
    assert all(group[name] == value for name, value in arguments.items())


@pytest.mark.parametrize("name", ["RMSprop", "Adadelta", "Rprop"])
def test_optimizers_without_a_fused_kernel_are_built_too(name):
    assert "fused" not in optimizer_of(name).param_groups[0]


def test_nothing_is_fused_where_the_kernel_does_not_reach():
    """Not on other devices than CPU and CUDA, nor for complex numbers."""
    assert not optimizer_of("Adam", device=torch.device("mps")).param_groups[0]["fused"]
    complex_weights = [nn.Parameter(torch.ones(2, dtype=torch.complex64))]
    assert not optimizer_of("Adam", complex_weights).param_groups[0]["fused"]


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_fused_learns_what_the_plain_one_learns(name):
    """The same weights after ten steps, up to rounding."""
    found = []
    for build in (optimizer_of, lambda n, p: getattr(torch.optim, n)(p, lr=0.1, foreach=False)):
        parameters = weights()
        optimizer = build(name, parameters)
        for step in range(10):
            optimizer.zero_grad()
            sum(((parameter - step) ** 2).sum() for parameter in parameters).backward()
            optimizer.step()
        found.append(parameters)
    for fused, plain in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain)


def test_only_what_requires_a_gradient_is_trained():
    frozen, free = weights()
    frozen.requires_grad_(False)
    assert [id(p) for p in optimizer_of("SGD", [frozen, free]).param_groups[0]["params"]] == [id(free)]
    free.requires_grad_(False)
    with pytest.raises(UserError, match="nothing to train"):
        optimizer_of("SGD", [frozen, free])


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "torch.optim.Adam", "learning_rate": 0.1}, "Did you mean lr"),
        ({"_target_": "torch.optim.Adam", "lr": -1}, "Invalid learning rate"),
        ({"_target_": "torch.nn.Linear"}, "is not a torch.optim.Optimizer"),
        ({"_target_": "torch.optim.Adamm"}, "Did you mean Adam"),
    ],
    ids=["misnamed", "negative", "no optimizer", "misspelt"],
)
def test_wrong_optimizers_are_answered(node, message):
    with pytest.raises(UserError, match=message):
        make_optimizer(node, nn.ParameterList(weights()), CPU)


# --- schedules ----------------------------------------------------------------------------------------------

STEPS_PER_EPOCH, EPOCHS = 5, 6
STEPS = STEPS_PER_EPOCH * EPOCHS
# What a validation finds at the end of each epoch: better, then not for long.
LOSSES = [1.0, 0.5, 0.6, 0.7, 0.5, 0.9]

Build = Callable[[torch.optim.Optimizer, int], Any]
BUILD: dict[str, tuple[str, Build]] = {
    "none": ("step", lambda o, n: None),
    "cosine": ("step", lambda o, n: lr_scheduler.CosineAnnealingLR(o, T_max=n, eta_min=0.01)),
    "step": ("step", lambda o, n: lr_scheduler.StepLR(o, step_size=4, gamma=0.1)),
    "milestones": ("step", lambda o, n: lr_scheduler.MultiStepLR(o, milestones=[3, 3, 8], gamma=0.5)),
    "one_cycle": ("step", lambda o, n: lr_scheduler.OneCycleLR(o, max_lr=10 * RATE, total_steps=n)),
    "cosine per epoch": ("epoch", lambda o, n: lr_scheduler.CosineAnnealingLR(o, T_max=n, eta_min=0.01)),
    "step per epoch": ("epoch", lambda o, n: lr_scheduler.StepLR(o, step_size=2, gamma=0.1)),
    "one_cycle per epoch": ("epoch", lambda o, n: lr_scheduler.OneCycleLR(o, max_lr=10 * RATE, total_steps=n)),
    "plateau": ("validation", lambda o, n: lr_scheduler.ReduceLROnPlateau(o, factor=0.1, patience=0)),
}
WARMUPS = [0, 1, 3, STEPS_PER_EPOCH, 7, 2 * STEPS_PER_EPOCH]


def sgd(*rates: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": weights((2,)), "lr": rate} for rate in rates or (RATE,)], lr=1.0)


def length(interval: str, warmup: int) -> int:
    """`spec.schedule_length`: the ticks that are left after the warm-up."""
    return EPOCHS - warmup // STEPS_PER_EPOCH if interval == "epoch" else STEPS - warmup


def run(schedule: Schedule, begin: int = 0, end: int = STEPS) -> Iterator[list[float]]:
    """What the trainer does from one step to another; the rates of all groups that each step is made with."""
    for step in range(begin, end):
        yield [float(group["lr"]) for group in schedule.optimizer.param_groups]
        schedule.optimizer.step()
        schedule.step()
        if (step + 1) % STEPS_PER_EPOCH == 0:
            schedule.end_epoch()
            schedule.end_validation(LOSSES[step // STEPS_PER_EPOCH])


def by_hand(name: str, warmup: int) -> list[float]:
    """The same rates from torch's scheduler alone, ticked by hand: warm-up steps hold it back, then it starts."""
    interval, build = BUILD[name]
    optimizer = sgd()
    scheduler = build(optimizer, length(interval, warmup))
    start = optimizer.param_groups[0]["lr"]
    rates = [start * (step + 1) / (warmup + 1) for step in range(warmup)]
    for step in range(warmup, STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler is None:
            continue
        if interval == "step":
            scheduler.step()
        elif (step + 1) % STEPS_PER_EPOCH == 0:
            scheduler.step(*[LOSSES[step // STEPS_PER_EPOCH]] if interval == "validation" else [])
    return rates


def schedule_of(name: str, warmup: int = 0) -> Schedule:
    interval, build = BUILD[name]
    optimizer = sgd()
    return Schedule(optimizer, build(optimizer, length(interval, warmup)), interval, warmup)


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("name", BUILD)
def test_rates_are_those_of_torchs_own_scheduler(name, warmup):
    """Over a whole run. The ticks are counted from the first step at the full rate: a scheduler never ticks in the
    warm-up, nor at its end before a step was made at the full rate."""
    found = [rates[0] for rates in run(schedule_of(name, warmup))]
    assert found == pytest.approx(by_hand(name, warmup), rel=1e-9)


CLOSED: dict[str, Callable[[int], float]] = {
    "none": lambda tick: RATE,
    "cosine": lambda tick: 0.01 + (RATE - 0.01) * (1 + math.cos(math.pi * tick / STEPS)) / 2,
    "step": lambda tick: RATE * 0.1 ** (tick // 4),
    "cosine per epoch": lambda tick: 0.01 + (RATE - 0.01) * (1 + math.cos(math.pi * (tick // 5) / EPOCHS)) / 2,
    "step per epoch": lambda tick: RATE * 0.1 ** (tick // 5 // 2),
    "plateau": lambda tick: RATE * (1, 1, 1, 0.1, 0.01, 0.001)[tick // 5],  # patience 0: after each that isn't better
}


@pytest.mark.parametrize("name", CLOSED)
def test_rates_are_those_of_the_closed_form(name):
    found = [rates[0] for rates in run(schedule_of(name))]
    assert found == pytest.approx([CLOSED[name](step) for step in range(STEPS)], rel=1e-9)


def test_one_cycle_uses_the_whole_run():
    """From a 25th of the top rate up to it at 30 % of the run, and down to a 250,000th of it at the last step."""
    rates = [rates[0] for rates in run(schedule_of("one_cycle"))]
    assert rates[0] == pytest.approx(10 * RATE / 25)
    assert rates.index(max(rates)) == round(0.3 * STEPS) - 1
    assert max(rates) == pytest.approx(10 * RATE)
    assert rates[-1] == pytest.approx(10 * RATE / 25 / 1e4)


@pytest.mark.parametrize("warmup", [1, 4])
def test_warm_up_is_linear_in_every_group(warmup):
    """(i + 1) / (w + 1) of each group's own rate at step i, all of it from step w on."""
    schedule = Schedule(sgd(0.5, 0.02), None, "step", warmup)
    for step, rates in enumerate(run(schedule, 0, warmup + 3)):
        share = min(1, (step + 1) / (warmup + 1))
        assert rates == pytest.approx([0.5 * share, 0.02 * share], rel=1e-12)
    assert schedule.rate() == 0.5


def test_the_rate_is_that_of_the_next_step():
    """What a log point shows."""
    schedule = schedule_of("step")
    for rates in run(schedule):
        assert schedule.rate() == rates[0]


def test_validations_in_the_warm_up_do_not_count():
    """A loss that isn't better while the rate still rises lowers nothing."""
    optimizer = sgd()
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0)
    schedule = Schedule(optimizer, scheduler, "validation", warmup_steps=4)
    for value in (1.0, 2.0, 3.0):
        schedule.end_validation(value)
        schedule.step()
    assert list(run(schedule, 3, 5)) == [[pytest.approx(RATE * 0.8)], [RATE]]


@pytest.mark.parametrize("warmup", [0, 3, 7])
@pytest.mark.parametrize("name", BUILD)
def test_a_schedule_goes_on_where_it_was_saved(tmp_path, name, warmup):
    """Saved at any step, through a real checkpoint file, into a fresh optimizer and schedule: the same rates."""
    expected = list(run(schedule_of(name, warmup)))
    for step in range(0, STEPS, 3):
        before = schedule_of(name, warmup)
        list(run(before, 0, step))
        state = {"optimizer": before.optimizer.state_dict(), "schedule": before.state_dict()}
        checkpoint.save(tmp_path / "state.pt", state)
        state = checkpoint.load(tmp_path / "state.pt")
        after = schedule_of(name, warmup)
        after.optimizer.load_state_dict(state["optimizer"])
        after.load_state_dict(state["schedule"])
        assert list(run(after, step)) == expected[step:]


# --- make_schedule ------------------------------------------------------------------------------------------


def made(interval: str = "step", monitored: str = "min", **node: Any) -> Schedule:
    return make_schedule(node or None, sgd(), interval, 0, monitored)


@pytest.mark.parametrize("node", [None, {}])
def test_no_scheduler_is_a_constant_rate(node):
    schedule = make_schedule(node, sgd(), "step", 0, "min")
    assert schedule.scheduler is None
    assert list(run(schedule)) == [[RATE]] * STEPS


@pytest.mark.parametrize(("monitored", "given", "expected"), [("max", {}, "max"), ("min", {}, "min"),
                                                              ("max", {"mode": "min"}, "min")])  # fmt: skip
def test_plateau_looks_the_way_the_monitor_does(monitored, given, expected):
    """More accuracy is better, less loss is; a mode that is typed wins."""
    schedule = made("validation", monitored, _target_="torch.optim.lr_scheduler.ReduceLROnPlateau", **given)
    assert schedule.scheduler.mode == expected


@pytest.mark.parametrize(
    ("interval", "target", "message"),
    [
        ("step", "ReduceLROnPlateau", "Write schedule.interval=validation"),
        ("epoch", "ReduceLROnPlateau", "Write schedule.interval=validation"),
        ("validation", "StepLR", "Write schedule.interval=step or epoch"),
    ],
)
def test_an_interval_that_does_not_fit_is_answered(interval, target, message):
    with pytest.raises(UserError, match=message):
        made(interval, _target_=f"torch.optim.lr_scheduler.{target}", **({"step_size": 2} if "Step" in target else {}))
