"""Section `loader` becomes the loaders of the splits: what it names is built, and `loader.eval` has its say."""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from plainloop.build import construct, function, locate
from plainloop.config.sections import OF_WORKERS
from plainloop.config.sections import Loader as Section
from plainloop.data import Data, Loader, make_loader
from plainloop.data.dataset import asked, length, per_sample, size, targets_of
from plainloop.data.loader import Skipped
from plainloop.data.order import Balanced, ByLength
from plainloop.data.stream import Stream
from plainloop.errors import UserError

FUNCTIONS = {"collate_fn": "a function of a list of samples", "worker_init_fn": "a function of the worker's number"}


def training_loader(
    section: Section,
    data: Data,
    *,
    seed: int,
    device: torch.device,
    limit: int | None = None,
    trust: Sequence[str] = (),
    skipped: Skipped | None = None,
) -> Loader:
    """The batches to train on, in the order that the section asks for.

    Args:
        limit, skipped: as for `Loader`.
        trust: what the section may name beside our own factories.
    """
    section = _with_samplers(_with_functions(section, trust), data, trust)
    return make_loader(data.train, section, seed=seed, device=device, limit=limit, split="train", skipped=skipped)


def evaluation_loader(
    section: Section,
    dataset: Dataset,
    split: str,
    *,
    seed: int,
    device: torch.device,
    limit: int | None = None,
    trust: Sequence[str] = (),
    skipped: Skipped | None = None,
) -> Loader:
    """The batches of a split in their own order, whole: for validation, test and evaluation."""
    section = _with_functions(_for_evaluation(section), trust)
    return make_loader(dataset, section, seed=seed, device=device, limit=limit, split=split, skipped=skipped)


def reading_loader(
    section: Section, dataset: Dataset, *, seed: int, trust: Sequence[str], skipped: Skipped, limit: int | None = None
) -> Loader:
    """Every training sample once, for statistics: batches of a fixed size, so that sums don't depend on the run's.
    With a limit, so many batches, fetched here."""
    size_of_batch = 1024 if asked(dataset, "gives_batches") else 64
    section = replace(_for_evaluation(section), batch_size=size_of_batch, pin_memory=False)
    section = _with_functions(section if limit is None else _without_workers(section), trust)
    cpu = torch.device("cpu")
    return make_loader(dataset, section, seed=seed, device=cpu, limit=limit, split="train", skipped=skipped)


def first_two(
    section: Section, dataset: Dataset, split: str, *, seed: int, trust: Sequence[str], skipped: Skipped
) -> Loader:
    """One batch of two samples, fetched here (of more, where some may be unreadable)."""
    collate_fn = section.collate_fn if split == "train" else _for_evaluation(section).collate_fn
    count = 2 + min(section.skip_unreadable, 62)
    section = replace(_for_evaluation(section), batch_size=count, collate_fn=collate_fn, pin_memory=False)
    section = _with_functions(_without_workers(section), trust)
    cpu = torch.device("cpu")
    return make_loader(dataset, section, seed=seed, device=cpu, limit=1, split=split, skipped=skipped)


def drawn(loader: Loader) -> int | None:
    """How many samples an epoch draws, of which each batch takes `loader.batch_size`; None where nobody knows: a
    stream without a length, and where a batch sampler of the user's own decides."""
    if isinstance(loader.source, Stream):
        return size(loader.dataset)
    own = loader.source.batch_sampler
    return loader.source.count if own is None or isinstance(own, ByLength) else None


def _for_evaluation(section: Section) -> Section:
    """Every sample once in its own order, with what `loader.eval` says otherwise."""
    otherwise = {name: value for name, value in vars(section.eval).items() if value is not None}
    if otherwise.get("num_workers") == 0:
        section = _without_workers(section)
    return replace(section, shuffle=False, drop_last=False, sampler=None, batch_sampler=None, **otherwise)


def _without_workers(section: Section) -> Section:
    unsaid: dict[str, Any] = dict.fromkeys(OF_WORKERS)
    return replace(section, num_workers=0, **unsaid)


def _with_functions(section: Section, trust: Sequence[str]) -> Section:
    """The functions that the section names, in the place of their names."""
    named = {name: getattr(section, name) for name in FUNCTIONS}
    return replace(
        section,
        **{
            name: function(node, f"loader.{name}", FUNCTIONS[name], trust)
            for name, node in named.items()
            if node is not None
        },
    )


def _with_samplers(section: Section, data: Data, trust: Sequence[str]) -> Section:
    """The sampler and the batch sampler that the section asks for. Raises UserError where the data has no classes, or
    no lengths, to draw by."""
    sampler, batch_sampler = section.sampler, section.batch_sampler
    if sampler == "balanced":
        targets = targets_of(data.train)
        if targets is None or targets.is_floating_point() or targets.ndim != 1:
            raise UserError(
                "loader.sampler=balanced: it draws every class as often, and this data set has no classes "
                "that are known beforehand (an attribute `targets`)."
            )
        sampler = Balanced(targets, data.ignored)
    elif sampler is not None:
        sampler = _own(sampler, "loader.sampler", data.train, section, trust)
    if batch_sampler == "length":
        lengths = per_sample(data.train, "lengths")
        if lengths is None:
            raise UserError("loader.batch_sampler=length: this data set has no `lengths` to sort its samples by.")
        batch_sampler = ByLength(lengths, section.batch_size, section.shuffle, section.drop_last)
    elif batch_sampler is not None:
        batch_sampler = _own(batch_sampler, "loader.batch_sampler", data.train, section, trust)
    return replace(section, sampler=sampler, batch_sampler=batch_sampler)


def _own(node: Any, slot: str, dataset: Dataset, section: Section, trust: Sequence[str]) -> Any:
    """A sampler of the user's, given what its signature asks for: the data set, its targets, the batch size, ..."""
    target = locate(node["_target_"], slot, Sampler, trust)
    facts: dict[str, Any] = {
        "data_source": dataset,
        "dataset": dataset,
        "targets": targets_of(dataset),
        "labels": targets_of(dataset),
        "lengths": per_sample(dataset, "lengths"),
        "batch_size": section.batch_size,
        "drop_last": section.drop_last,
    }
    wanted = inspect.signature(target).parameters
    if slot == "loader.batch_sampler" and "sampler" in wanted:
        facts["sampler"] = torch.utils.data.RandomSampler(range(length(dataset)))
    given = {name: value for name, value in facts.items() if name in wanted and name not in node}
    built = construct(target, node, slot, Sampler, **given)
    if not hasattr(built, "__len__"):
        raise UserError(f"{slot}: {type(built).__name__} has no __len__: the run's length must be known.")
    return built
