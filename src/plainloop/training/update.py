"""What a step does beside forward and loss: `zero_grad`, `backward`, clipping, `step`.

Precision, clipping and what happens where a gradient isn't finite are decided here, before the loop; in the loop stand
the textbook's words.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.errors import MachineError

MANY = 20  # steps in a row that may be skipped before the run is given up


def make_update(
    optimizer: torch.optim.Optimizer,
    modules: Sequence[nn.Module] = (),
    device: torch.device | None = None,
    precision: str = "fp32",
    max_grad_norm: float | None = None,
    nonfinite: str = "stop",
) -> "Update":
    """The update that the section `trainer` asks for.

    Args:
        modules: model, preprocess and task: what holds buffers that change on the way forward.
        nonfinite: "stop" the run at a loss or gradient that is NaN or infinite, or "skip" such steps. In fp16 the
            scaler leaves them out by itself.
    """
    norms = [m for module in modules for m in module.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    watched = [norm.running_var for norm in norms if norm.running_var is not None]
    if precision == "fp16":
        assert device is not None
        return ScaledUpdate(optimizer, max_grad_norm, watched, device, nonfinite == "skip")
    if nonfinite == "skip":
        return SkippingUpdate(optimizer, max_grad_norm, watched, modules)
    return Update(optimizer, max_grad_norm, watched)


class Update:
    """An update of the weights by one of torch's optimizers. A loss or gradient that isn't finite ends the run.

    Args:
        max_grad_norm: the gradient is clipped to this norm; None for no clipping.
        watched: what may become NaN or infinite besides the parameters: running variances of BatchNorm.
    """

    leaves_out = False  # whether losses that aren't finite are left out of means, as their steps are

    def __init__(
        self, optimizer: torch.optim.Optimizer, max_grad_norm: float | None = None, watched: Sequence[Tensor] = ()
    ):
        self.optimizer, self.max_grad_norm = optimizer, max_grad_norm
        self.parameters: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
        self.watched = [*self.parameters, *watched]

    def keep(self) -> None:
        """Before a step: remember what is put back if the step is left out."""

    def zero_grad(self) -> None:
        """optimizer.zero_grad(), without 6 µs of its bookkeeping."""
        for parameter in self.parameters:
            parameter.grad = None

    def backward(self, loss: Tensor) -> None:
        """loss.backward()"""
        loss.backward()

    def clip(self, measure: bool) -> Tensor | None:
        """The gradient's norm before it is clipped; None where it is neither clipped nor to be measured."""
        if self.max_grad_norm is not None:
            return nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        return total_norm([p.grad for p in self.parameters if p.grad is not None]) if measure else None

    def step(self) -> None:
        """optimizer.step()"""
        self.optimizer.step()

    def check(self, norm: float | None, step: int) -> dict[str, Any]:
        """At a log point: raises MachineError where the gradient's norm isn't finite. Whether every weight is, which
        takes longer, is asked at an epoch's end and before a save.

        Args:
            norm: None where a `train_step` of the user's own doesn't measure it.

        Returns:
            what is recorded besides.
        """
        check_finite(norm is None or math.isfinite(norm), f"the gradient's norm is {norm} at step {step}")
        return {}

    def check_epoch(self, step: int, last: bool, learned: bool = True) -> None:
        """At an epoch's end, which may be the run's last: raises MachineError where the run can't go on.

        Args:
            learned: whether there was a loss that counts.
        """
        check_finite(learned, f"no loss is finite within the epoch that ends at step {step}")
        self.check_weights(f"at step {step}")

    def check_weights(self, where: str) -> None:
        """A weight may be lost without a trace in the loss: its gradient was infinite in one step alone, and no other
        step uses it. Raises MachineError."""
        finite = bool(total_norm(self.watched).isfinite())  # one number instead of all; it may be infinite by itself
        finite = finite or bool(torch.stack([tensor.isfinite().all() for tensor in self.watched]).all())
        check_finite(finite, f"the weights hold NaN or infinity {where}")

    def state_dict(self) -> dict[str, Any]:
        """What is carried from step to step."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


class ScaledUpdate(Update):
    """In fp16: the loss is scaled, so that small gradients don't vanish, and a step whose gradient overflows is left
    out (Micikevicius et al. 2018, "Mixed precision training")."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        max_grad_norm: float | None,
        watched: Sequence[Tensor],
        device: torch.device,
        leaves_out: bool,
    ):
        super().__init__(optimizer, max_grad_norm, watched)
        self.scaler, self.leaves_out = torch.amp.GradScaler(device.type), leaves_out

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def clip(self, measure: bool) -> Tensor | None:
        if measure or self.max_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
        return super().clip(measure)

    def step(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def check(self, norm: float | None, step: int) -> dict[str, Any]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return self.scaler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.scaler.load_state_dict(dict(state))


class SkippingUpdate(Update):
    """Steps whose gradient is NaN or infinite are left out and counted.

    On a GPU the fused optimizers are told on the device and nothing is read there; for the others, whether to step is
    read at every step.

    Args:
        modules: whose buffers change on the way forward, and are put back with such a step.
    """

    leaves_out = True

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        max_grad_norm: float | None,
        watched: Sequence[Tensor],
        modules: Sequence[nn.Module],
    ):
        super().__init__(optimizer, max_grad_norm, watched)
        self.modules = modules
        self.kept = [buffer.clone() for buffer in self.buffers()]
        self.skipped = torch.zeros((), dtype=torch.int64, device=self.parameters[0].device)
        self.in_a_row = self.skipped.clone()  # up to now

    def buffers(self) -> list[Tensor]:
        """As they are now: a forward may put others in their places."""
        return [buffer for module in self.modules for buffer in module.buffers()]

    def keep(self) -> None:
        for kept, buffer in zip(self.kept, self.buffers(), strict=True):
            kept.copy_(buffer)

    def step(self) -> None:
        bad = ~total_norm([p.grad for p in self.parameters if p.grad is not None]).isfinite()
        self.skipped += bad
        self.in_a_row.add_(1).mul_(bad)
        for kept, buffer in zip(self.kept, self.buffers(), strict=True):
            buffer.copy_(torch.where(bad, kept, buffer))
        optimizer: Any = self.optimizer
        if bad.is_cuda and getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.grad_scale, optimizer.found_inf = None, bad.float()
            optimizer.step()
        elif not bad:
            optimizer.step()

    def check(self, norm: float | None, step: int) -> dict[str, Any]:
        self.check_epoch(step, last=False)
        return {"skipped_steps": int(self.skipped)}

    def check_epoch(self, step: int, last: bool, learned: bool = True) -> None:
        row = int(self.in_a_row)
        given_up = row >= MANY or (last and int(self.skipped) == step > 0)
        check_finite(not given_up, f"the last {row} steps were skipped, at step {step}")

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": int(self.skipped), "in_a_row": int(self.in_a_row)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.skipped.fill_(state["skipped"])
        self.in_a_row.fill_(state["in_a_row"])


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all numbers in some tensors, as `nn.utils.get_total_norm` computes it; where these are alike,
    without its sorting by device and type."""
    kinds = {(tensor.dtype, tensor.device, tensor.layout) for tensor in tensors}
    if len(kinds) == 1 and next(iter(kinds))[2] is torch.strided:
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))
    return nn.utils.get_total_norm(tensors)


def check_finite(finite: bool, what: str) -> None:
    """Raises MachineError with what to do, unless all is well."""
    if not finite:
        raise MachineError(
            f"{what}. Lower optimizer.lr, clip with trainer.max_grad_norm=1, or find the operation with debug=anomaly"
        )
