"""Where samples come from. A data set is a torch `Dataset`: it has a length, and an index gives one sample.

Data that fits in memory is held as two tensors and fetched a batch at a time, which is a hundred times faster
than a sample at a time; images stay uint8 until they are on the device.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from plainloop.errors import UserError


class InMemory(Dataset):
    """Inputs (N, ...) and targets (N, ...) as tensors.

    An index gives (input, target); `__getitems__`, which the DataLoader prefers, gives a whole batch
    (inputs (B, ...), targets (B, ...)) that needs no collating.

    Args:
        inputs: images (N, C, H, W) as uint8, or features (N, F) as float32.
        targets: classes (N,) as int64, or values (N, T) as float32.
        classes: names of the classes, in order, where the targets are classes.
        target_names: names of the T values, where they are not.
        note: a remark for the data line of the terminal, as "2 rows with missing values left out".
    """

    gives_batches = True

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        classes: Sequence[str] | None = None,
        target_names: Sequence[str] | None = None,
        note: str = "",
    ):
        if len(inputs) != len(targets):
            raise UserError(f"data: {len(inputs)} inputs and {len(targets)} targets: their numbers must be equal.")
        self.inputs, self.targets = inputs, targets
        self.classes, self.target_names, self.note = classes, target_names, note

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]

    def __getitems__(self, indices: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = torch.as_tensor(indices, device=self.inputs.device)
        return self.inputs.index_select(0, rows), self.targets.index_select(0, rows)  # twice as fast as [rows]

    def to(self, device: torch.device) -> None:
        """Hold the samples on this device: batches are made there, and needn't be copied to it."""
        self.inputs, self.targets = self.inputs.to(device), self.targets.to(device)

    def select(self, indices: Sequence[int]) -> "InMemory":
        """The samples at these indices, as a data set of their own."""
        inputs, targets = self.__getitems__(indices)
        return InMemory(inputs, targets, self.classes, self.target_names, self.note)


SPLITS = ("train", "val", "test")
IGNORED = -100  # the label that torch's losses pass over, unless their ignore_index names another


def size(dataset: Dataset | None) -> int | None:
    """Samples in a split: 0 for none, None for a stream that doesn't know."""
    if dataset is None:
        return 0
    unknown = isinstance(dataset, IterableDataset) and not hasattr(dataset, "__len__")
    return None if unknown else len(dataset)  # type: ignore[arg-type]


def own(dataset: Any, name: str) -> Any:
    """An attribute of the user's data set, whatever it has been wrapped in (a Subset, transforms); None for none."""
    while not hasattr(dataset, name) and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return getattr(dataset, name, None)


def length(dataset: Dataset) -> int:
    """Samples in a split that can be looked up by index."""
    return len(dataset)  # type: ignore[arg-type]


def targets_of(dataset: Dataset | None) -> Tensor | None:
    """All targets of a data set that holds them as `targets` (as ours and torchvision's do), or None."""
    return per_sample(dataset, "targets")


def per_sample(dataset: Any, name: str) -> Tensor | None:
    """A number for each sample, (N, ...), that a data set holds as an attribute: its targets, lengths; or None."""
    if not hasattr(dataset, name) and hasattr(dataset, "dataset"):
        inner = per_sample(dataset.dataset, name)
        chosen = getattr(dataset, "indices", None)
        return inner if inner is None or chosen is None else inner[torch.as_tensor(chosen)]
    values = getattr(dataset, name, None)
    if values is None:
        return None
    try:
        return torch.as_tensor(values, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        return None


def place_of(dataset: Any, split: str, index: int) -> str:
    """Where a sample stands, as the user's data set tells it, whatever it has been wrapped in; else its index."""
    own_index = index
    while not hasattr(dataset, "where") and hasattr(dataset, "dataset"):
        own_index = int(dataset.indices[own_index]) if hasattr(dataset, "indices") else own_index
        dataset = dataset.dataset
    return dataset.where(own_index) if hasattr(dataset, "where") else f"data: sample {index} of {split}"
