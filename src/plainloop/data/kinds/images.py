"""Images in files: decoded one by one, in a size that suits them. `files.py` finds them."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from plainloop.build import factory
from plainloop.data.kinds.files import Files, find
from plainloop.data.kinds.new_files import ImageReader
from plainloop.data.kinds.pictures import (
    DEEP_MODES,
    FORMATS,
    GREY_MODES,
    SUFFIXES,
    check_channels,
    checked_size,
    decode,
    suitable_size,
)

ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}  # what stands at the end of a whole file


class Images(Files):
    """Images that are decoded when they are asked for: (channels, height, width), and a class, numbers or labels.

    Args:
        size, channels, deep: as in `decode`.
        others: as in `Files`.
    """

    def __init__(self, size: tuple[int, int], channels: int, deep: bool, **others: Any):
        super().__init__(**others)
        self.size, self.channels, self.deep = size, channels, deep

    def __getitem__(self, index: int) -> tuple[Tensor, int | Tensor]:
        file, label = self.samples[index]
        target = label if self.classes is not None else self.targets[index]
        return decode(file, self.size, self.channels, self.deep), target


@factory("data", provides=("in_channels", "image_size"))
def images(
    path: str,
    split: str,
    size: int | Sequence[int] | None = None,
    channels: int | None = None,
    image: str | None = None,
    target: str | Sequence[str] | None = None,
    labels_separator: str | None = None,
    task: str = "multiclass",
) -> Images | None:
    """Images of your own, and a class for each; or, from a table, numbers, or several labels.

    Args:
        path: a folder with a folder for each class in it (or with train/, val/ and test/, and in these a folder for
            each class), or a table with a column of paths, relative to it, one of labels and, if it likes, one that
            is called `split`.
        split: "train", "val" or "test"; the answer is None for one that the data doesn't have.
        size: height and width of what the model gets, as 64 or [64, 96]; None for `suitable_size`.
        channels: 1 for grey, 3 for colour; None for what the files are.
        image, target: the table's columns of paths and of labels; None for the usual names.
        labels_separator: what parts several labels in one field (red|big).
        task: regression: targets are the numbers of T columns, (N, T) float32. multilabel: T columns of 0 and 1, or
            the T labels that fields hold, (N, T) float32. Else they are classes, (N,) int64.
    """
    check_channels(channels)
    wanted = checked_size(size)
    found = find(path, SUFFIXES, "images", ("image", image), target, task, labels_separator)
    headers = found.look(header)
    if split not in found.files:
        return None
    sides, modes = [(height, width) for height, width, _ in headers], {mode for *_, mode in headers}
    height, width = wanted or suitable_size(sides)
    grey, deep = modes <= set(GREY_MODES), bool(modes & set(DEEP_MODES))
    remark = "more than 8 bits: given as floats, which transforms.normalize=train suits" if deep else ""
    note = found.note(_sizes(sides, (height, width)), remark)
    return Images((height, width), channels or (1 if grey else 3), deep, note=note, **found.samples(split))


images.reader = ImageReader  # type: ignore[attr-defined]


def header(file: str) -> tuple[int, int, str]:
    """Height, width and mode (Pillow's word for grey, colour, palette, ...) of an image file, without decoding it; but
    one that seems to be cut off is decoded, and raises OSError if it is."""
    from PIL import Image

    with Image.open(file, formats=FORMATS) as image:
        found = image.height, image.width, image.mode
        if image.format in ENDS and not _has_end(file, ENDS[image.format]):
            image.load()
        return found


def _has_end(file: str, mark: bytes) -> bool:
    """Whether a mark stands near the end of a file. (Some cameras write something behind it.)"""
    with open(file, "rb") as opened:
        opened.seek(max(0, opened.seek(0, 2) - 4096))
        return mark in opened.read()


def _sizes(sides: Sequence[tuple[int, int]], size: tuple[int, int]) -> str:
    """How large the files are, and what is made of it."""
    heights, widths = zip(*sides, strict=True)
    if len(set(sides)) == 1:
        files = f"files of {heights[0]} x {widths[0]} pixels"
    else:
        files = f"files from {min(heights)} x {min(widths)} to {max(heights)} x {max(widths)} pixels"
    same = set(sides) == {size}
    return files if same else f"{files}, as {size[0]} x {size[1]} (data.size=...)"
