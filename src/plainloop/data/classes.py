"""The classes of a data set: their names, and whether every label is one of them."""

import re
from collections.abc import Sequence

import torch
from torch.utils.data import Dataset, IterableDataset

from plainloop.data.dataset import IGNORED, SPLITS, asked, place_of, size, targets_of
from plainloop.data.fetch import each_sample
from plainloop.data.splits import Data
from plainloop.errors import UserError, listed, number_type


def place_among_classes(name: str) -> tuple[int, int, str]:
    """What class names are sorted by: numbers in the order of the numbers, before words in that of the alphabet."""
    return (0, int(name), name) if re.fullmatch(r"-?\d+", name) else (1, 0, name)


def class_names_of(dataset: Dataset, most: int = 20_000, ignored: int = IGNORED, skip: int = 0) -> list[str]:
    """The names of the classes: the data set's own `classes`, or the whole numbers among its targets.

    A data set that has neither `classes` nor `targets` is read through, if it isn't longer than `most`.
    Raises UserError where there are no classes to be found.
    """
    names = asked(dataset, "classes")
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
            raise UserError(
                f"data: the target of sample 0 is {dataset[0][1]!r}, where this task needs a class "
                "(a whole number from 0)."
            ) from error
    if targets.is_floating_point():
        raise UserError(
            f"data: the targets are {number_type(targets)} numbers, where this task needs classes "
            f"(whole numbers from 0). For numbers: task=regression"
        )
    kept = targets[targets != ignored]
    return [str(number) for number in range(int(kept.max()) + 1 if len(kept) else 0)]


def check_classes(data: Data, names: Sequence[str]) -> None:
    """Every known label of every split is one of the classes, and none of val and test is new to train. Raises
    UserError with the split and the index, or with the place that the data set's `where(index)` tells."""
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
    known = targets_of(data.train)
    if known is None or known.is_floating_point() or known.ndim != 1 or bool((known == data.ignored).all()):
        return
    for split in SPLITS[1:]:
        targets = targets_of(data[split])
        if targets is None:
            continue
        strange = (~torch.isin(targets, known) & (targets != data.ignored)).nonzero()[:, 0]
        if len(strange):
            index = int(strange[0])
            label, where = int(targets[index]), place_of(data[split], split, index)
            raise UserError(
                f"{where}: the class {names[label]} isn't in the training split "
                f"({int((targets == label).sum())} in {split}, the first here), and can't be learned. "
                "Leave it out, or change the split."
            )
