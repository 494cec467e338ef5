"""Where samples come from. A data set is a torch `Dataset`: it has a length, and an index gives one sample.

Data that fits in memory is held as two tensors and fetched a batch at a time, which is a hundred times faster
than a sample at a time; images stay uint8 until they are on the device.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset

from plainloop.build import factory
from plainloop.data.named_arrays import NamedArrays
from plainloop.errors import UserError, first_line, listed


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


def checked(data: InMemory, where: str = "data") -> InMemory:
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


def find_path(path: str | Path) -> Path:
    """A relative path of the user's is looked for in the working directory, then in the checkout."""
    given = Path(path).expanduser()
    inside = Path(__file__).resolve().parents[3] / given
    return inside if not given.is_absolute() and not given.exists() and inside.exists() else given


def check_whole(key: str, value: Any, least: int = 1, null: bool = False) -> None:
    """Raises UserError for what is no whole number of at least `least`."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not (whole or (null and value is None)):
        raise UserError(f"data.{key}={value}: must be a whole number of at least {least}{' or null' if null else ''}.")


def checked_labels(labels: Any, classes: Sequence[str] | None, where: str) -> tuple[Tensor, list[str]]:
    """Whole numbers 0 .. C-1 as int64, and the names of the classes. Raises UserError for labels outside."""
    labels = torch.as_tensor(labels)
    if labels.is_floating_point() or labels.ndim != 1:
        raise UserError(f"{where}: labels must be whole numbers, one per sample; these are {_described(labels)}.")
    labels = labels.to(torch.int64)
    if len(labels) == 0:
        return labels, list(classes or [])
    low, high = int(labels.min()), int(labels.max())
    names = list(classes) if classes is not None else [str(number) for number in range(high + 1)]
    if low < 0 or high >= len(names):
        wrong = low if low < 0 else high
        index = int((labels == wrong).nonzero()[0])
        raise UserError(
            f"{where}: sample {index} has label {wrong}, outside the {len(names)} classes 0 to {len(names) - 1}."
        )
    return labels, names


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


@factory("data")
def points(inputs: Sequence[Sequence[float]], targets: Sequence[Sequence[float]]) -> InMemory:
    """A handful of samples written in the config itself: inputs (N, F) and targets (N, T)."""
    try:
        rows = torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"data.inputs and data.targets: rows of numbers, of equal length, are needed: {first_line(error)}"
        ) from error
    return checked(InMemory(*rows))


@factory("data")
def arrays(path: str, inputs: str = "inputs", targets: str | None = "targets",
           classes: str | Sequence[str] = "classes", only: Sequence[str] | None = None,
           task: str | None = None) -> InMemory:  # fmt: skip
    """Arrays in an .npz or .safetensors file, or in a folder of .npy files: whole-number targets are classes, others
    are values.

    Args:
        path: a relative one is looked for in the working directory, then in the checkout.
        inputs: name of the array of vectors (N, F) or images (N, C, H, W); uint8 (N, H, W) are grey images.
        targets: name of the array of classes (N,), values (N,) or (N, T), or, for task=multilabel, 0 and 1 (N, T);
            None for none.
        classes: name of an array of class names, which may be absent; or the names themselves, in a list.
        only: names of the classes whose samples are taken, as [0, 1]; None for all.
        task: with regression, whole numbers are values too.
    """
    held = NamedArrays(find_path(path), path)
    tensor = _numbers(held, "inputs", inputs, path)
    if tensor.dtype != torch.uint8:
        tensor = tensor.float()
    elif tensor.ndim == 3:
        tensor = tensor.unsqueeze(1)
    if targets is None:
        return checked(InMemory(tensor, torch.zeros(len(tensor))), str(path))
    labels = _numbers(held, "targets", targets, path)
    if len(labels) != len(tensor):
        raise UserError(f"data.path={path}: {len(tensor)} {inputs} and {len(labels)} {targets}: their numbers must be "
                        "equal.")  # fmt: skip
    if labels.is_floating_point() or task in ("regression", "multilabel"):
        return checked(InMemory(tensor, labels.float()), str(path))
    names = [str(name) for name in held[classes]] if isinstance(classes, str) and classes in held else None
    names = names if isinstance(classes, str) else [str(name) for name in classes]
    whole, names = checked_labels(labels, names, str(path))
    if only is not None:
        kept = _numbers_of(only, names)
        mine = torch.isin(whole, torch.tensor(kept))
        tensor, whole = tensor[mine], torch.searchsorted(torch.tensor(kept), whole[mine])
        names = [names[number] for number in kept]
    return checked(InMemory(tensor, whole, classes=names), str(path))


def _numbers_of(only: Any, names: Sequence[str]) -> list[int]:
    """The numbers of some classes, in order. Raises UserError for what is none."""
    wanted = [str(name) for name in only] if isinstance(only, list | tuple) else []
    for name in wanted or [str(only)]:
        if not wanted or name not in names:
            raise UserError(f"data.only={name}: must be a list of classes; there are {listed(names)}.")
    return sorted({names.index(name) for name in wanted})


def _numbers(held: NamedArrays, argument: str, name: str, path: str) -> Tensor:
    if name not in held:
        raise UserError(f"data.{argument}={name}: {path} has no such array. It has: {listed(held.names)}.")
    array = held[name]
    if isinstance(array, numpy.ndarray):
        if array.dtype.kind not in "buif":
            words = " A number for each word: numpy.unique(words, return_inverse=True)" * (array.dtype.kind in "US")
            raise UserError(f"data.{argument}={name}: numbers are needed; {path} has {array.dtype} there.{words}")
        array = torch.from_numpy(array if array.itemsize <= 8 else array.astype(numpy.float64))
    if array.ndim == 0:
        raise UserError(f"data.{argument}={name}: {path} has a single number there, not one for each sample.")
    return array


def _task_of_arrays(path: str, targets: str | None = "targets", **others: Any) -> tuple[str, str]:
    if targets is None:
        return "reconstruction", "there are no targets"
    found = _numbers(NamedArrays(find_path(path), path), "targets", targets, path)
    kind = _described(found)
    if found.is_floating_point():
        return "regression", f"{targets} is {kind}"
    if found.ndim == 2 and bool(((found == 0) | (found == 1)).all()):
        return "multilabel", f"{targets} is {kind}, all 0 and 1"
    return "multiclass", f"{targets} is {kind}"


arrays.task_of = _task_of_arrays  # type: ignore[attr-defined]
