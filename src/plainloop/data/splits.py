"""Which sample is in which split: decided by the seed, written into the run directory."""

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset

from plainloop import seeding
from plainloop.data.dataset import IGNORED, SPLITS, asked, length, size, targets_of
from plainloop.errors import UserError, first_line, listed

# What people call the folders of a divided data set, and the values of a column that divides it.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SPLIT_OF = {word: split for split, words in SPLIT_NAMES.items() for word in words}


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


@dataclass
class Division:
    """How a data set is divided: section `split`."""

    fractions: Sequence[float] = (0.8, 0.1, 0.1)
    group: str | None = None
    time: str | None = None
    folds: int | None = None
    fold: int = 0
    stratify: bool = True


def build_data(make: Callable[..., Dataset | None], target: Any, division: Division, seed: int) -> Data:
    """Build a data set and divide it.

    A data set with a method `fit(indices)` is told which of its samples are for training, once that is decided: a
    vocabulary, say, is built from these alone.

    Args:
        make: builds the data set; takes `split="train"` and so on where the target's signature has `split`.
        target: the class or function itself, whose signature is looked at. A class may list the splits that it
            has as `splits = ("train", "test")`; a function may return None for one that it doesn't have.
        division: how to divide what isn't divided yet.
    """
    if "split" in inspect.signature(target).parameters:
        has = asked(target, "splits")
        unsaid = inspect.isclass(target) and has is None
        parts = {name: _made(make, name, unsaid) if name in (has or SPLITS) else None for name in SPLITS}
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
        for key in ("group", "time", "folds"):
            if getattr(division, key):
                raise UserError(f"split.{key}={getattr(division, key)}: a stream can't be divided by it.")
        none_of: dict[str, dict[str, Any]] = {name: {"from": name, "indices": None} for name in SPLITS if parts[name]}
        return Data(whole, parts["val"], parts["test"], none_of)
    # What has divided itself, by time say, isn't divided once more: a split that it lacks there isn't.
    divided_already = asked(whole, "divided")
    missing = [name for name in SPLITS[1:] if parts[name] is None and not divided_already]
    if division.folds and "val" not in missing:
        raise UserError(f"split.folds={division.folds}: the data brings its own validation split along.")
    shares = {"train": division.fractions[0], **{name: division.fractions[SPLITS.index(name)] for name in missing}}
    if division.folds:
        shares["val"] = division.fractions[1] or shares["train"]
    count = length(whole)
    divided = _divided(whole, shares, division, seed)
    indices: dict[str, dict[str, Any]] = {}
    data: dict[str, Dataset | None] = {name: parts[name] for name in SPLITS}
    for name, chosen in divided.items():
        if len(chosen) == 0:
            raise UserError(
                f"split.fractions={list(division.fractions)} leaves no sample for {name} among "
                f"{_among(whole, division)}: {_advice(whole, division, shares)}"
            )
        indices[name] = {"from": "train", "indices": chosen.tolist()}
    if fit := asked(whole, "fit"):
        fit(divided["train"])
    for name, chosen in divided.items():
        data[name] = take(whole, chosen) if len(chosen) < count else whole
    for name in SPLITS:
        if name not in indices and data[name] is not None:
            indices[name] = {"from": name, "indices": list(range(size(data[name]) or 0))}
            if size(data[name]) == 0:
                raise UserError(f"data: the split {name} that the data brings along is empty.")
    assert data["train"] is not None
    return Data(data["train"], data["val"], data["test"], indices)


def _made(make: Callable[..., Dataset | None], split: str, unsaid: bool) -> Dataset | None:
    """A split of a data set that is built for each; `unsaid`: it doesn't list those that it has."""
    try:
        return make(split=split)
    except UserError as error:
        if split == "train" or not unsaid:
            raise
        raise UserError(
            f"{error}\nIt was asked for split={split}. A class that lacks one of train, val and test lists "
            'those that it has: splits = ("train", "test")'
        ) from error


def _divided(whole: Dataset, shares: Mapping[str, float], division: Division, seed: int) -> dict[str, Tensor]:
    """The indices of each split that has a share, in rising order."""
    count, wanted = length(whole), {name: share for name, share in shares.items() if share > 0}
    if division.time:
        times = _column(whole, division.time, "time")
        try:
            return dict(zip(wanted, by_time(times, list(wanted.values())), strict=True))
        except TypeError as error:
            kinds = listed(sorted({type(value).__name__ for value in times}))
            raise UserError(
                f"split.time={division.time}: its values can't be put in order ({kinds}): {first_line(error)}"
            ) from error
    labels = targets_of(whole) if division.stratify else None
    groups = _column(whole, division.group, "group") if division.group else None

    def parts_of(chosen: Tensor, portions: Sequence[float], stream: int) -> list[Tensor]:
        """These samples in parts of these shares."""
        if groups is not None:
            inner = by_group([groups[index] for index in chosen.tolist()], portions, seed, stream)
        else:
            some = labels[chosen] if labels is not None else None
            inner = divide(len(chosen), portions, some, seed, stream)
        return [chosen[part] for part in inner]

    if not division.folds:
        return dict(zip(wanted, parts_of(torch.arange(count), list(wanted.values()), 0), strict=True))
    test_share = wanted.get("test", 0.0)
    rest, found = torch.arange(count), {}
    if test_share:
        rest, found["test"] = parts_of(rest, [sum(wanted.values()) - test_share, test_share], 0)
    folds = parts_of(rest, [1.0] * division.folds, 1)
    if not all(len(fold) for fold in folds):
        raise UserError(
            f"split.folds={division.folds} leaves a fold empty among {_among(whole, division)}: take fewer."
        )
    found["val"] = folds.pop(division.fold)
    return {"train": torch.cat(folds).sort().values, **found}


def _among(whole: Dataset, division: Division) -> str:
    """What is divided, in words: samples, or groups of them."""
    if division.time:
        return f"{len(set(_column(whole, division.time, 'time')))} different values of split.time={division.time}"
    if not division.group:
        return f"{length(whole):,} samples"
    return f"{len(set(_column(whole, division.group, 'group')))} groups of split.group={division.group}"


def _advice(whole: Dataset, division: Division, shares: Mapping[str, float]) -> str:
    """How a split isn't left empty: by fewer splits than there are groups or times, or by such shares that each of the
    latest times is a split."""
    wanted, key = [name for name, share in shares.items() if share > 0], "time" if division.time else "group"
    otherwise, by = "raise its share, or set it to 0 to go without.", division.time or division.group
    if not by:
        return otherwise
    values = _column(whole, by, key)
    different, count = len(set(values)), len(values)
    if different < len(wanted):
        fewer = "; split.fractions=[0.8,0.2,0] goes without test" if different == 2 else ""
        return f"there must be as many as splits{fewer}."
    if key == "group" or list(shares) != list(SPLITS):
        return otherwise
    # Until where the earlier times go, as shares of the samples, cut after two digits.
    ends = [sum(value < time for value in values) for time in sorted(set(values))[1 - len(wanted) :]]
    cuts = [0.0, *(math.floor(100 * end / count) / 100 for end in ends), 1.0]
    portions = {name: round(to - start, 2) for name, (start, to) in zip(wanted, itertools.pairwise(cuts), strict=True)}
    if not all(len(part) for part in by_time(values, list(portions.values()))):
        return otherwise
    return f"split.fractions=[{','.join(f'{portions.get(name, 0):g}' for name in SPLITS)}] would do."


def _column(dataset: Any, name: str, key: str) -> list[Any]:
    """A value for each sample: a column of a table, or an attribute of the data set. Raises UserError."""
    column = asked(dataset, "column")
    values = column(name) if column else getattr(dataset, name, None)
    if values is None:
        raise UserError(
            f"split.{key}={name}: {type(dataset).__name__} has no attribute {name} with one value per sample."
        )
    listed_values = values.tolist() if isinstance(values, Tensor) else list(values)
    if len(listed_values) != length(dataset):
        raise UserError(f"split.{key}={name}: {len(listed_values)} values for {length(dataset)} samples.")
    missing = next((index for index, value in enumerate(listed_values) if value is None or value != value), None)
    if missing is not None:  # or NaN
        raise UserError(f"split.{key}={name}: sample {missing} has none.")
    return listed_values


def by_time(times: Sequence[Any], shares: Sequence[float]) -> list[Tensor]:
    """The earliest samples in the first part, the latest in the last; equal times stay together."""
    order = sorted(range(len(times)), key=lambda index: times[index])
    parts, start, cumulated = [], 0, 0.0
    for share in shares:
        cumulated += share / sum(shares)
        end = max(start, round(cumulated * len(order)))
        while 0 < end < len(order) and times[order[end]] == times[order[end - 1]]:
            end += 1
        parts.append(torch.tensor(sorted(order[start:end]), dtype=torch.int64))
        start = end
    return parts


def by_group(groups: Sequence[Any], shares: Sequence[float], seed: int, stream: int = 0) -> list[Tensor]:
    """Whole groups in parts of about these shares: in random order, each goes to the part that lacks most. Where there
    are groups enough, no part is empty."""
    members: dict[Any, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    names = list(members)
    order = torch.randperm(len(names), generator=seeding.generator(seed, seeding.SPLIT, 2, stream)).tolist()
    order.sort(key=lambda number: -len(members[names[number]]))  # large ones first: the small ones fill the gaps
    lacking = [share / sum(shares) * len(groups) for share in shares]
    parts: list[list[int]] = [[] for _ in shares]
    for done, number in enumerate(order):
        empty = [part for part in range(len(shares)) if not parts[part]]
        open_ones = empty if len(empty) == len(order) - done else range(len(shares))
        place = max(open_ones, key=lambda part: lacking[part])
        parts[place] += members[names[number]]
        lacking[place] -= len(members[names[number]])
    return [torch.tensor(sorted(part), dtype=torch.int64) for part in parts]


def divide(count: int, shares: Sequence[float], labels: Tensor | None, seed: int, stream: int = 0) -> list[Tensor]:
    """Indices 0 .. count-1 in disjoint random parts of these relative shares, each in rising order.

    With labels (N,) of classes, every class is divided in these shares by itself, within one sample: at each cut
    a class gives its whole samples, and what is then missing comes from the classes that are furthest behind.
    """
    place = (seeding.SPLIT, 3, stream) if stream else (seeding.SPLIT,)
    order = torch.randperm(count, generator=seeding.generator(seed, *place))
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
    select = asked(dataset, "select")
    return select(indices) if select else Subset(dataset, indices.tolist())


def by_position(count: int, fractions: Iterable[float]) -> dict[str, tuple[int, int]]:
    """Where each split begins and ends in a sequence of so many elements: one split behind the other."""
    ends = [round(count * share) for share in itertools.accumulate(fractions)]
    return dict(zip(SPLITS, itertools.pairwise([0, *ends]), strict=True))
