"""Batches of data that can only be walked through, from the front to the back."""

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from plainloop import seeding
from plainloop.data.dataset import asked
from plainloop.data.fetch import Collate, Fetched, as_given, decoded, unreadable


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
        decode = asked(self.dataset, "decode") or as_given
        set_epoch, state_dict = asked(self.dataset, "set_epoch"), asked(self.dataset, "state_dict")
        jumps = first > 0 and self.state is not None
        if jumps and self.state["ended"]:
            return
        start = first if jumps else 0
        with _walking(seeding.derive(self.seed, seeding.ORDER, epoch)):
            if set_epoch:
                set_epoch(epoch)
            if jumps:
                self.dataset.load_state_dict(self.state["own"])
            items = iter(self.dataset)
        for number in itertools.count(start):
            try:
                with _walking(seeding.derive(self.seed, seeding.ORDER, epoch, number)):
                    raw = list(itertools.islice(items, self.batch_size))
            except Exception as error:
                where = f"sample {number * self.batch_size} or one of the next {self.batch_size - 1}"
                yield Fetched(None, [unreadable(error, -1, where)])
                return
            ended = len(raw) < self.batch_size  # its own state may then be that of its beginning again
            if not raw or (self.drop_last and ended):
                return
            if number >= first and (number - first) % workers == mine:
                state = None
                if state_dict:
                    own = state_dict()
                    if worker:  # it is sent later, by a thread of torch's, when the data set has moved on
                        own = copy.deepcopy(own)
                    state = {"own": own, "ended": ended}
                yield self._batch(raw, decode, epoch, number * self.batch_size)._replace(state=state)

    def _batch(self, raw: list[Any], decode: Callable[[Any], Any], epoch: int, start: int) -> Fetched:
        positions = range(start, start + len(raw))
        with seeding.as_in_a_worker():
            return decoded(
                positions,
                lambda position: decode(raw[position - start]),
                self.seed,
                epoch,
                start,
                self.collate,
                self.skip,
                lambda position: (position, f"sample {position} of the stream"),
            )


@contextmanager
def _walking(seed: int) -> Iterator[None]:
    """Within this context a stream is read under a seed of its own, and by one process."""
    import torch.utils.data._utils.worker as torchs

    # A data set that divides itself among the workers, as torch's documentation shows, would be divided twice.
    hidden, torchs._worker_info = torchs._worker_info, None
    try:
        with seeding.as_in_a_worker():
            seeding.seed_default(seed)
            yield
    finally:
        torchs._worker_info = hidden
