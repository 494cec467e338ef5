"""The order of an epoch: which samples go into which batch.

It follows from (seed, epoch) and can be entered anywhere."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import Sampler

from plainloop import seeding
from plainloop.errors import UserError


class BatchOrder(Sampler):
    """Yields, for each batch of an epoch, (epoch, position of its first sample, indices (B,)).

    Args:
        sampler: gives the indices of an epoch, in order; None for all of them, shuffled or not.
        batch_sampler: gives the indices of each batch; then batch_size, shuffle and drop_last are its own affair.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        shuffle: bool,
        drop_last: bool,
        seed: int,
        sampler: Any = None,
        batch_sampler: Any = None,
    ):
        self.size = count  # of the data set; `count` is what an epoch draws from it
        self.count, self.batch_size, self.shuffle, self.drop_last = count, batch_size, shuffle, drop_last
        self.sampler, self.batch_sampler = sampler, batch_sampler
        self.seed, self.epoch, self.first_batch = seed, 0, 0
        if sampler is not None:
            self.count = len(sampler)

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        if self.batch_sampler is not None:
            return len(self.batch_sampler)
        return self.count // self.batch_size if self.drop_last else -(-self.count // self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """The indices of an epoch, (N,), which follow from (seed, epoch) alone."""
        if self.sampler is not None:
            return self._checked(torch.as_tensor(self._drawn(self.sampler, epoch)), self.sampler)
        if not self.shuffle:
            return torch.arange(self.count)
        return torch.randperm(self.count, generator=seeding.generator(self.seed, seeding.ORDER, epoch))

    def batches(self, epoch: int) -> Sequence[Tensor]:
        """The indices of each batch of an epoch."""
        if self.batch_sampler is not None:
            sampler = self.batch_sampler
            return [self._checked(torch.as_tensor(batch), sampler) for batch in self._drawn(sampler, epoch)]
        return self.order(epoch).split(self.batch_size)[: len(self)]

    def _drawn(self, sampler: Any, epoch: int) -> list[Any]:
        """What a sampler gives in an epoch, whatever generator it draws from."""
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        with seeding.preserved():
            seeding.seed_default(seeding.derive(self.seed, seeding.ORDER, epoch))
            found = list(sampler)
        if len(found) != len(sampler):
            raise UserError(
                f"loader: {type(sampler).__name__} gives {len(found)} in epoch {epoch + 1}, and its "
                f"__len__ says {len(sampler)}: the run's length must be known."
            )
        return found

    def _checked(self, indices: Tensor, sampler: Any) -> Tensor:
        """The indices of a sampler of the user's. Raises UserError where there are no such samples."""
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < self.size:
            wrong = int(indices.min()) if int(indices.min()) < 0 else int(indices.max())
            raise UserError(
                f"loader: {type(sampler).__name__} gives the index {wrong}, and there are {self.size:,} samples."
            )
        return indices

    def __iter__(self) -> Iterator[tuple[int, int, Tensor]]:
        # Decided now, and not when it is read: another pass may begin before this one ends.
        epoch, batches = self.epoch, self.batches(self.epoch)
        starts = itertools.accumulate((len(batch) for batch in batches), initial=0)
        rest = itertools.islice(zip(starts, batches, strict=False), self.first_batch, None)
        return ((epoch, start, indices) for start, indices in rest)


class Balanced(Sampler):
    """As many draws as there are samples, with replacement: every class as often as any other, and within a class every
    sample.

    Args:
        targets: the class of every sample, (N,).
        ignored: the label of samples that have none, which aren't drawn.
    """

    def __init__(self, targets: Tensor, ignored: int):
        self.count = len(targets)
        labelled = (targets != ignored).nonzero().flatten()
        self.by_class = labelled[targets[labelled].argsort(stable=True)]
        self.counts = targets[labelled].unique(return_counts=True)[1]
        self.starts = self.counts.cumsum(0) - self.counts

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        # Not torch.multinomial, which takes at most 2^24 weights.
        chosen = torch.randint(len(self.counts), (self.count,))
        places = (torch.rand(self.count, dtype=torch.float64) * self.counts[chosen]).long()
        return iter(self.by_class[self.starts[chosen] + places].tolist())


class ByLength(Sampler):
    """Batches of samples of similar length, for less padding: samples are shuffled, sorted by length within pools of
    a hundred batches, and the batches are shuffled again.

    Args:
        lengths: of every sample, (N,).
    """

    def __init__(self, lengths: Sequence[int] | Tensor, batch_size: int, shuffle: bool, drop_last: bool):
        self.lengths, self.batch_size = torch.as_tensor(lengths), batch_size
        self.shuffle, self.drop_last = shuffle, drop_last

    def __len__(self) -> int:
        count = len(self.lengths)
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        count = len(self.lengths)
        order = torch.randperm(count) if self.shuffle else torch.arange(count)
        if self.drop_last:  # before they are sorted: else the longest would be left out, the same in every epoch
            order = order[: len(self) * self.batch_size]
        batches: list[Tensor] = []
        for pool in order.split(100 * self.batch_size):
            batches += pool[self.lengths[pool].argsort(stable=True)].split(self.batch_size)
        places = torch.randperm(len(batches)) if self.shuffle else torch.arange(len(batches))
        return iter([batches[place] for place in places])

    def padding(self) -> tuple[int, int]:
        """Padded places in an epoch: with these batches, and with batches in the order of the samples."""

        def padded(batches: Iterable[Tensor]) -> int:
            return sum(int(len(b) * self.lengths[b].max() - self.lengths[b].sum()) for b in batches)

        return padded(self), padded(torch.randperm(len(self.lengths)).split(self.batch_size))


class Requests(Sampler):
    """A `BatchOrder` as the loading processes are told it, with NumPy's arrays: these are copied to them. A tensor
    would be shared, by a file and a thread of the main process each time."""

    def __init__(self, order: BatchOrder):
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[int, int, numpy.ndarray]]:
        return ((epoch, first, indices.numpy()) for epoch, first, indices in self.order)
