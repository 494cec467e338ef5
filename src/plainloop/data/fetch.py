"""How the samples of a batch are fetched: each under a seed of its own.

What is random about a sample follows from (seed, epoch, position in the epoch's order). So nothing depends on which
process fetches it, or what it fetched before.
"""

import itertools
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy
import torch
from torch.utils.data import Dataset, IterableDataset, default_collate

from plainloop import seeding
from plainloop.data.dataset import InMemory, asked, beneath, file_of
from plainloop.errors import MachineError, UserError, first_line, origin, out_of_memory

Collate = Callable[[list[Any]], Any]


def as_given(anything: Any) -> Any:
    """The collate function for what is collated already, and the `decode` of a stream that has none."""
    return anything


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


class Fetch(Dataset):
    """Fetches the batches that `Requests` ask for.

    Args:
        collate: samples to a batch.
        skip: leave out samples that can't be read; else the whole batch fails.
    """

    def __init__(self, dataset: Dataset, seed: int, collate: Collate = default_collate, skip: bool = False):
        self.dataset, self.seed, self.collate, self.skip = dataset, seed, collate, skip
        self.gives_batches = asked(dataset, "gives_batches")
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
            return decoded(
                numbers,
                self.dataset.__getitem__,
                self.seed,
                epoch,
                first,
                self.collate,
                self.skip,
                lambda index: named(self.dataset, index),
            )


def decoded(
    items: Sequence[Any],
    decode: Callable[[Any], Any],
    seed: int,
    epoch: int,
    first: int,
    collate: Collate,
    skip: bool,
    describe: Callable[[Any], tuple[int, str]],
) -> Fetched:
    """Items to a batch: each is decoded under the seed of its position; the random state is left in any state.

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
            failed.append(unreadable(error, *describe(item)))
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


def unreadable(error: Exception, index: int, name: str) -> Unreadable:
    """What is told of a sample that has just failed. A user's mistake, and a machine's, needs no traceback."""
    if isinstance(error, UserError | MachineError):
        return Unreadable(index, f"{name}: {error}", "")
    what = f"{type(error).__name__}: {first_line(error)} ({origin(error)})"
    return Unreadable(index, f"data: {name} can't be read: {what}", traceback.format_exc())


def named(dataset: Any, index: int) -> tuple[int, str]:
    """A sample's index in the user's own data set, and what to call it: with its file, where there is one."""
    inner, chosen = beneath(dataset)
    own = index if chosen is None else int(chosen[index])
    file = file_of(inner, own)
    return own, f"sample {own}{f' ({file})' if file else ''}"


def each_sample(dataset: Any, skip: int = 0) -> Iterator[Any]:
    """The samples one by one; up to `skip` that can't be read are passed over. Raises UserError."""
    stream = isinstance(dataset, IterableDataset)
    items = iter(dataset) if stream else iter(range(len(dataset)))
    decode = (asked(dataset, "decode") or as_given) if stream else dataset.__getitem__
    failed = 0
    for number in itertools.count():
        try:
            yield decode(next(items))
        except StopIteration:
            return
        except Exception as error:
            if out_of_memory(error):
                raise
            failed += 1
            if failed > skip:
                name = (number, f"sample {number}") if stream else named(dataset, number)
                raise UserError(f"{unreadable(error, *name).message}. {hint_to_skip(skip)}") from error


def first_sample(dataset: Any, skip: int = 0) -> Any:
    """The first sample that can be read; up to `skip` that can't are passed over. Raises UserError."""
    with seeding.preserved():
        for sample in each_sample(dataset, skip):
            return sample
    raise UserError("data: the training split is empty.")
