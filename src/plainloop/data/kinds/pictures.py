"""Pictures, as Pillow opens them, become tensors of one size and of one or three channels."""

import math
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from plainloop.errors import UserError

GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # Pillow's names
DEEP_MODES = GREY_MODES[4:]  # of more than 8 bits
LARGEST = 224  # the side of the images that most networks are tried on
MOST = 1_000_000_000  # bytes of images that are held in memory

# What image files are called.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
# What is opened, whatever a file is called: Pillow would start a program for PostScript.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM")


def check_channels(channels: int | None) -> None:
    """Of `data.channels`. Raises UserError."""
    if channels not in (None, 1, 3):
        raise UserError(f"data.channels={channels}: must be 1 (grey), 3 (colour) or null (what the images are).")


def checked_size(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """(height, width) of `data.size`. Raises UserError."""
    if size is None:
        return None
    pair = size if isinstance(size, list | tuple) else (size, size)
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise UserError(f"data.size={size}: a number of pixels, as 64, or height and width, as [64,96].")
    return pair[0], pair[1]


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

    with Image.open(file, formats=FORMATS) as image:
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
