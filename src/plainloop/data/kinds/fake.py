"""Invented images, for trying things."""

from collections.abc import Sequence

import torch

from plainloop import seeding
from plainloop.build import factory
from plainloop.data.dataset import InMemory
from plainloop.data.kinds.checks import check_whole_number
from plainloop.data.kinds.new_files import ImageReader
from plainloop.data.kinds.pictures import MOST, checked_size
from plainloop.errors import UserError


@factory("data", provides=("in_channels", "image_size"))
def fake(
    count: int = 1000, classes: int = 10, size: int | Sequence[int] = 32, channels: int = 3, seed: int = 0
) -> InMemory:
    """Images for trying things: noise over a pattern that tells the class, so that there is something to learn.

    Args:
        count: of the images, every class as often as the others, within one.
        classes: how many.
        size: height and width.
        channels: 1 for grey, 3 for colour.
        seed: other images with another.
    """
    for name, value, least in (("count", count, 1), ("classes", classes, 2), ("channels", channels, 1)):
        check_whole_number(name, value, least)
    height, width = checked_size(size) or (32, 32)
    needed = count * channels * height * width
    if needed > 10 * MOST:
        raise UserError(
            f"data.count={count}: images of {height} x {width} would take {needed / 1e9:.0f} GB of memory: "
            "fewer, or smaller ones."
        )
    random = seeding.generator(seed, seeding.SPLIT, 4)
    labels = torch.arange(count) % classes
    patterns = torch.randint(0, 128, (classes, channels, 4, 4), generator=random).float()
    patterns = torch.nn.functional.interpolate(patterns, (height, width)).to(torch.uint8)
    images = torch.randint(0, 128, (count, channels, height, width), generator=random, dtype=torch.uint8)
    for number in range(classes):
        images[number::classes] += patterns[number]
    return InMemory(images, labels, classes=[str(number) for number in range(classes)])


fake.reader = ImageReader  # type: ignore[attr-defined]
