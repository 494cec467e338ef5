"""The learning rate over a run: warm-up, then a scheduler of torch's, and what it would look like."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from plainloop.build import build, function, locate
from plainloop.errors import UserError, first_line, listed


class Schedule:
    """The learning rate over the run: linear warm-up over the first steps, then a scheduler of torch's.

    At step i of w warm-up steps, every group's rate is (i + 1) / (w + 1) of what the scheduler starts with; step w
    is the first at the full rate, and the scheduler's ticks are counted from there.

    Args:
        scheduler: built over the optimizer already, or None for a constant rate.
        interval: when the scheduler ticks: "step", "epoch", or "validation" (ReduceLROnPlateau).
        warmup_steps: optimizer steps of warm-up.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, scheduler: Any = None, interval: str = "step", warmup_steps: int = 0
    ):
        self.optimizer, self.scheduler, self.interval = optimizer, scheduler, interval
        self.warmup_steps, self.count = warmup_steps, 0
        self.full_rates = [group["lr"] for group in optimizer.param_groups]
        self.every_step = warmup_steps > 0 or (scheduler is not None and interval == "step")
        if warmup_steps:
            self._warm_up()

    def _warm_up(self) -> None:
        share = (self.count + 1) / (self.warmup_steps + 1)
        for group, rate in zip(self.optimizer.param_groups, self.full_rates, strict=True):
            group["lr"] = rate * share if self.count < self.warmup_steps else rate

    def step(self) -> None:
        """After every optimizer step."""
        if not self.every_step:
            return
        self.count += 1
        if self.count <= self.warmup_steps:
            self._warm_up()
        elif self.interval == "step" and self.scheduler is not None:
            self.scheduler.step()

    def end_epoch(self) -> None:
        """After every epoch."""
        if self.interval == "epoch" and self.scheduler is not None and self._warm():
            self.scheduler.step()

    def end_validation(self, value: float) -> None:
        """After every validation, with the monitored quantity."""
        if self.interval == "validation" and self.scheduler is not None and self._warm():
            self.scheduler.step(value)

    def _warm(self) -> bool:
        """Whether a step has been made at the full rate: until then the scheduler doesn't tick."""
        return self.warmup_steps == 0 or self.count > self.warmup_steps

    def rate(self) -> float:
        """The learning rate of the first group that has no name of its own, or of the first."""
        groups = self.optimizer.param_groups
        return float(next((group for group in groups if not group.get("name")), groups[0])["lr"])

    def rates(self) -> dict[str, float]:
        """ "lr", as `rate` says, and "lr/NAME" of the groups that have a name, as `head`."""
        named = {
            f"lr/{group['name']}": float(group["lr"]) for group in self.optimizer.param_groups if group.get("name")
        }
        return {"lr": self.rate(), **named}

    def state_dict(self) -> dict[str, Any]:
        state = None if self.scheduler is None else self.scheduler.state_dict()
        return {"count": self.count, "full_rates": self.full_rates, "scheduler": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count, self.full_rates = state["count"], list(state["full_rates"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])


def curve(schedule: Schedule, steps: int, steps_per_epoch: int | None) -> list[dict[str, float]]:
    """The rates that each of so many steps would be made with. The schedule is used up by it; one that reacts to
    validations knows nothing of them, and goes on as it began."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer makes no steps between the ticks
        for step in range(steps):
            found.append(schedule.rates())
            schedule.step()
            if steps_per_epoch and (step + 1) % steps_per_epoch == 0:
                schedule.end_epoch()
    return found


def make_schedule(
    node: Mapping[str, Any] | None,
    optimizer: torch.optim.Optimizer,
    interval: str,
    warmup_steps: int,
    monitor_mode: str,
    trust: Sequence[str] = (),
    length: int | None = None,
) -> Schedule:
    """Build the scheduler that a config node describes ({} or None: none) and put the warm-up in front of it."""
    if not node:
        return Schedule(optimizer, None, interval, warmup_steps)
    target = locate(node["_target_"], "scheduler", lr_scheduler.LRScheduler, trust)
    plateau = inspect.isclass(target) and issubclass(target, lr_scheduler.ReduceLROnPlateau)
    if plateau != (interval == "validation"):
        what = "reacts to validations" if plateau else "doesn't react to validations"
        right = "validation" if plateau else "step or epoch"
        raise UserError(f"schedule.interval={interval}: {target.__name__} {what}. Write schedule.interval={right}")
    node = {"mode": monitor_mode, **node} if plateau else dict(node)
    _try(node, optimizer, trust, length)
    return Schedule(optimizer, _built(node, "scheduler", optimizer, trust), interval, warmup_steps)


def _built(node: Mapping[str, Any], slot: str, optimizer: torch.optim.Optimizer, trust: Sequence[str]) -> Any:
    """A scheduler; those that it holds itself (SequentialLR, ChainedScheduler) are built first, in their order."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{slot} names no _target_, as torch.optim.lr_scheduler.StepLR")
    arguments = dict(node)
    milestones = arguments.get("milestones")
    if isinstance(milestones, list) and not all(type(each) is int for each in milestones):
        raise UserError(f"{slot}.milestones={milestones}: must be whole numbers, of ticks.")
    if isinstance(arguments.get("schedulers"), list):
        arguments["schedulers"] = [
            _built(each, f"{slot}.schedulers[{number}]", optimizer, trust)
            for number, each in enumerate(arguments["schedulers"])
        ]
    for name in ("max_lr", "base_lr"):
        if isinstance(arguments.get(name), int | float):
            arguments[name] = _for_each_group(arguments[name], optimizer)
    # Of LambdaLR and MultiplicativeLR, and of CyclicLR.
    functions = {"lr_lambda": "a function of a number of ticks", "scale_fn": "a function of a share of a cycle"}
    for name, words in functions.items():
        given = arguments.get(name)
        if isinstance(given, list):
            arguments[name] = [function(one, f"scheduler.{name}", words, trust) for one in given]
        elif given is not None:
            arguments[name] = function(given, f"scheduler.{name}", words, trust)
    return build(arguments, slot, lr_scheduler.LRScheduler, trust, optimizer=optimizer)


def _for_each_group(rate: float, optimizer: torch.optim.Optimizer) -> float | list[float]:
    """A rate for each group, in the proportions that their own rates have: torch would give all the same one."""
    own = [float(group["lr"]) for group in optimizer.param_groups]
    base = float(optimizer.defaults.get("lr", own[0]))
    return rate if all(each == base for each in own) or base == 0 else [rate * each / base for each in own]


def _try(node: Mapping[str, Any], optimizer: torch.optim.Optimizer, trust: Sequence[str], length: int | None) -> None:
    """Let a twin of the scheduler tick, so that what it refuses is known before the first step."""
    groups = [{"params": [nn.Parameter(torch.zeros(()))]} for _ in optimizer.param_groups]
    twin = torch.optim.SGD(groups, lr=0.1)
    twin.defaults = dict(optimizer.defaults)
    for group, own in zip(twin.param_groups, optimizer.param_groups, strict=True):
        group |= {name: value for name, value in own.items() if name != "params"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler = _built(node, "scheduler", twin, trust)
            end = _end(scheduler)
            if end is not None and length is not None and end < length:
                raise ValueError(f"it ends after {end} of {length} steps")
            plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
            scheduler.step(*([0.0] if plateau else []))
            if plateau:
                scheduler.patience = 0
                scheduler.step(0.0)  # no better: it reduces the rates
            scheduler.state_dict()  # functions that aren't Python's own can't be saved
    except UserError as error:
        momenta = "cycle_momentum" in str(error) and node.get("cycle_momentum") is not False
        hint = " Write scheduler.cycle_momentum=false" if momenta else ""
        raise UserError(f"{error}.{hint}" if hint else str(error)) from error
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        name = str(node["_target_"]).rpartition(".")[2]
        typed = listed(f"{key}={value}" for key, value in node.items() if key != "_target_")
        raise UserError(f"scheduler: {name} can't run with ({typed}): {first_line(error)}") from error


def _end(scheduler: Any) -> int | None:
    """After how many ticks a scheduler can't go on, as OneCycleLR; None for those that always can."""
    parts = getattr(scheduler, "_schedulers", [])
    if isinstance(scheduler, lr_scheduler.SequentialLR):  # the last one begins at the last milestone
        end, begin = _end(parts[-1]), scheduler._milestones[-1] if scheduler._milestones else 0
        return None if end is None else begin + end
    if parts:
        return min((end for end in map(_end, parts) if end is not None), default=None)
    total = getattr(scheduler, "total_steps", None)
    return total if isinstance(total, int) else None
