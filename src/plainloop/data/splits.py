"""Which sample is in which split: decided by the seed, written into the run directory."""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset

from plainloop import seeding
from plainloop.data.fetching import each_sample, first_sample
from plainloop.errors import UserError, listed

SPLITS = ("train", "val", "test")
IGNORED = -100  # the label that torch's losses pass over, unless their ignore_index names another


@dataclass
class Data:
    """The three splits; one that the data doesn't have is None. `indices` says which samples of what they were
    taken from: {"val": {"from": "train", "indices": [...]}}. `ignored` is the label that the loss passes over,
    `skip` how many samples that can't be read may be left out."""

    train: Dataset
    val: Dataset | None = None
    test: Dataset | None = None
    indices: dict[str, dict[str, Any]] = field(default_factory=dict)
    ignored: int = IGNORED
    skip: int = 0

    def __getitem__(self, split: str) -> Dataset | None:
        return getattr(self, split)


def size(dataset: Dataset | None) -> int | None:
    """Samples in a split: 0 for none, None for a stream that doesn't know."""
    if dataset is None:
        return 0
    unknown = isinstance(dataset, IterableDataset) and not hasattr(dataset, "__len__")
    return None if unknown else len(dataset)  # type: ignore[arg-type]


def length(dataset: Dataset) -> int:
    """Samples in a split that can be looked up by index."""
    return len(dataset)  # type: ignore[arg-type]


def build_data(make: Callable[..., Dataset | None], target: Any, fractions: Sequence[float], stratify: bool,
               seed: int) -> Data:  # fmt: skip
    """Build a data set and divide it.

    Args:
        make: builds the data set; takes `split="train"` and so on where the target's signature has `split`.
        target: the class or function itself, whose signature is looked at. A class may list the splits that it
            has as `splits = ("train", "test")`; a function may return None for one that it doesn't have.
        fractions: shares of train, val and test among what has to be divided.
    """
    if "split" in inspect.signature(target).parameters:
        has = getattr(target, "splits", SPLITS)
        parts = {name: make(split=name) if name in has else None for name in SPLITS}
    else:
        parts = {"train": make(), "val": None, "test": None}
    for dataset in parts.values():
        if dataset is not None and not hasattr(dataset, "__len__") and not isinstance(dataset, IterableDataset):
            raise UserError(
                f"data: {type(dataset).__name__} has no __len__: a data set must know its size (or be a torch "
                "IterableDataset)."
            )
    whole = parts["train"]
    if whole is None:
        raise UserError("data: there is no training split.")
    if size(whole) == 0:
        raise UserError("data: the training split is empty.")
    if isinstance(whole, IterableDataset):  # as it is: a stream can't be divided
        none_of: dict[str, dict[str, Any]] = {name: {"from": name, "indices": None} for name in SPLITS if parts[name]}
        return Data(whole, parts["val"], parts["test"], none_of)
    missing = [name for name in SPLITS[1:] if parts[name] is None]
    shares = {"train": fractions[0], **{name: fractions[SPLITS.index(name)] for name in missing}}
    count = length(whole)
    divided = divide(count, list(shares.values()), targets_of(whole) if stratify else None, seed)
    indices: dict[str, dict[str, Any]] = {}
    data: dict[str, Dataset | None] = {name: parts[name] for name in SPLITS}
    for name, chosen in zip(shares, divided, strict=True):
        if shares[name] == 0:
            continue
        if len(chosen) == 0:
            raise UserError(
                f"split.fractions={list(fractions)} leaves no sample for {name} among {count}: raise its share, "
                f"or set it to 0 to go without."
            )
        indices[name] = {"from": "train", "indices": chosen.tolist()}
        data[name] = take(whole, chosen) if len(chosen) < count else whole
    for name in SPLITS:
        if name not in indices and data[name] is not None:
            indices[name] = {"from": name, "indices": list(range(size(data[name]) or 0))}
            if size(data[name]) == 0:
                raise UserError(f"data: the split {name} that the data brings along is empty.")
    assert data["train"] is not None
    return Data(data["train"], data["val"], data["test"], indices)


def digest(dataset: Dataset | None) -> str | None:
    """A SHA-256 of a split's content, so that changed data is noticed; None for streams, and for data that is another
    one whenever it is read.

    Of tensors in memory every byte, or every n-th sample where they are over 100 MB; of other data sets up to 32
    samples, evenly spread, as they are under a fixed seed.
    """
    if dataset is None or isinstance(dataset, IterableDataset):
        return None
    count = length(dataset)
    found = hashlib.sha256(str(count).encode())
    if getattr(dataset, "gives_batches", False):
        few = dataset.__getitems__(torch.arange(1))  # type: ignore[attr-defined]
        size_of_one = sum(part.nbytes for part in few if isinstance(part, Tensor))
        every = 1 + count * size_of_one // 100_000_000
        for start in range(0, count, 1024 * every):
            rows = torch.arange(start, min(start + 1024 * every, count), every)
            _add_content(dataset.__getitems__(rows), found)  # type: ignore[attr-defined]
        return found.hexdigest()

    def add_sample(position: int, found: Any) -> None:
        seeding.seed_sample(0, 0, position)
        try:
            _add_content(dataset[position * count // min(32, count)], found)
        except Exception:  # it is told when the sample is needed
            found.update(b"unreadable")

    with seeding.as_in_a_worker():
        looks = [hashlib.sha256(), hashlib.sha256()]
        for look in looks:
            add_sample(0, look)
        if looks[0].digest() != looks[1].digest():  # it draws from a generator of its own, or asks the time
            return None
        for position in range(min(32, count)):
            add_sample(position, found)
    return found.hexdigest()


def _add_content(value: Any, found: Any) -> None:
    """Add what a sample holds to a hash."""
    if isinstance(value, numpy.ndarray | numpy.generic) and value.dtype.kind in "biufc":
        value = torch.as_tensor(value)
    if isinstance(value, Tensor) and value.layout is torch.strided:
        found.update(f"{value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for name, item in value.items():
            found.update(str(name).encode())
            _add_content(item, found)
    elif isinstance(value, tuple | list):
        for item in value:
            _add_content(item, found)
    else:
        found.update(repr(value).encode() if isinstance(value, str | int | float | bool) else b"?")


def check_begins_anew(dataset: Dataset | None, skip: int = 0) -> None:
    """A stream with a state must begin at its beginning whenever it is iterated: else a look at it before the training,
    or limit_batches, would cost samples, and a resumed run would see others. Raises UserError."""
    if not isinstance(dataset, IterableDataset) or not hasattr(dataset, "state_dict"):
        return
    looks = [hashlib.sha256(), hashlib.sha256()]
    with seeding.preserved():
        for look in looks:
            seeding.seed_default(0)
            _add_content(first_sample(dataset, skip), look)
    if looks[0].digest() != looks[1].digest():
        raise UserError(
            f"data: {type(dataset).__name__} goes on where it was when it is iterated again. Let its __iter__ begin at "
            "the beginning, unless load_state_dict was called since it was last called."
        )


def divide(count: int, shares: Sequence[float], labels: Tensor | None, seed: int) -> list[Tensor]:
    """Indices 0 .. count-1 in disjoint random parts of these relative shares, each in rising order.

    With labels (N,) of classes, every class is divided in these shares by itself, within one sample: at each cut
    a class gives its whole samples, and what is then missing comes from the classes that are furthest behind.
    """
    order = torch.randperm(count, generator=seeding.generator(seed, seeding.SPLIT))
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        labels = torch.zeros(count, dtype=torch.int64)
    _, group, sizes = labels.unique(return_inverse=True, return_counts=True)
    order = order[group[order].argsort(stable=True)]  # class by class, and random within each
    group = group[order]
    rank = torch.arange(count) - (sizes.cumsum(0) - sizes)[group]  # of a sample within its class
    ties = torch.randperm(len(sizes), generator=seeding.generator(seed, seeding.SPLIT, 1))
    parts, taken, cumulated = [], torch.zeros_like(sizes), 0.0
    for share in shares:
        cumulated += share / sum(shares)
        due = sizes.double() * cumulated
        given = torch.maximum((due + 1e-9).floor().long(), taken)
        behind = ties[(due - given)[ties].argsort(descending=True, stable=True)]
        given[behind[: max(0, round(cumulated * count) - int(given.sum()))]] += 1
        parts.append(order[(taken[group] <= rank) & (rank < given[group])].sort().values)
        taken = given
    return parts


def take(dataset: Dataset, indices: Tensor) -> Dataset:
    """The samples at these indices, in memory where the data set is."""
    return dataset.select(indices) if hasattr(dataset, "select") else Subset(dataset, indices.tolist())


def targets_of(dataset: Dataset | None) -> Tensor | None:
    """All targets of a data set that holds them as `targets` (as ours and torchvision's do), or None."""
    if isinstance(dataset, Subset):
        targets = targets_of(dataset.dataset)
        return None if targets is None else targets[torch.as_tensor(dataset.indices)]
    targets = getattr(dataset, "targets", None)
    if targets is None:
        return None
    try:
        return torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):
        return None


def class_names_of(dataset: Dataset, most: int = 20_000, ignored: int = IGNORED, skip: int = 0) -> list[str]:
    """The names of the classes: the data set's own `classes`, or the whole numbers among its targets.

    A data set that has neither `classes` nor `targets` is read through, if it isn't longer than `most`.
    Raises UserError where there are no classes to be found.
    """
    inner = dataset
    while isinstance(inner, Subset):
        inner = inner.dataset
    names = getattr(inner, "classes", None)
    if names is not None:
        return [str(name) for name in names]
    targets = targets_of(dataset)
    if targets is None:
        count = size(dataset)
        if count is None or count > most or isinstance(dataset, IterableDataset):
            long = "a stream is" if isinstance(dataset, IterableDataset) else f"{count:,} samples are"
            raise UserError(
                "data: how many classes are there? Give the data set an attribute `classes` (their names) or `targets` "
                f"(all labels): {long} too long to be read through."
            )
        try:
            targets = torch.as_tensor([torch.as_tensor(sample[1]) for sample in each_sample(dataset, skip)])
        except UserError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"data: the target of sample 0 is {dataset[0][1]!r}, where this task needs a class "
                            "(a whole number from 0).") from error  # fmt: skip
    if targets.is_floating_point():
        raise UserError(
            f"data: the targets are {str(targets.dtype).removeprefix('torch.')} numbers, where this task needs classes "
            f"(whole numbers from 0). For numbers: task=regression"
        )
    kept = targets[targets != ignored]
    return [str(number) for number in range(int(kept.max()) + 1 if len(kept) else 0)]


def check_classes(data: Data, names: Sequence[str]) -> None:
    """Every known label of every split is one of the classes. Raises UserError with the split and the index."""
    for split in SPLITS:
        targets = targets_of(data[split])
        if targets is None or targets.is_floating_point() or targets.ndim != 1:
            continue
        outside = (((targets < 0) | (targets >= len(names))) & (targets != data.ignored)).nonzero()
        if len(outside):
            index = int(outside[0])
            raise UserError(
                f"data: sample {index} of {split} has label {int(targets[index])}, outside the {len(names)} classes "
                f"0 to {len(names) - 1} ({listed(names, 10)})."
            )
