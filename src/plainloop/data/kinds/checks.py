"""What data from a user's file must hold."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plainloop.data.dataset import IGNORED, InMemory
from plainloop.errors import UserError, described


def checked_arrays(data: InMemory, where: str = "data") -> InMemory:
    """Data from a user's file, checked. Raises UserError with the first sample that is wrong."""
    shape = tuple(data.inputs.shape)
    if shape[0] == 0:
        raise UserError(f"{where}: there are no samples in it.")
    if len(shape) < 2:
        raise UserError(f"{where}: the inputs are of shape {shape}; they must be (N, F) or (N, C, H, W).")
    if len(shape) == 4 and shape[-1] in (1, 3, 4) and shape[1] > 4:
        raise UserError(f"{where}: images must be (N, C, H, W), and these are {shape}: put the last axis second.")
    for name, values in (("inputs", data.inputs), ("targets", data.targets)):
        wrong = ~(values.flatten(1).isfinite().all(1) if values.ndim > 1 else values.isfinite())
        if wrong.any():
            raise UserError(
                f"{where}: the {name} of sample {int(wrong.nonzero()[0])} hold NaN or infinity (so in "
                f"{int(wrong.sum())} of {len(data)}): leave those out, or fill them in."
            )
    return data


def check_whole_number(key: str, value: Any, least: int = 1, null: bool = False) -> None:
    """Raises UserError for what is no whole number of at least `least`."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not (whole or (null and value is None)):
        raise UserError(f"data.{key}={value}: must be a whole number of at least {least}{' or null' if null else ''}.")


def names_in(key: str, value: Any) -> list[str] | None:
    """A list of columns, of which some may be called by a number (2019). Raises UserError for one name without
    brackets."""
    if isinstance(value, str | int | float):
        raise UserError(f"data.{key}={value}: must be a list, as in data.{key}=[{value}]")
    return None if value is None else [str(name) for name in value]


def name_in(value: Any) -> str | None:
    """The name of a column, which may be a number."""
    return None if value is None else str(value)


def as_list(names: Any) -> list[str]:
    """One name, several or none, as a list."""
    return [str(names)] if isinstance(names, str | int | float) else [str(name) for name in names or ()]


def checked_labels(labels: Any, classes: Sequence[str] | None, where: str) -> tuple[Tensor, list[str]]:
    """Whole numbers 0 .. C-1 as int64, and the names of the classes. Raises UserError for labels outside."""
    labels = torch.as_tensor(labels)
    if labels.is_floating_point() or labels.ndim != 1:
        raise UserError(f"{where}: labels must be whole numbers, one per sample; these are {described(labels)}.")
    labels = labels.to(torch.int64)
    known = labels[labels != IGNORED]
    if len(known) == 0:
        return labels, list(classes or [])
    low, high = int(known.min()), int(known.max())
    names = list(classes) if classes is not None else [str(number) for number in range(high + 1)]
    if low < 0 or high >= len(names):
        wrong = low if low < 0 else high
        index = int((labels == wrong).nonzero()[0])
        raise UserError(
            f"{where}: sample {index} has label {wrong}, outside the {len(names)} classes 0 to {len(names) - 1}."
        )
    return labels, names
