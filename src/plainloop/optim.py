"""Optimizers and the schedule of their learning rate."""

import inspect
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.build import build, locate
from plainloop.errors import UserError, first_line, listed


def make_optimizer(node: Mapping[str, Any], parameters: Iterable[nn.Parameter], device: torch.device,
                   trust: Sequence[str] = ()) -> torch.optim.Optimizer:  # fmt: skip
    """Build the optimizer over the parameters that require a gradient, fused where torch has a fused kernel."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if not trainable:
        raise UserError("model: it has no parameter that requires a gradient: there is nothing to train.")
    arguments = dict(node)
    target = locate(arguments["_target_"], "optimizer", trust)
    fusable = device.type in ("cpu", "cuda") and all(parameter.is_floating_point() for parameter in trainable)
    if "fused" in inspect.signature(target).parameters and fusable and not _chosen(arguments):
        arguments["fused"] = True
    return build(arguments, "optimizer", trust, params=trainable)


def _chosen(arguments: Mapping[str, Any]) -> bool:
    """Whether the user has already said which implementation is wanted, or asks for what no fused kernel does."""
    said = "fused" in arguments or arguments.get("foreach") is not None
    return said or any(arguments.get(name) for name in ("differentiable", "capturable"))


class SkipNonfinite:
    """Stands where the gradient scaler stands, and leaves out the steps whose gradient is NaN or infinite.

    On a GPU the fused optimizers are told on the device and nothing is read there; for the others, whether to
    step is read at every step.

    Args:
        buffers: what changes on the way forward (BatchNorm's statistics), and is put back with such a step.
    """

    def __init__(self, device: torch.device, buffers: Iterable[Tensor] = ()):
        self.buffers = list(buffers)
        self.kept = [buffer.clone() for buffer in self.buffers]
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.in_a_row = torch.zeros((), dtype=torch.int64, device=device)  # up to now

    def is_enabled(self) -> bool:
        return False

    def keep(self) -> None:
        """Before the first batch of a step goes forward."""
        for kept, buffer in zip(self.kept, self.buffers, strict=True):
            kept.copy_(buffer)

    def scale(self, loss: Tensor) -> Tensor:
        return loss

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        pass

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        bad = ~nn.utils.get_total_norm(gradients).isfinite()
        self.skipped += bad
        self.in_a_row.add_(1).mul_(bad)
        for kept, buffer in zip(self.kept, self.buffers, strict=True):
            buffer.copy_(torch.where(bad, kept, buffer))
        if bad.is_cuda and getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.grad_scale, optimizer.found_inf = None, bad.float()  # type: ignore[attr-defined]
            optimizer.step()
        elif not bad:
            optimizer.step()

    def update(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": int(self.skipped), "in_a_row": int(self.in_a_row)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.skipped.fill_(state["skipped"])
        self.in_a_row.fill_(state["in_a_row"])


class Schedule:
    """The learning rate over the run: linear warm-up over the first steps, then a scheduler of torch's.

    At step i of w warm-up steps, every group's rate is (i + 1) / (w + 1) of what the scheduler starts with; step w
    is the first at the full rate, and the scheduler's ticks are counted from there.

    Args:
        scheduler: built over the optimizer already, or None for a constant rate.
        interval: when the scheduler ticks: "step", "epoch", or "validation" (ReduceLROnPlateau).
        warmup_steps: optimizer steps of warm-up.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, scheduler: Any = None, interval: str = "step",
                 warmup_steps: int = 0):  # fmt: skip
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
        """The learning rate of the first group."""
        return float(self.optimizer.param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        state = None if self.scheduler is None else self.scheduler.state_dict()
        return {"count": self.count, "full_rates": self.full_rates, "scheduler": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count, self.full_rates = state["count"], list(state["full_rates"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])


def make_schedule(node: Mapping[str, Any] | None, optimizer: torch.optim.Optimizer, interval: str, warmup_steps: int,
                  monitor_mode: str, trust: Sequence[str] = (), length: int = 0) -> Schedule:  # fmt: skip
    """Build the scheduler that a config node describes ({} or None: none) and put the warm-up in front of it."""
    scheduler = None
    if node:
        target = locate(node["_target_"], "scheduler", trust)
        plateau = issubclass(target, torch.optim.lr_scheduler.ReduceLROnPlateau)
        if plateau != (interval == "validation"):
            what = "reacts to validations" if plateau else "doesn't react to validations"
            right = "validation" if plateau else "step or epoch"
            raise UserError(f"schedule.interval={interval}: {target.__name__} {what}. Write schedule.interval={right}")
        mode = {"mode": monitor_mode} if plateau and "mode" not in node else {}
        scheduler = build({**node, **mode}, "scheduler", trust, optimizer=optimizer)
        _try(node, mode, target, optimizer, length)
    return Schedule(optimizer, scheduler, interval, warmup_steps)


def _try(node: Mapping[str, Any], mode: Mapping[str, Any], target: Any, optimizer: torch.optim.Optimizer,
         length: int) -> None:  # fmt: skip
    """Let a twin of the scheduler tick, so that what it refuses is known before the first step."""
    arguments = {name: value for name, value in node.items() if name != "_target_"}
    twin = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=optimizer.param_groups[0]["lr"])
    for group in twin.param_groups:
        group |= {name: value for name, value in optimizer.param_groups[0].items() if name != "params"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler = target(twin, **arguments, **mode)
            total = getattr(scheduler, "total_steps", None)  # OneCycleLR has an end
            if isinstance(total, int) and total < length:
                raise ValueError(f"it ends after {total} of {length} steps")
            scheduler.step(*([0.0] if mode or "mode" in node else []))
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:
        typed = listed(f"{name}={value}" for name, value in arguments.items())
        raise UserError(f"scheduler: {target.__name__} can't run with ({typed}): {first_line(error)}") from error
