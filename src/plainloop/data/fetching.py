"""Which samples a batch is made of, and how they are fetched: each under a seed of its own.

The order of an epoch follows from (seed, epoch) and can be entered anywhere; what is random about a sample follows
from (seed, epoch, position in that order). So nothing depends on which process fetches it, or what it fetched before.
"""

import copy
import itertools
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Sampler, Subset, default_collate, get_worker_info

from plainloop import seeding
from plainloop.data.datasets import InMemory
from plainloop.errors import MachineError, UserError, first_line, origin, out_of_memory

Collate = Callable[[list[Any]], Any]


class Unreadable(NamedTuple):
    """A sample that its data set couldn't give."""

    number: int
    message: str
    trace: str


class Fetched(NamedTuple):
    """A batch as it comes from a loading process. Failures come as values: an exception would bring its whole
    traceback as text from there."""

    batch: Any  # None where no sample could be read
    unreadable: list[Unreadable]
    state: Any = None  # of an iterable data set that has a state_dict, behind this batch


class BatchOrder(Sampler):
    """Yields, for each batch of an epoch, (epoch, position of its first sample, indices (B,))."""

    def __init__(self, count: int, batch_size: int, shuffle: bool, drop_last: bool, seed: int):
        self.count, self.batch_size, self.shuffle, self.drop_last = count, batch_size, shuffle, drop_last
        self.seed, self.epoch, self.first_batch = seed, 0, 0

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self.count // self.batch_size if self.drop_last else -(-self.count // self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """The indices of an epoch, (N,): a permutation that follows from (seed, epoch) alone."""
        if not self.shuffle:
            return torch.arange(self.count)
        return torch.randperm(self.count, generator=seeding.generator(self.seed, seeding.ORDER, epoch))

    def __iter__(self) -> Iterator[tuple[int, int, Tensor]]:
        # Decided now, and not when it is read: another pass may begin before this one ends.
        epoch, batches = self.epoch, self.order(self.epoch).split(self.batch_size)[: len(self)]
        rest = enumerate(batches[self.first_batch :], self.first_batch)
        return ((epoch, number * self.batch_size, indices) for number, indices in rest)


class Requests(Sampler):
    """A `BatchOrder` as the loading processes are told it, with NumPy's arrays: these are copied to them. A tensor
    would be shared, by a file and a thread of the main process each time."""

    def __init__(self, order: BatchOrder):
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[int, int, numpy.ndarray]]:
        return ((epoch, first, indices.numpy()) for epoch, first, indices in self.order)


class Fetch(Dataset):
    """Fetches the batches that `Requests` ask for.

    Args:
        collate: samples to a batch.
        skip: leave out samples that can't be read; else the whole batch fails.
    """

    def __init__(self, dataset: Dataset, seed: int, collate: Collate = default_collate, skip: bool = False):
        self.dataset, self.seed, self.collate, self.skip = dataset, seed, collate, skip
        self.gives_batches = getattr(dataset, "gives_batches", False)
        # Ours draws nothing; one of the user's may augment a batch.
        self.may_draw = getattr(type(dataset), "__getitems__", None) is not InMemory.__getitems__

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitems__(self, request: tuple[int, int, numpy.ndarray]) -> Fetched:
        epoch, first, indices = request
        if self.gives_batches and not self.may_draw:
            return Fetched(self.dataset.__getitems__(torch.from_numpy(indices)), [])  # type: ignore[attr-defined]
        if self.gives_batches:
            with seeding.preserved():
                seeding.seed_sample(self.seed, epoch, first)
                return Fetched(self.dataset.__getitems__(torch.from_numpy(indices)), [])  # type: ignore[attr-defined]
        numbers = indices.tolist()
        with seeding.as_in_a_worker():
            return decoded(numbers, self.dataset.__getitem__, self.seed, epoch, first, self.collate, self.skip,
                           lambda index: described(self.dataset, index))  # fmt: skip


def decoded(items: Sequence[Any], decode: Callable[[Any], Any], seed: int, epoch: int, first: int, collate: Collate,
            skip: bool, describe: Callable[[Any], tuple[int, str]]) -> Fetched:  # fmt: skip
    """Items to a batch: each is decoded under the seed of its position; the random state is left anyhow.

    Args:
        first: position of the first item in the epoch's order.
        describe: an item's index and what to call it, should it fail.
    """
    samples, failed = [], []
    for position, item in enumerate(items, first):
        seeding.seed_sample(seed, epoch, position)
        try:
            samples.append(decode(item))
        except Exception as error:  # whatever a user's data set may raise: it is told, with its sample
            if out_of_memory(error):
                raise
            failed.append(Unreadable(*_told(error, *describe(item))))
            if not skip:
                return Fetched(None, failed)
    if not samples:
        return Fetched(None, failed)
    try:
        return Fetched(collate(samples), failed)
    except Exception as error:
        if out_of_memory(error):
            raise
        what = f"data: the batch that begins with {describe(items[0])[1]} can't be put together"
        return Fetched(None, [Unreadable(-1, f"{what}: {first_line(error)}", traceback.format_exc())])


def hint_to_skip(most: int) -> str:
    """What to type where a sample can't be read; so many may be left out now."""
    return f"loader.skip_unreadable={max(10, 2 * most)} leaves such samples out."


def _told(error: Exception, index: int, name: str) -> tuple[int, str, str]:
    if isinstance(error, UserError | MachineError):
        return index, f"{name}: {error}", ""
    what = f"{type(error).__name__}: {first_line(error)} ({origin(error)})"
    return index, f"data: {name} can't be read: {what}", traceback.format_exc()


def described(dataset: Any, index: int) -> tuple[int, str]:
    """A sample's index in the user's own data set, and what to call it: with its file, where the data set lists
    its files (as torchvision's folders do, in `samples`)."""
    while isinstance(dataset, Subset):
        dataset, index = dataset.dataset, dataset.indices[index]
    for name in ("samples", "paths", "files"):
        listed = getattr(dataset, name, None)
        if isinstance(listed, Sequence) and len(listed) > index:
            entry = listed[index]
            entry = entry[0] if isinstance(entry, tuple | list) and entry else entry
            if isinstance(entry, str) or hasattr(entry, "__fspath__"):
                return index, f"sample {index} ({entry})"
    return index, f"sample {index}"


def each_sample(dataset: Any, skip: int = 0) -> Iterator[Any]:
    """The samples one by one; up to `skip` that can't be read are passed over. Raises UserError."""
    stream = isinstance(dataset, IterableDataset)
    items = iter(dataset) if stream else iter(range(len(dataset)))
    decode = getattr(dataset, "decode", lambda raw: raw) if stream else dataset.__getitem__
    unreadable = 0
    for number in itertools.count():
        try:
            yield decode(next(items))
        except StopIteration:
            return
        except Exception as error:
            if out_of_memory(error):
                raise
            unreadable += 1
            if unreadable > skip:
                name = (number, f"sample {number}") if stream else described(dataset, number)
                raise UserError(f"{_told(error, *name)[1]}. {hint_to_skip(skip)}") from error


def first_sample(dataset: Any, skip: int = 0) -> Any:
    """The first sample that can be read; up to `skip` that can't are passed over. Raises UserError."""
    with seeding.preserved():
        for sample in each_sample(dataset, skip):
            return sample
    raise UserError("data: the training split is empty.")


class Stream(IterableDataset):
    """Batches of an iterable data set.

    Every process walks the whole raw stream and decodes only its own batches, the k-th being process k mod W's:
    order and batches don't depend on how many there are. A data set with a method `decode(raw)` gives cheap raw
    items from `__iter__` and has its work done there, under the seed of the item's position; one with `set_epoch`
    is told the epoch. What `__iter__` itself draws follows from (seed, epoch, batch). Where an epoch is entered in the
    middle, the batches before are walked over; a data set with `state_dict` and `load_state_dict` goes there itself:
    its `__iter__` begins at the beginning, unless a state was loaded since it was last called.
    """

    def __init__(self, dataset: Any, seed: int, batch_size: int, drop_last: bool, collate: Collate, skip: bool):
        self.dataset, self.seed, self.batch_size, self.drop_last = dataset, seed, batch_size, drop_last
        self.collate, self.skip = collate, skip
        # (epoch, first batch), shared with workers that live through several epochs.
        self.position = torch.zeros(2, dtype=torch.int64).share_memory_()
        self.state: Any = None  # the data set's own, behind the last batch before the first

    def __iter__(self) -> Iterator[Fetched]:
        epoch, first = self.position.tolist()
        worker = get_worker_info()
        mine, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        decode = getattr(self.dataset, "decode", lambda raw: raw)
        jumps = first > 0 and self.state is not None
        if jumps and self.state["ended"]:
            return
        start = first if jumps else 0
        with _walking(seeding.derive(self.seed, seeding.ORDER, epoch)):
            if hasattr(self.dataset, "set_epoch"):
                self.dataset.set_epoch(epoch)
            if jumps:
                self.dataset.load_state_dict(self.state["own"])
            items = iter(self.dataset)
        for number in itertools.count(start):
            try:
                with _walking(seeding.derive(self.seed, seeding.ORDER, epoch, number)):
                    raw = list(itertools.islice(items, self.batch_size))
            except Exception as error:
                where = f"sample {number * self.batch_size} or one of the next {self.batch_size - 1}"
                yield Fetched(None, [Unreadable(*_told(error, -1, where))])
                return
            ended = len(raw) < self.batch_size  # its own state may then be that of its beginning again
            if not raw or (self.drop_last and ended):
                return
            if number >= first and (number - first) % workers == mine:
                state = None
                if hasattr(self.dataset, "state_dict"):
                    own = self.dataset.state_dict()
                    if worker:  # it is sent later, by a thread of torch's, when the data set has moved on
                        own = copy.deepcopy(own)
                    state = {"own": own, "ended": ended}
                yield self._batch(raw, decode, epoch, number * self.batch_size)._replace(state=state)

    def _batch(self, raw: list[Any], decode: Callable[[Any], Any], epoch: int, start: int) -> Fetched:
        positions = range(start, start + len(raw))
        with seeding.as_in_a_worker():
            return decoded(
                positions, lambda position: decode(raw[position - start]), self.seed, epoch, start, self.collate,
                self.skip, lambda position: (position, f"sample {position} of the stream"),
            )  # fmt: skip


@contextmanager
def _walking(seed: int) -> Iterator[None]:
    """In here a stream is walked: under a seed of its own, and alone."""
    import torch.utils.data._utils.worker as torchs

    # A data set that divides itself among the workers, as torch's documentation shows, would be divided twice.
    hidden, torchs._worker_info = torchs._worker_info, None
    try:
        with seeding.as_in_a_worker():
            seeding.seed_default(seed)
            yield
    finally:
        torchs._worker_info = hidden
