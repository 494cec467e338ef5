"""Which samples a batch is made of, and how they are fetched: each under a seed of its own.

The order of an epoch follows from (seed, epoch) and can be entered anywhere; what is random about a sample follows
from (seed, epoch, position in that order). So nothing depends on which process fetches it, or what it fetched before.
"""

import copy
import itertools
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    """Yields, for each batch of an epoch, (epoch, position of its first sample, indices (B,)).

    Args:
        sampler: gives the indices of an epoch, in order; None for all of them, shuffled or not.
        batch_sampler: gives the indices of each batch; then batch_size, shuffle and drop_last are its own affair.
    """

    def __init__(self, count: int, batch_size: int, shuffle: bool, drop_last: bool, seed: int,
                 sampler: Any = None, batch_sampler: Any = None):  # fmt: skip
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
            raise UserError(f"loader: {type(sampler).__name__} gives {len(found)} in epoch {epoch + 1}, and its "
                            f"__len__ says {len(sampler)}: the run's length must be known.")  # fmt: skip
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
    samples, kept, failed = [], [], []
    for position, item in enumerate(items, first):
        seeding.seed_sample(seed, epoch, position)
        try:
            samples.append(decode(item))
            kept.append(item)
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
        begins, odd = describe(kept[0])[1], _first_of_another_shape(samples)
        what = f"data: the batch that begins with {begins} can't be put together"
        if odd:
            what = f"data: {describe(kept[odd])[1]} can't be put into a batch with {begins}"
        hint = "Give samples of equal shape, or put them together yourself: loader.collate_fn=my_module.my_function"
        return Fetched(None, [Unreadable(-1, f"{what}: {first_line(error)}\n{hint}", traceback.format_exc())])


def _first_of_another_shape(samples: Sequence[Any]) -> int:
    """The place of the first sample whose input isn't of the first one's shape; 0 where there is none."""
    inputs = [sample[0] if isinstance(sample, tuple | list) and sample else sample for sample in samples]
    shapes = [getattr(each, "shape", None) for each in inputs]
    return next((place for place, shape in enumerate(shapes) if shape != shapes[0]), 0)


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
    while hasattr(dataset, "dataset"):  # a Subset, or transforms
        dataset, index = dataset.dataset, dataset.indices[index] if isinstance(dataset, Subset) else index
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
