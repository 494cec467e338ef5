"""The batches of a split. A normal torch `DataLoader` does the work; `order.py` says of what, `fetch.py` how,
`workers.py` where.
"""

import itertools
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from plainloop.config import schema
from plainloop.data.dataset import asked, size
from plainloop.data.fetch import Fetch, Fetched, as_given, hint_to_skip
from plainloop.data.order import BatchOrder, Requests
from plainloop.data.stream import Stream
from plainloop.data.workers import (
    Prepared,
    default_start_method,
    default_workers,
    end,
    refuse_unguarded_scripts,
    signals_held,
    watch,
)
from plainloop.errors import MachineError, UserError, tell


class Skipped:
    """Samples of a run that can't be read: so many may be left out, in all its splits together. Each is said once,
    whichever loader comes upon it."""

    def __init__(self, most: int):
        self.most = most
        self.found: dict[str, str] = {}  # by split and index, as "train 7"

    def note(self, split: str, index: int, message: str, trace: str) -> None:
        """Raises MachineError where there are too many."""
        if f"{split} {index}" in self.found:
            return
        self.found[f"{split} {index}"] = message
        count = len(self.found)
        if index >= 0 and count <= self.most:
            tell(f"warning: {message}; left out ({count} of at most {self.most})", sys.stderr)
            return
        hint = f". {hint_to_skip(self.most)}" if index >= 0 else "."
        many = f"more than loader.skip_unreadable={self.most} samples can't be read; " if self.most else ""
        failure = MachineError(f"{many}{message.removesuffix('.')}{hint}")
        failure.add_note(trace)
        raise failure


class Loader:
    """The batches of a split: `for batch in loader.epoch(3, first_batch=10)`. `with loader:` ends its processes.

    Args:
        source: the order of a data set's batches, or the stream of them.
        limit: at most this many batches (`trainer.limit_batches`).
        split: which one it is.
        skipped: the samples that can't be read.
    """

    def __init__(
        self, loader: DataLoader, source: BatchOrder | Stream, limit: int | None, split: str, skipped: Skipped
    ):
        self.loader, self.source, self.limit, self.split, self.skipped = loader, source, limit, split, skipped
        self.batch_size = source.batch_size
        self.state: Any = None  # of a stream that has a state_dict
        self.running: Any = None  # the DataLoader's newest iterator, where it has loading processes
        # Whole batches from memory need nothing of what the DataLoader does around them (10 µs a batch).
        fetch = loader.dataset
        in_memory = isinstance(fetch, Fetch) and fetch.gives_batches and not fetch.may_draw
        self.direct = in_memory and loader.num_workers == 0 and not loader.pin_memory

    @property
    def dataset(self) -> Dataset:
        return self.loader.dataset.dataset  # type: ignore[attr-defined]

    @property
    def num_samples(self) -> int | None:
        """Samples in an epoch; None where nobody knows."""
        if isinstance(self.source, BatchOrder):
            counts = [len(batch) for batch in self.source.batches(0)] if self.source.batch_sampler else None
            most = sum(counts[: self.batches]) if counts else len(self) * self.batch_size
            return min(self.source.count, most)
        count = size(self.dataset)
        return None if count is None or self.batches is None else min(count, self.batches * self.batch_size)

    @property
    def batches(self) -> int | None:
        """Batches in an epoch; None where nobody knows: a stream without a length."""
        if isinstance(self.source, Stream):
            count = size(self.dataset)
            if count is None:
                return None
            whole = count // self.batch_size if self.source.drop_last else -(-count // self.batch_size)
        else:
            whole = len(self.source)
        return whole if self.limit is None else min(whole, self.limit)

    def __len__(self) -> int:
        if self.batches is None:
            raise TypeError("nobody knows how many batches this stream gives")
        return self.batches

    def epoch(self, number: int = 0, first_batch: int = 0) -> Iterator[Any]:
        """The batches of an epoch, from `first_batch` on. Raises MachineError where they can't be read."""
        most = self.batches if self.batches is not None else self.limit
        rest = None if most is None else max(0, most - first_batch)
        if isinstance(self.source, Stream):
            self.source.position.copy_(torch.tensor([number, first_batch]))
        else:
            self.source.epoch, self.source.first_batch = number, first_batch
            if self.direct:
                fetch = self.dataset.__getitems__  # type: ignore[attr-defined]
                return itertools.islice((fetch(indices) for _, _, indices in self.source), rest)
        with signals_held() if self.loader.num_workers else nullcontext():
            batches = iter(self.loader)
        if self.loader.num_workers:
            watch(batches)
            self.running = batches
        return self._checked(itertools.islice(batches, rest))

    def _checked(self, fetched: Iterable[Fetched]) -> Iterator[Any]:
        for batch, unreadable, state in fetched:
            for index, message, trace in unreadable:
                self.skipped.note(self.split, index, message, trace)
            if batch is None:
                raise MachineError(f"no sample of a batch can be read: {unreadable[0].message}")
            self.state = state
            yield batch

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: Any) -> None:
        running, self.running, self.loader._iterator = self.running, None, None
        if running is not None:
            end(running, at_once=failure is not None)

    def state_dict(self) -> dict[str, Any]:
        return {"unreadable": dict(self.skipped.found), "stream": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skipped.found |= state["unreadable"]
        self.state = state["stream"]
        if isinstance(self.source, Stream):
            self.source.state = self.state

    def __iter__(self) -> Iterator[Any]:
        return self.epoch()


def make_loader(
    dataset: Dataset,
    section: schema.Loader,
    *,
    seed: int,
    device: torch.device,
    limit: int | None = None,
    split: str = "",
    skipped: Skipped | None = None,
) -> Loader:
    """A `Loader` for a split, with torch's DataLoader inside.

    Args:
        section: section `loader`. Where it names functions and samplers of the user's, it holds them itself here:
            `assembly.loaders` has built them.
        device: where the batches go; for CUDA they are page-locked.
        limit, split, skipped: as for `Loader`; skipped is None for no other loader to share its count with.

    Raises:
        UserError: for a sampler of a stream, batches that are all dropped, options of workers without workers.
    """
    count = size(dataset)
    if isinstance(dataset, IterableDataset) and (section.sampler is not None or section.batch_sampler is not None):
        raise UserError(
            f"loader.{'batch_' if section.sampler is None else ''}sampler: {type(dataset).__name__} is a stream, "
            "which gives its samples in an order of its own."
        )
    drawn = count if section.sampler is None else len(section.sampler)
    if section.drop_last and section.batch_sampler is None and drawn is not None and drawn < section.batch_size:
        raise UserError(
            f"loader.drop_last=true drops every batch: {drawn} samples are fewer than "
            f"loader.batch_size={section.batch_size}. Lower the batch size, or leave drop_last out."
        )
    collate, skip = section.collate_fn or asked(dataset, "collate_fn") or default_collate, section.skip_unreadable > 0
    options = _of_workers(section, dataset, count)
    source: BatchOrder | Stream
    if isinstance(dataset, IterableDataset):
        source = Stream(dataset, seed, section.batch_size, section.drop_last, collate, skip)
        fetched: Dataset = source
        options["batch_size"] = None
    else:
        assert count is not None
        source = BatchOrder(
            count,
            section.batch_size,
            section.shuffle,
            section.drop_last,
            seed,
            section.sampler,
            section.batch_sampler,
        )
        fetched = Fetch(dataset, seed, collate, skip)
        # A collate function of the user's is given samples, and no batches.
        fetched.gives_batches = fetched.gives_batches and section.collate_fn is None
        options["batch_sampler"] = Requests(source)
    pinned = device.type == "cuda" if section.pin_memory is None else section.pin_memory
    loader = DataLoader(
        fetched,
        collate_fn=as_given,
        pin_memory=pinned and not section.on_device,
        generator=torch.Generator(),  # so that iterating draws nothing from the default one
        **options,
    )
    return Loader(loader, source, limit, split, skipped or Skipped(section.skip_unreadable))


def _of_workers(section: schema.Loader, dataset: Dataset, count: int | None) -> dict[str, Any]:
    """The DataLoader's options that concern its processes. Raises UserError for some without any process."""
    for name in ("prefetch_factor", "timeout"):
        value = getattr(section, name)
        if value and section.num_workers == 0:
            raise UserError(f"loader.{name}={value} acts only with workers: set loader.num_workers, or leave it out.")
    workers = default_workers(dataset) if section.num_workers is None else section.num_workers
    workers = workers if count is None else min(workers, -(-count // section.batch_size))
    if not workers:
        return {}
    how = section.multiprocessing_context or default_start_method()
    if how != "fork":
        refuse_unguarded_scripts()
    return {
        "num_workers": workers,
        "prefetch_factor": section.prefetch_factor,
        "persistent_workers": True if section.persistent_workers is None else section.persistent_workers,
        "timeout": 300 if section.timeout is None else section.timeout,
        "worker_init_fn": Prepared(section.worker_init_fn),
        "multiprocessing_context": how,
    }
