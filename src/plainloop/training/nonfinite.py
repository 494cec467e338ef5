"""Steps whose gradient is NaN or infinite, left out and counted."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


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
