"""A handful of samples, written in the config itself."""

from collections.abc import Sequence

import torch

from plainloop.build import factory
from plainloop.data.dataset import InMemory
from plainloop.data.kinds.checks import checked_arrays
from plainloop.data.kinds.new_arrays import ArrayReader
from plainloop.errors import UserError, first_line


@factory("data")
def points(inputs: Sequence[Sequence[float]], targets: Sequence[Sequence[float]]) -> InMemory:
    """A handful of samples written in the config itself: inputs (N, F) and targets (N, T)."""
    try:
        rows = torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"data.inputs and data.targets: rows of numbers, of equal length, are needed: {first_line(error)}"
        ) from error
    return checked_arrays(InMemory(*rows))


points.reader = ArrayReader  # type: ignore[attr-defined]
