"""The order of an epoch, and how samples become batches.

A normal torch `DataLoader` does the work. What is ours is small: a batch sampler whose order follows from
(seed, epoch) and can start anywhere, and a wrapper that seeds the augmentation of a sample by its position in
that order, so that nothing depends on which worker fetches it.
"""

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from plainloop import seeding
from plainloop.data.splits import size
from plainloop.errors import UserError


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


class Fetch(Dataset):
    """Fetches the batches that a `BatchOrder` asks for, each sample under its own seed."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed
        self.gives_batches = getattr(dataset, "gives_batches", False)

    def __len__(self) -> int:
        return size(self.dataset)

    def __getitems__(self, request: tuple[int, int, Tensor]) -> Any:
        epoch, first, indices = request
        if self.gives_batches:
            return self.dataset.__getitems__(indices)  # type: ignore[attr-defined]
        samples = []
        with seeding.preserved():
            for position, index in enumerate(indices.tolist(), first):
                seeding.seed_sample(self.seed, epoch, position)
                samples.append(self.dataset[index])
        return samples


class Loader:
    """The batches of a split: `for batch in loader.epoch(3, first_batch=10)`.

    Args:
        limit: at most this many batches (`trainer.limit_batches`).
    """

    def __init__(self, loader: DataLoader, order: BatchOrder, limit: int | None = None):
        self.loader, self.order, self.limit = loader, order, limit
        # Whole batches from memory need nothing of what the DataLoader does around them (10 µs a batch).
        self.direct = as_given is loader.collate_fn and loader.num_workers == 0 and not loader.pin_memory

    @property
    def dataset(self) -> Dataset:
        return self.loader.dataset.dataset  # type: ignore[attr-defined]

    @property
    def num_samples(self) -> int:
        """Samples in an epoch."""
        most = len(self) * self.order.batch_size
        return min(self.order.count, most)

    def __len__(self) -> int:
        return len(self.order) if self.limit is None else min(len(self.order), self.limit)

    def epoch(self, number: int = 0, first_batch: int = 0) -> Iterator[Any]:
        """The batches of an epoch, from `first_batch` on."""
        self.order.epoch, self.order.first_batch = number, first_batch
        batches: Iterable[Any] = self.loader
        if self.direct:
            fetch = self.dataset.__getitems__  # type: ignore[attr-defined]
            batches = (fetch(indices) for _, _, indices in self.order)
        return itertools.islice(batches, max(0, len(self) - first_batch))

    def __iter__(self) -> Iterator[Any]:
        return self.epoch()


def outlive_signals(worker: int) -> None:
    """Ctrl-C and a cluster's SIGTERM go to the whole process group; the workers must live until the main process
    has finished its step, and then end with it. 30 seconds after a SIGTERM they end by themselves."""

    def end_soon(number: int, frame: Any) -> None:
        timer = threading.Timer(30, os._exit, (0,))
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end_soon)


def start_forkserver() -> None:
    """Start the process that workers are forked from, deaf to a SIGTERM to the whole group: with it, the workers
    would be lost before the step is finished. It ends when the main process does."""
    from multiprocessing import forkserver

    if threading.current_thread() is not threading.main_thread():
        return  # signals can't be set there
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGTERM, before)


def as_given(batch: Any) -> Any:
    """The collate function of data sets that give whole batches."""
    return batch


def make_loader(
    dataset: Dataset,
    *,
    batch_size: int,
    shuffle: bool,
    drop_last: bool,
    seed: int,
    device: torch.device,
    num_workers: int | None = None,
    pin_memory: bool | None = None,
    prefetch_factor: int | None = None,
    persistent_workers: bool | None = None,
    timeout: float | None = None,
    multiprocessing_context: str | None = None,
    limit: int | None = None,
) -> Loader:
    """A `Loader` for a split, with torch's DataLoader inside. Arguments are torch's own; None means as section
    `loader` says."""
    count = size(dataset)
    if drop_last and count < batch_size:
        raise UserError(
            f"loader.drop_last=true drops every batch: {count} samples are fewer than loader.batch_size={batch_size}. "
            "Lower the batch size, or leave drop_last out."
        )
    in_memory = getattr(dataset, "gives_batches", False)
    workers = default_workers(dataset) if num_workers is None else num_workers
    workers = min(workers, -(-count // batch_size))
    for name, value in (("prefetch_factor", prefetch_factor), ("timeout", timeout)):
        if value and num_workers == 0:
            raise UserError(f"loader.{name}={value} acts only with workers: set loader.num_workers, or leave it out.")
    options: dict[str, Any] = {}
    if workers:
        start_method = multiprocessing_context or default_start_method()
        if start_method == "forkserver":
            start_forkserver()
        options = {
            "prefetch_factor": prefetch_factor,
            "persistent_workers": True if persistent_workers is None else persistent_workers,
            "timeout": 300 if timeout is None else timeout,
            "worker_init_fn": outlive_signals,
            "multiprocessing_context": start_method,
        }
    order = BatchOrder(count, batch_size, shuffle, drop_last, seed)
    loader = DataLoader(
        Fetch(dataset, seed),
        batch_sampler=order,
        num_workers=workers,
        collate_fn=as_given if in_memory else default_collate,
        pin_memory=device.type == "cuda" if pin_memory is None else pin_memory,
        generator=torch.Generator(),  # so that iterating draws nothing from the default one
        **options,
    )
    return Loader(loader, order, limit)


def default_workers(dataset: Dataset, seconds: float = 5.0) -> int:
    """How many processes load, where nobody has said it: none for data in memory, and none where an epoch's
    samples are fetched within `seconds` (as the first few tell), which is about what starting processes costs;
    else one for each core, 8 at most. The results don't depend on it.
    """
    if getattr(dataset, "gives_batches", False):
        return 0
    few = range(min(8, size(dataset)))
    with seeding.preserved():
        started = time.perf_counter()
        for index in few:
            dataset[index]
        per_sample = (time.perf_counter() - started) / len(few)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8) if per_sample * size(dataset) > seconds else 0


def default_start_method() -> str:
    """One start method on every Python version: forkserver where there is one (fork copies held locks and
    CUDA's state), else spawn."""
    import multiprocessing

    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
