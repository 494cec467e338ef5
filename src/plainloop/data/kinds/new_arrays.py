"""New arrays to predict from, and what is asked of an array that a file holds."""

import math
import textwrap
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from plainloop.data.dataset import IGNORED
from plainloop.data.kinds.named_arrays import NamedArrays
from plainloop.data.kinds.new_files import OF_A_PICTURE, ImageReader, labels_of
from plainloop.data.raw import Raw, of_arrays
from plainloop.data.reading import New, Reader, Rows
from plainloop.errors import UserError, described, first_line, listed
from plainloop.places import find_path


class ArrayReader(Reader):
    """Arrays of the shape of the training samples: a .npy file, or a file or folder that holds one under the name that
    the training data had; or image files, where that is an image's."""

    def open(self, given: Any) -> New:
        shape = tuple(self.reading("shape"))
        notes: list[str] = []
        if isinstance(given, str | Path):
            path = find_path(given)
            is_array = path.suffix in (".npy", ".npz", ".safetensors") or (path.is_dir() and any(path.glob("*.npy")))
            if len(shape) == 3 and self.reading("bytes") and not is_array:
                return ImageReader(self.node, self.spec).open(given)
            if path.suffix == ".npy":
                tensor = numbers_in(NamedArrays(path.parent, str(given)), "inputs", path.stem, str(given))
            else:
                name = str(self.node.get("inputs", "inputs"))
                tensor = numbers_in(NamedArrays(path, str(given)), "inputs", name, str(given))
        else:
            try:
                tensor = torch.as_tensor(given)
            except (TypeError, ValueError, RuntimeError) as error:
                raise UserError(f"input: rows of numbers, of equal length, are needed: {first_line(error)}") from error
        if len(shape) == 3 and tensor.ndim == 3 and tensor.shape[1:] == shape[1:] and shape[0] == 1:
            tensor = tensor.unsqueeze(1)
        if tuple(tensor.shape[1:]) != shape:
            raise UserError(f"input: arrays of shape (N, {', '.join(map(str, shape))}) are needed; these are "
                            f"{described(tensor)}.")  # fmt: skip
        if not self.reading("bytes"):
            tensor = as_float32(tensor, "inputs", notes)
        elif tensor.dtype != torch.uint8:
            raise UserError(f"input: the model was trained on whole numbers of 8 bits; these are {described(tensor)}.")
        return New(Rows(tensor), "row", range(1, len(tensor) + 1), notes=notes)

    def truths(self, given: Any, new: New) -> tuple[Tensor, Tensor]:
        if new.column == "file":
            return labels_of(given, new.names, self.node, self.spec)
        path, name = find_path(given), str(self.node.get("targets", "targets"))
        if path.suffix == ".npy":
            raise UserError(f"input={given}: what is right? A .npz, or a folder, holds {name} beside the inputs.")
        targets = numbers_in(NamedArrays(path, str(given)), "targets", name, str(given))
        if len(targets) != len(new.names):
            raise UserError(f"input={given}: {len(new.names)} inputs and {len(targets)} {name}.")
        if self.spec.class_names is None:
            return as_float32(targets, name, new.notes), torch.ones(len(targets), dtype=torch.bool)
        if is_one_hot(targets):
            return targets.int().argmax(1), torch.ones(len(targets), dtype=torch.bool)
        named = self.node.get("classes") is not None  # then the labels are the classes' numbers
        numbers = {str(place) if named else word: place for place, word in enumerate(self.spec.class_names)}
        there = targets.to(torch.int64) != IGNORED
        words = [str(value) for value in targets.tolist()]
        unknown = [
            word for word, is_there in zip(words, there.tolist(), strict=True) if is_there and word not in numbers
        ]
        if unknown:
            raise UserError(f"input={given}: {name} holds {unknown[0]}, and the model knows {listed(numbers, 8)}.")
        return torch.tensor([numbers.get(word, 0) for word in words]), there

    def raw(self) -> Raw:
        shape, name = self.reading("shape"), str(self.node.get("inputs", "inputs"))
        if len(shape) != 3 or not self.reading("bytes"):
            return of_arrays(shape, name)
        raw = ImageReader(self.node, self.spec).raw()
        raw.facts |= {"array": name}
        raw.script = OF_IMAGES if shape[0] not in (1, 3) else f"{OF_EITHER}{textwrap.indent(OF_A_PICTURE, '    ')}"
        return raw


# Images in an array (N, C, H, W) or (N, H, W).
OF_IMAGES = """\
array = numpy.load(path)
array = array if path.endswith(".npy") else array[facts["array"]]
inputs = {"image": array[..., None] if array.ndim == 3 else array.transpose(0, 2, 3, 1)}
"""
OF_EITHER = f"""\
if path.endswith((".npy", ".npz")):
{textwrap.indent(OF_IMAGES, "    ")}else:
"""


def as_float32(numbers: Tensor, name: str, notes: list[str]) -> Tensor:
    """Numbers as float32, with a note where that is too coarse for them."""
    narrow = numbers.float()
    if numbers.dtype in (torch.float64, torch.int32, torch.int64, torch.uint32, torch.uint64):
        wide = numbers.double()
        error, deviation = float((narrow.double() - wide).abs().max()), float(wide.std())
        if math.isfinite(error) and error > 1e-3 * deviation > 0:
            notes.append(f"{name} are rounded to the 7 digits of float32: subtract a constant from them")
    return narrow


def is_one_hot(labels: Tensor) -> bool:
    """(N, C) of 0 and 1, one 1 in each row."""
    return (
        labels.ndim == 2
        and labels.shape[1] > 1
        and bool(((labels == 0) | (labels == 1)).all())
        and bool((labels.sum(1) == 1).all())
    )


def numbers_in(held: NamedArrays, argument: str, name: str, path: str) -> Tensor:
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
