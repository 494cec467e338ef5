"""The mean of the losses, weighted by samples, without waiting for the device."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class MeanLoss:
    """The mean of the batches' losses, weighted by their samples.

    Nothing is read from the device per step: the losses wait there, and `read` fetches them all at once.

    Args:
        leave_out: losses that are NaN or infinite don't count, for steps that are skipped.
    """

    def __init__(self, leave_out: bool = False) -> None:
        self.leave_out = leave_out
        self.waiting: list[Tensor] = []
        self.sizes: list[float] = []
        self.total, self.count = 0.0, 0.0
        self.seen = 0  # samples, ever

    def add(self, loss: Tensor, size: int, share: float | None = None) -> None:
        """The mean loss of a batch of this many samples; `share` is what it counts for, where that isn't their number
        (but the sum of their weights)."""
        self.seen += size
        share = size if share is None else share
        if loss.is_cpu:  # there is nothing to wait for
            self._add(loss.item(), share)
            return
        self.waiting.append(loss.detach())
        self.sizes.append(share)
        if len(self.waiting) == 4096:
            self._fetch()

    def mean(self) -> float:
        """The mean since the last read; NaN where there was nothing."""
        self._fetch()
        return self.total / self.count if self.count else math.nan

    def read(self) -> tuple[float, float]:
        """(sum over samples, samples) since the last read."""
        self._fetch()
        total, count = self.total, self.count
        self.total, self.count = 0.0, 0.0
        return total, count

    def _fetch(self) -> None:
        if self.waiting:
            for value, size in zip(torch.stack(self.waiting).tolist(), self.sizes, strict=True):
                self._add(value, size)
            self.waiting, self.sizes = [], []

    def _add(self, value: float, size: float) -> None:
        # One by one, so that the sum is the same whenever it is fetched.
        if size == 0:  # a batch of classes whose weight is 0: torch's mean over it is 0 / 0
            return
        if not self.leave_out or math.isfinite(value):
            self.total += value * size
            self.count += size

    def state_dict(self) -> dict[str, Any]:
        self._fetch()
        return {"total": self.total, "count": self.count, "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.total, self.count, self.seen = state["total"], state["count"], state["seen"]
