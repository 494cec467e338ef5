"""The learning rate follows torch's own schedulers and closed forms, step by step over a whole run, with a warm-up in
front; every scheduler of torch works from the command line."""

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import plainloop
from plainloop.build import factory
from plainloop.config import compose, options
from plainloop.errors import UserError
from plainloop.runs import checkpoint
from plainloop.training.schedule import Schedule, curve, make_schedule
from tests.conftest import one_in

RATE = 0.5


def weights(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(shape)) for shape in shapes]


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


@pytest.mark.parametrize(
    ("monitored", "given", "expected"), [("max", {}, "max"), ("min", {}, "min"), ("max", {"mode": "min"}, "min")]
)
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


def test_one_rate_for_all_is_given_in_proportion():
    """Where groups have rates of their own, torch's max_lr and base_lr would make them all the same."""
    optimizer = torch.optim.SGD([{"params": weights((2,)), "lr": rate} for rate in (0.5, 0.05)], lr=0.5, momentum=0.9)
    node = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 5.0, "total_steps": STEPS}
    rates = list(run(make_schedule(node, optimizer, "step", 0, "min")))
    assert max(first for first, _ in rates) == pytest.approx(5.0)
    for first, second in rates:
        assert second == pytest.approx(first / 10)


def test_what_a_scheduler_refuses_is_known_before_the_first_step():
    """It is answered, and the optimizer is as it was."""
    optimizer = sgd()
    one_cycle = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 1.0}
    for node, message in (
        ({**one_cycle, "total_steps": STEPS - 1}, "ends after 29 of 30 steps"),
        (one_cycle, "total_steps"),
        (
            {"_target_": "torch.optim.lr_scheduler.SequentialLR", "schedulers": [{"gamma": 1}], "milestones": []},
            r"schedulers\[0\] names no _target_",
        ),
        (
            {"_target_": "torch.optim.lr_scheduler.ChainedScheduler", "schedulers": [{"_target_": "torch.nn.ReLU"}]},
            "not a torch.optim.lr_scheduler.LRScheduler",
        ),
        (
            {"_target_": "torch.optim.lr_scheduler.SequentialLR", "schedulers": ["step"], "milestones": []},
            r"schedulers\[0\] names no _target_",
        ),
        ({"_target_": "torch.optim.lr_scheduler.LambdaLR", "lr_lambda": "math.exp"}, "trust=.math.exp."),
        # One that lies in another ends too.
        (
            {"_target_": "torch.optim.lr_scheduler.ChainedScheduler", "schedulers": [{**one_cycle, "total_steps": 3}]},
            "ends after 3 of 30 steps",
        ),
        (
            {
                "_target_": "torch.optim.lr_scheduler.SequentialLR",
                "milestones": [20],
                "schedulers": [{"_target_": "torch.optim.lr_scheduler.ConstantLR"}, {**one_cycle, "total_steps": 9}],
            },
            "ends after 29 of 30 steps",
        ),
        ({"_target_": "torch.optim.lr_scheduler.MultiStepLR", "milestones": ["ten"]}, r"milestones=\['ten'\]"),
    ):
        with pytest.raises(UserError, match=message):
            make_schedule(node, optimizer, "step", 0, "min", length=STEPS)
    assert optimizer.param_groups[0]["lr"] == RATE


def test_a_scheduler_within_another_may_end_with_the_run():
    optimizer = sgd()
    parts = [
        {"_target_": "torch.optim.lr_scheduler.ConstantLR"},
        {
            "_target_": "torch.optim.lr_scheduler.OneCycleLR",
            "max_lr": 1.0,
            "total_steps": STEPS - 20,
            "cycle_momentum": False,
        },
    ]
    node = {"_target_": "torch.optim.lr_scheduler.SequentialLR", "schedulers": parts, "milestones": [20]}
    assert len(list(run(make_schedule(node, optimizer, "step", 0, "min", length=STEPS)))) == STEPS


def test_the_length_of_a_cycle_may_be_given_where_nobody_knows_the_runs():
    node = {
        "_target_": "torch.optim.lr_scheduler.OneCycleLR",
        "max_lr": 1.0,
        "total_steps": 50,
        "cycle_momentum": False,
    }
    assert len(list(run(make_schedule(node, sgd(), "step", 0, "min", length=None)))) == STEPS


@pytest.mark.parametrize("name", ["min_lr", "eps"])
def test_what_plateau_finds_out_when_it_reduces_is_known_before(name):
    node = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", name: None}
    with pytest.raises(UserError, match=f"ReduceLROnPlateau can't run with .*{name}=None"):
        make_schedule(node, sgd(), "validation", 0, "min")


def test_a_function_that_can_not_be_saved_is_refused():
    """Else the first checkpoint would find out."""
    node = {"_target_": "torch.optim.lr_scheduler.LambdaLR", "lr_lambda": "math.exp"}
    with pytest.raises(UserError, match=r"LambdaLR can't run with .*math\.exp"):
        make_schedule(node, sgd(), "step", 0, "min", trust=["math.exp"])


def test_only_what_is_about_momenta_is_answered_with_them():
    node = {
        "_target_": "torch.optim.lr_scheduler.CyclicLR",
        "base_lr": 0.1,
        "max_lr": 1.0,
        "mode": "square",
        "cycle_momentum": False,
    }
    with pytest.raises(UserError, match="mode is invalid") as caught:
        make_schedule(node, sgd(), "step", 0, "min")
    assert "Write scheduler.cycle_momentum" not in str(caught.value)


def test_an_interval_without_a_scheduler_is_refused():
    with pytest.raises(UserError, match=r"schedule\.interval=epoch: .*scheduler=none"):
        compose.compose(["schedule.interval=epoch"])


def test_a_scheduler_of_momenta_needs_an_optimizer_with_one():
    optimizer = torch.optim.Adagrad(weights((2,)), lr=RATE)
    node = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 1.0, "total_steps": STEPS}
    with pytest.raises(UserError, match=r"Write scheduler\.cycle_momentum=false"):
        make_schedule(node, optimizer, "step", 0, "min", length=STEPS)


# --- every scheduler of torch, from the command line --------------------------------------------------------


@factory("scheduler.lr_lambda")
def halves(tick: int) -> float:
    return 0.5**tick


LAMBDA = [f"scheduler.lr_lambda={__name__}.halves"]
# The option of each class, what must be typed beside it, and the same by hand: (optimizer, rate, steps, per epoch).
BY_HAND: dict[str, tuple[str, list[str], Callable[..., Any]]] = {
    "LambdaLR": ("lambda", LAMBDA, lambda o, rate, n, per: lr_scheduler.LambdaLR(o, halves)),
    "MultiplicativeLR": ("multiplicative", LAMBDA, lambda o, rate, n, per: lr_scheduler.MultiplicativeLR(o, halves)),
    "StepLR": ("step", ["scheduler.step_size=1"], lambda o, rate, n, per: lr_scheduler.StepLR(o, 1, 0.1)),
    "MultiStepLR": ("multi_step", ["scheduler.milestones=[1,2]"],
                    lambda o, rate, n, per: lr_scheduler.MultiStepLR(o, [1, 2], 0.1)),
    "ConstantLR": ("constant", ["scheduler.total_iters=2"], lambda o, rate, n, per: lr_scheduler.ConstantLR(o, 0.1, 2)),
    "LinearLR": ("linear", [], lambda o, rate, n, per: lr_scheduler.LinearLR(o, 1.0, 0.01, n)),
    "ExponentialLR": ("exponential", [], lambda o, rate, n, per: lr_scheduler.ExponentialLR(o, 0.95)),
    "SequentialLR": ("sequential", ["scheduler.milestones=[1]"], lambda o, rate, n, per: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 1.0, 0), lr_scheduler.CosineAnnealingLR(o, 15)], [1])),
    "PolynomialLR": ("polynomial", [], lambda o, rate, n, per: lr_scheduler.PolynomialLR(o, n, 2.0)),
    "CosineAnnealingLR": ("cosine", [], lambda o, rate, n, per: lr_scheduler.CosineAnnealingLR(o, n)),
    "ChainedScheduler": ("chained", [], lambda o, rate, n, per: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ExponentialLR(o, 0.98), lr_scheduler.StepLR(o, 10, 0.5)])),
    "ReduceLROnPlateau": ("plateau", ["scheduler.patience=0", "scheduler.threshold=10"],
                          lambda o, rate, n, per: lr_scheduler.ReduceLROnPlateau(
                              o, "max", patience=0, threshold=10)),
    "CyclicLR": ("cyclic", [], lambda o, rate, n, per: lr_scheduler.CyclicLR(
        o, 0.1 * rate, rate, per, cycle_momentum=False)),
    "CosineAnnealingWarmRestarts": ("warm_restarts", [],
                                    lambda o, rate, n, per: lr_scheduler.CosineAnnealingWarmRestarts(o, per, 2)),
    "OneCycleLR": ("one_cycle", [], lambda o, rate, n, per: lr_scheduler.OneCycleLR(o, 10 * rate, n)),
}  # fmt: skip
BASES = ("LRScheduler", "_LRScheduler")
SCHEDULERS = [
    name
    for name, kind in vars(lr_scheduler).items()
    if inspect.isclass(kind) and issubclass(kind, lr_scheduler.LRScheduler) and name not in BASES
]


@pytest.mark.parametrize("name", one_in(4, SCHEDULERS))
def test_every_scheduler_over_a_run(name):
    """The rates that a run of the command logs are those of torch's scheduler, ticked by hand."""
    assert name in BY_HAND, f"{name}: torch has a new scheduler, which needs an option in configs/scheduler/"
    option, words, build = BY_HAND[name]
    per, epochs, rate = 4, 3, 0.01
    lengths = [f"trainer.limit_batches={per}", f"trainer.max_epochs={epochs}", "trainer.log_every=1", "logger=none"]
    ran = plainloop.train(["model=linear", f"scheduler={option}", f"optimizer.lr={rate}", *lengths, *words])
    assert ran.config.scheduler._target_ == f"torch.optim.lr_scheduler.{name}"
    interval = ran.config.schedule.interval
    assert ran.config.spec.steps_per_epoch == per
    optimizer = torch.optim.SGD(weights((1,)), lr=rate, momentum=0.9)
    scheduler = build(optimizer, rate, per * epochs, per)
    found = iter([record["val/accuracy"] for record in ran.history() if "val/accuracy" in record])
    expected = []
    for step in range(per * epochs):
        optimizer.step()
        if interval == "step":
            scheduler.step()
        expected.append(optimizer.param_groups[0]["lr"])  # logged after the step's tick, before the epoch's
        if interval != "step" and (step + 1) % per == 0:
            scheduler.step(*[next(found)] if interval == "validation" else [])
    logged = [record["lr"] for record in ran.history() if "grad_norm" in record]
    assert logged == pytest.approx(expected, rel=1e-9)
    assert len(set(expected)) > 1


def test_every_option_is_one_of_torchs():
    drawn = {option for option, _, _ in BY_HAND.values()} | {"none", "custom"}
    assert set(options.groups()["scheduler"]) == drawn


@pytest.mark.slow
def test_a_scheduler_is_resumed_with_its_function():
    """LambdaLR's function isn't in the checkpoint: it is named in the config."""
    words = ["model=linear", "scheduler=lambda", *LAMBDA, "trainer.limit_batches=2", "logger=none"]
    whole = plainloop.train([*words, "trainer.max_epochs=3"])
    part = plainloop.train([*words, "trainer.max_epochs=2"])
    again = plainloop.train([f"resume={part.path}", "trainer.max_epochs=3"])
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


# --- drawing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize("name", ["none", "cosine", "step per epoch", "one_cycle per epoch"])
def test_a_drawn_curve_is_the_run(name, warmup):
    drawn = [point["lr"] for point in curve(schedule_of(name, warmup), STEPS, STEPS_PER_EPOCH)]
    assert drawn == [rates[0] for rates in run(schedule_of(name, warmup))]


def test_debug_schedule_draws_and_does_not_train(tmp_path):
    ran = plainloop.train(["debug=schedule", "scheduler=one_cycle", "param_groups.head_lr=0.1", "trainer.max_epochs=2"])
    assert not (ran.path / "checkpoints").exists()
    assert (ran.path / "history.jsonl").read_text() == ""
    picture = ElementTree.parse(ran.path / "figures/schedule.svg")
    lines = picture.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2  # one for each rate
    for line in lines:
        places = [float(place.partition(",")[2]) for place in line.get("points", "").split()]
        assert places[-1] == max(places)  # at the lowest in the end
        assert min(places) < places[0]
    assert "lr/head" in (ran.path / "train.log").read_text()


@pytest.mark.slow
def test_debug_schedule_needs_to_know_the_length(tmp_path):
    (tmp_path / "lines.jsonl").write_text("".join(f'{{"x": {n}, "y": {n % 2}}}\n' for n in range(40)))
    words = ["debug=schedule", "data=stream", "data.path=lines.jsonl", "data.target=y", "data.features=[x]"]
    with pytest.raises(UserError, match=r"trainer\.max_steps"):
        plainloop.train(words)
    plainloop.train([*words, "trainer.max_steps=9"])
