"""Arrays in files: whole-number targets are classes, others are values."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plainloop.build import factory
from plainloop.data.dataset import IGNORED, InMemory
from plainloop.data.kinds.checks import checked_arrays, checked_labels
from plainloop.data.kinds.named_arrays import NamedArrays
from plainloop.data.kinds.new_arrays import ArrayReader, as_float32, is_one_hot, numbers_in
from plainloop.errors import UserError, described, listed
from plainloop.places import find_path


@factory("data", provides=("in_channels", "image_size"))
def arrays(
    path: str,
    inputs: str = "inputs",
    targets: str | None = "targets",
    classes: str | Sequence[str] = "classes",
    only: Sequence[str] | None = None,
    task: str | None = None,
) -> InMemory:
    """Arrays in an .npz or .safetensors file, or in a folder of .npy files: whole-number targets are classes, others
    are values.

    Args:
        path: a relative one is looked for in the working directory, then in the checkout.
        inputs: name of the array of vectors (N, F) or images (N, C, H, W); uint8 (N, H, W) are grey images.
        targets: name of the array of classes (N,) or one-hot (N, C), values (N,) or (N, T), or, for task=multilabel,
            0 and 1 (N, T); None for none.
        classes: name of an array of class names, which may be absent; or the names themselves, in a list.
        only: names of the classes whose samples are taken, as [0, 1]; None for all.
        task: with regression, whole numbers are values too.
    """
    held = NamedArrays(find_path(path), path)
    notes: list[str] = []
    tensor = numbers_in(held, "inputs", inputs, path)
    if tensor.dtype != torch.uint8:
        tensor = as_float32(tensor, inputs, notes)
    elif tensor.ndim == 3:
        tensor = tensor.unsqueeze(1)
    if targets is None:
        return checked_arrays(InMemory(tensor, torch.zeros(len(tensor)), note="\n".join(notes)), str(path))
    labels = numbers_in(held, "targets", targets, path)
    if len(labels) != len(tensor):
        raise UserError(
            f"data.path={path}: {len(tensor)} {inputs} and {len(labels)} {targets}: their numbers must be equal."
        )
    one_hot = task in (None, "auto", "multiclass") and is_one_hot(labels)
    if (labels.is_floating_point() and not one_hot) or task in ("regression", "multilabel"):
        values = as_float32(labels, targets, notes)
        return checked_arrays(InMemory(tensor, values, note="\n".join(notes)), str(path))
    note = ""
    names = [str(name) for name in held[classes]] if isinstance(classes, str) and classes in held else None
    names = names if isinstance(classes, str) else [str(name) for name in classes]
    if one_hot:
        note = f"{targets} is one-hot, the place of the 1 is the class"
        names, labels = names or [str(number) for number in range(labels.shape[1])], labels.int().argmax(1)
    elif names is None:
        labels, names, note = _numbered(labels)
    whole, names = checked_labels(labels, names, str(path))
    if only is not None:
        kept = _numbers_of(only, names)
        mine = torch.isin(whole, torch.tensor(kept))
        tensor, whole = tensor[mine], torch.searchsorted(torch.tensor(kept), whole[mine])
        names = [names[number] for number in kept]
    return checked_arrays(
        InMemory(tensor, whole, classes=names, note="\n".join(filter(None, [note, *notes]))), str(path)
    )


arrays.reader = ArrayReader  # type: ignore[attr-defined]


def _numbered(labels: Tensor) -> tuple[Tensor, list[str] | None, str]:
    """Labels with gaps, or that don't begin with 0, as 0 .. C-1; the classes are called as they were, and it is said:
    else there would be classes that nobody has. Labels (N,) of `ignore_index` stay."""
    if labels.ndim != 1 or labels.is_floating_point():
        return labels, None, ""
    whole = labels.to(torch.int64)  # an unsigned byte can't be -100, and torch would take 156 for it
    known = whole != IGNORED
    values = whole[known].unique()
    if torch.equal(values, torch.arange(len(values))):
        return whole, [str(number) for number in range(len(values))], ""
    names = [str(value) for value in values.tolist()]
    return (
        torch.where(known, torch.searchsorted(values, whole), IGNORED),
        names,
        f"the classes are the {len(names)} labels that occur, {listed(names, 8)}",
    )


def _numbers_of(only: Any, names: Sequence[str]) -> list[int]:
    """The numbers of some classes, in order. Raises UserError for what is none."""
    wanted = [str(name) for name in only] if isinstance(only, list | tuple) else []
    for name in wanted or [str(only)]:
        if not wanted or name not in names:
            raise UserError(f"data.only={name}: must be a list of classes; there are {listed(names)}.")
    return sorted({names.index(name) for name in wanted})


def _task_of_arrays(path: str, targets: str | None = "targets", **others: Any) -> tuple[str, str]:
    if targets is None:
        return "reconstruction", "there are no targets"
    found = numbers_in(NamedArrays(find_path(path), path), "targets", targets, path)
    kind = described(found)
    if is_one_hot(found):
        return "multiclass", f"{targets} is {kind}, one-hot"
    if found.is_floating_point():
        return "regression", f"{targets} is {kind}"
    if found.ndim == 2 and bool(((found == 0) | (found == 1)).all()):
        return "multilabel", f"{targets} is {kind}, all 0 and 1"
    return "multiclass", f"{targets} is {kind}"


arrays.task_of = _task_of_arrays  # type: ignore[attr-defined]
