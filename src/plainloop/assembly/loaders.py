"""Section `loader` becomes the loaders of a session's splits."""

from typing import Any

import torch
from omegaconf import DictConfig
from torch.utils.data import Dataset, Sampler

from plainloop.assembly.loss import ignored_label
from plainloop.build import construct, function, locate
from plainloop.config.schema import OF_WORKERS, plain
from plainloop.data import Loader, make_loader
from plainloop.data.dataset import length, per_sample, size
from plainloop.data.loader import Skipped
from plainloop.data.order import Balanced, ByLength
from plainloop.data.stream import Stream
from plainloop.errors import UserError

# Keys that are handed to make_loader as they are.
AS_GIVEN = ("num_workers", "pin_memory", "prefetch_factor", "persistent_workers", "timeout",
            "multiprocessing_context", "skip_unreadable")  # fmt: skip

FUNCTIONS = {"collate_fn": "a function of a list of samples", "worker_init_fn": "a function of the worker's number"}


def training_loader(cfg: DictConfig, dataset: Dataset, device: torch.device, skipped: Skipped | None = None) -> Loader:
    """The batches to train on, in the order that the section asks for."""
    section = plain(cfg.loader)
    ignored = ignored_label(cfg.loss)
    sampler, batch_sampler = _samplers(section, dataset, ignored, list(cfg.trust))
    return make_loader(
        dataset,
        batch_size=section["batch_size"],
        shuffle=section["shuffle"],
        drop_last=section["drop_last"],
        sampler=sampler,
        batch_sampler=batch_sampler,
        limit=cfg.trainer.limit_batches,
        split="train",
        skipped=skipped,
        **_shared(cfg, section, device),
    )


def drawn(loader: Loader) -> int | None:
    """How many samples an epoch draws, of which each batch takes `loader.batch_size`; None where nobody knows: a
    stream without a length, and where a batch sampler of the user's own decides."""
    if isinstance(loader.source, Stream):
        return size(loader.dataset)
    own = loader.source.batch_sampler
    return loader.source.count if own is None or isinstance(own, ByLength) else None


def evaluation_loader(
    cfg: DictConfig, dataset: Dataset, device: torch.device, split: str, skipped: Skipped | None
) -> Loader:
    """The batches of a split in their own order, whole: for validation, test and evaluation."""
    section = _for_evaluation(cfg)
    return make_loader(
        dataset,
        batch_size=section["batch_size"],
        shuffle=False,
        drop_last=False,
        limit=cfg.trainer.limit_batches,
        split=split,
        skipped=skipped,
        **_shared(cfg, section, device),
    )


def reading_loader(cfg: DictConfig, dataset: Dataset, skipped: Skipped, limit: int | None = None) -> Loader:
    """Every sample of a split once, for statistics: batches of a fixed size, so that sums don't depend on the run's.
    With a limit, so many batches, fetched here."""
    in_memory = getattr(dataset, "gives_batches", False)
    shared = _shared(cfg, _for_evaluation(cfg), torch.device("cpu")) | {"pin_memory": False}
    if limit:
        shared |= {**dict.fromkeys(OF_WORKERS), "num_workers": 0}
    return make_loader(
        dataset,
        batch_size=1024 if in_memory else 64,
        shuffle=False,
        drop_last=False,
        limit=limit,
        split="train",
        skipped=skipped,
        **shared,
    )


def first_two(cfg: DictConfig, dataset: Dataset, split: str, skipped: Skipped) -> Loader:
    """One batch of two samples, fetched here (of more, where some may be unreadable)."""
    section = plain(cfg.loader) if split == "train" else _for_evaluation(cfg)
    count = 2 + min(section["skip_unreadable"], 62)
    return make_loader(
        dataset,
        batch_size=count,
        shuffle=False,
        drop_last=False,
        limit=1,
        num_workers=0,
        seed=cfg.seed,
        device=torch.device("cpu"),
        skip_unreadable=section["skip_unreadable"],
        collate_fn=_function(cfg, section, "collate_fn"),
        split=split,
        skipped=skipped,
    )


def _for_evaluation(cfg: DictConfig) -> dict[str, Any]:
    """Section `loader` with what `loader.eval` says otherwise."""
    section = plain(cfg.loader)
    otherwise = {name: value for name, value in section["eval"].items() if value is not None}
    if otherwise.get("num_workers") == 0:
        section |= dict.fromkeys(OF_WORKERS)
    return section | otherwise


def _shared(cfg: DictConfig, section: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """What the loaders of all splits have in common."""
    return {
        "seed": cfg.seed,
        "device": device,
        "collate_fn": _function(cfg, section, "collate_fn"),
        "worker_init_fn": _function(cfg, section, "worker_init_fn"),
        **{name: section[name] for name in AS_GIVEN},
        **({"pin_memory": False} if section["on_device"] else {}),
    }


def _function(cfg: DictConfig, section: dict[str, Any], name: str) -> Any:
    node = section[name]
    return None if node is None else function(node, f"loader.{name}", FUNCTIONS[name], list(cfg.trust))


def _samplers(section: dict[str, Any], dataset: Dataset, ignored: int, trust: list[str]) -> tuple[Any, Any]:
    """The sampler and the batch sampler that the section asks for."""
    sampler, batch_sampler = section["sampler"], section["batch_sampler"]
    if sampler == "balanced":
        targets = per_sample(dataset, "targets")
        if targets is None or targets.is_floating_point() or targets.ndim != 1:
            raise UserError(
                "loader.sampler=balanced: it draws every class as often, and this data set has no classes "
                "that are known beforehand (an attribute `targets`)."
            )
        sampler = Balanced(targets, ignored)
    elif sampler is not None:
        sampler = _own(sampler, "loader.sampler", dataset, section, trust)
    if batch_sampler == "length":
        lengths = per_sample(dataset, "lengths")
        if lengths is None:
            raise UserError("loader.batch_sampler=length: this data set has no `lengths` to sort its samples by.")
        batch_sampler = ByLength(lengths, section["batch_size"], section["shuffle"], section["drop_last"])
    elif batch_sampler is not None:
        batch_sampler = _own(batch_sampler, "loader.batch_sampler", dataset, section, trust)
    return sampler, batch_sampler


def _own(node: Any, slot: str, dataset: Dataset, section: dict[str, Any], trust: list[str]) -> Any:
    """A sampler of the user's, given what its signature asks for: the data set, its targets, the batch size, ..."""
    import inspect

    target = locate(node["_target_"], slot, Sampler, trust)
    facts = {
        "data_source": dataset,
        "dataset": dataset,
        "targets": per_sample(dataset, "targets"),
        "labels": per_sample(dataset, "targets"),
        "lengths": per_sample(dataset, "lengths"),
        "batch_size": section["batch_size"],
        "drop_last": section["drop_last"],
    }
    wanted = inspect.signature(target).parameters
    if slot == "loader.batch_sampler" and "sampler" in wanted:
        facts["sampler"] = torch.utils.data.RandomSampler(range(length(dataset)))
    given = {name: value for name, value in facts.items() if name in wanted and name not in node}
    built = construct(target, node, slot, Sampler, **given)
    if not hasattr(built, "__len__"):
        raise UserError(f"{slot}: {type(built).__name__} has no __len__: the run's length must be known.")
    return built
