"""What is measured on the way without waiting for the device: the mean of the losses, and how fast it goes."""

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class MeanLoss:
    """The mean of the batches' losses, weighted by their samples.

    Nothing is read per step, neither on a GPU nor on the CPU: the losses wait where they are, and `read` fetches them
    all at once.

    Args:
        leaves_out: losses that are NaN or infinite don't count, for steps that are skipped.
    """

    def __init__(self, leaves_out: bool = False) -> None:
        self.leaves_out = leaves_out
        self.waiting: list[Tensor] = []
        self.shares: list[float] = []
        self.total, self.count = 0.0, 0.0
        self.seen = 0  # samples, ever

    def add(self, loss: Tensor, size: int, share: float | None = None) -> None:
        """Take the mean loss of a batch, () or (1,). It is read later, so it must not be changed in place.

        Args:
            size: samples in the batch.
            share: what the batch counts for, where that isn't `size` (but the sum of the samples' weights).
        """
        self.seen += size
        self.waiting.append(loss.detach())
        self.shares.append(size if share is None else share)
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
        if not self.waiting:
            return
        # One by one, so that the sum is the same whenever it is fetched.
        for value, share in zip(torch.stack(self.waiting).flatten().tolist(), self.shares, strict=True):
            # A batch of classes whose weight is 0 has no mean: torch's is 0 / 0.
            if share and (not self.leaves_out or math.isfinite(value)):
                self.total += value * share
                self.count += share
        self.waiting, self.shares = [], []

    def state_dict(self) -> dict[str, Any]:
        self._fetch()
        return {"total": self.total, "count": self.count, "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.total, self.count, self.seen = state["total"], state["count"], state["seen"]


class Rate:
    """Samples per second of training, with the time for validation and saving left out."""

    def __init__(self) -> None:
        self.seconds, self.samples = 0.0, 0
        self.since: tuple[float, int] | None = None

    def start(self, samples: int) -> None:
        self.since = (time.perf_counter(), samples)

    def pause(self, samples: int) -> None:
        if self.since is not None:
            self.seconds += time.perf_counter() - self.since[0]
            self.samples += samples - self.since[1]
            self.since = None

    def read(self, samples: int) -> float:
        """The rate since the last read."""
        running = self.since is not None
        self.pause(samples)
        rate = self.samples / self.seconds if self.seconds > 0 else 0.0
        self.seconds, self.samples = 0.0, 0
        if running:
            self.start(samples)
        return rate


class Rates:
    """The rate since the last log point, and that of the epoch."""

    def __init__(self) -> None:
        self.log, self.epoch = Rate(), Rate()

    def start(self, samples: int) -> None:
        self.log.start(samples)
        self.epoch.start(samples)

    def pause(self, samples: int) -> None:
        self.log.pause(samples)
        self.epoch.pause(samples)
