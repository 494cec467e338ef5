"""Images in files: decoded one by one, in a size that suits them. `files.py` finds them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from plainloop.build import factory
from plainloop.data.kinds.files import Files, find
from plainloop.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # Pillow's names
DEEP_MODES = GREY_MODES[4:]  # of more than 8 bits
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}  # what stands at the end of a whole file
LARGEST = 224  # the side of the images that most networks are tried on


class Images(Files):
    """Images that are decoded when they are asked for: (channels, height, width), and a class each.

    Args:
        size, channels, deep: as in `decode`.
        others: as in `Files`.
    """

    def __init__(self, size: tuple[int, int], channels: int, deep: bool, **others: Any):
        super().__init__(**others)
        self.size, self.channels, self.deep = size, channels, deep

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file, label = self.samples[index]
        return decode(file, self.size, self.channels, self.deep), label


@factory("data", provides=("in_channels", "image_size"))
def images(
    path: str,
    split: str,
    size: int | Sequence[int] | None = None,
    channels: int | None = None,
    image: str | None = None,
    target: str | None = None,
) -> Images | None:
    """Images of your own, and a class for each.

    Args:
        path: a folder with a folder for each class in it (or with train/, val/ and test/, and in these a folder for
            each class), or a table with a column of paths, relative to it, one of labels and, if it likes, one that
            is called `split`.
        split: "train", "val" or "test"; the answer is None for one that the data doesn't have.
        size: height and width of what the model gets, as 64 or [64, 96]; None for `suitable_size`.
        channels: 1 for grey, 3 for colour; None for what the files are.
        image, target: the table's columns of paths and of labels; None for the usual names.
    """
    if channels not in (None, 1, 3):
        raise UserError(f"data.channels={channels}: must be 1 (grey), 3 (colour) or null (what the files are).")
    wanted = checked_size(size)
    found = find(path, SUFFIXES, "images", {"image": image, "target": target})
    headers = found.look(header)
    if split not in found.files:
        return None
    sides, modes = [(height, width) for height, width, _ in headers], {mode for *_, mode in headers}
    height, width = wanted or suitable_size(sides)
    grey, deep = modes <= set(GREY_MODES), bool(modes & set(DEEP_MODES))
    remark = "more than 8 bits: given as floats, which transforms.normalize=train suits" if deep else ""
    note = found.note(_sizes(sides, (height, width)), remark)
    return Images((height, width), channels or (1 if grey else 3), deep, note=note, **found.samples(split))


def checked_size(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """(height, width) of `data.size`. Raises UserError."""
    if size is None:
        return None
    pair = size if isinstance(size, list | tuple) else (size, size)
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise UserError(f"data.size={size}: a number of pixels, as 64, or height and width, as [64,96].")
    return pair[0], pair[1]


def header(file: str) -> tuple[int, int, str]:
    """Height, width and mode (Pillow's word for grey, colour, palette, ...) of an image file, without decoding it; but
    one that seems to be cut off is decoded, and raises OSError if it is."""
    from PIL import Image

    with Image.open(file) as image:
        found = image.height, image.width, image.mode
        if image.format in ENDS and not _has_end(file, ENDS[image.format]):
            image.load()
        return found


def _has_end(file: str, mark: bytes) -> bool:
    """Whether a mark stands near the end of a file. (Some cameras write something behind it.)"""
    with open(file, "rb") as opened:
        opened.seek(max(0, opened.seek(0, 2) - 4096))
        return mark in opened.read()


def suitable_size(sides: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Height and width for the model's images, from those of the files: their own where they are all alike and of at
    most 224 pixels; else a square whose side is the largest multiple of 32, up to 224, that 9 in 10 of them have on
    their shorter side (and 32 at least)."""
    if len(set(sides)) == 1 and max(sides[0]) <= LARGEST:
        return sides[0]
    shorter = sorted(min(pair) for pair in sides)
    usual = shorter[math.floor(0.1 * len(shorter))]
    side = max(32, min(LARGEST, usual // 32 * 32))
    return side, side


def _sizes(sides: Sequence[tuple[int, int]], size: tuple[int, int]) -> str:
    """How large the files are, and what is made of it."""
    heights, widths = zip(*sides, strict=True)
    if len(set(sides)) == 1:
        files = f"files of {heights[0]} x {widths[0]} pixels"
    else:
        files = f"files from {min(heights)} x {min(widths)} to {max(heights)} x {max(widths)} pixels"
    same = set(sides) == {size}
    return files if same else f"{files}, as {size[0]} x {size[1]} (data.size=...)"


def decode(file: Any, size: tuple[int, int], channels: int, deep: bool = False) -> Tensor:
    """An image file as (channels, height, width): upright, and of it the largest part in the middle that has the
    wanted proportions.

    Args:
        file: a path, or an open file.
        size: height and width.
        channels: 1 for grey, 3 for colour.
        deep: float32 (whole numbers of more than 8 bits as x / 65535, others from 0 to 1, floats as they are), where
            else it would be uint8.
    """
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        # A JPEG is decoded at a half, a quarter or an eighth of its size, where that is twice the wanted one or more.
        image.draft("L" if channels == 1 else None, (2 * max(size), 2 * max(size)))
        ImageOps.exif_transpose(image, in_place=True)
        return pixels(image, size, channels, deep)


def pixels(image: Any, size: tuple[int, int], channels: int, deep: bool = False) -> Tensor:
    """A Pillow image as (channels, height, width), as `decode` gives it. What is transparent is put on white."""
    from PIL import Image

    if image.mode in DEEP_MODES:
        values = numpy.asarray(image).astype(numpy.float32)
        image = Image.fromarray(values if image.mode == "F" else values / 65535)
    else:
        if image.has_transparency_data:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        mode = "L" if channels == 1 else "RGB"
        image = image if image.mode == mode else image.convert(mode)
    values = numpy.array(_fitted(image, size))
    tensor = torch.from_numpy(values)
    tensor = tensor.expand(channels, -1, -1) if tensor.ndim == 2 else tensor.permute(2, 0, 1)
    if deep:
        tensor = tensor if tensor.is_floating_point() else tensor / 255
    elif tensor.is_floating_point():
        tensor = (tensor.clamp(0, 1) * 255).round().to(torch.uint8)
    return tensor.contiguous()


def _fitted(image: Any, size: tuple[int, int]) -> Any:
    """The middle of an image, shrunk or enlarged to a size."""
    from PIL import Image

    height, width = size
    scale = min(image.height / height, image.width / width)
    left, top = (image.width - scale * width) / 2, (image.height - scale * height) / 2
    if scale == 1:  # whole pixels, as they are
        return image.crop((int(left), int(top), int(left) + width, int(top) + height))
    box = (left, top, min(left + scale * width, image.width), min(top + scale * height, image.height))
    return image.resize((width, height), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
