"""Resizing by matrix products: Pillow's own numbers, and torch's."""

import numpy
import pytest
import torch
from PIL import Image
from torch import nn

from plainloop.data.kinds.pictures import pixels
from plainloop.data.preprocess import Resize
from plainloop.data.resizing import fitted, resized

# (height, width) of an image, and of what is made of it
SIZES = [
    ((8, 8), (8, 8)),
    ((40, 60), (32, 32)),
    ((8, 13), (8, 8)),  # cut only, by half a pixel
    ((16, 16), (32, 32)),
    ((5, 9), (7, 13)),
    ((100, 130), (64, 48)),
    ((64, 64), (32, 32)),
    ((90, 200), (28, 28)),
    ((1, 1), (8, 8)),
]


def image(height: int, width: int, channels: int = 3) -> numpy.ndarray:
    return numpy.random.default_rng(height).integers(0, 256, (height, width, channels), dtype=numpy.uint8)


@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_pictures_are_fitted_as_pillow_does_it_to_the_last_bit(size, wanted):
    given = image(*size)
    truth = pixels(Image.fromarray(given), wanted, 3)
    assert torch.equal(fitted(torch.from_numpy(given).permute(2, 0, 1)[None], *wanted)[0], truth.float())


@pytest.mark.parametrize(("size", "wanted"), [((60, 40), (32, 32)), ((300, 310), (32, 32)), ((290, 300), (8, 7))])
def test_where_pillow_rounds_in_another_order_it_is_one_level_at_most(size, wanted):
    """Of tall pictures some versions resize the columns first; of large ones all average groups of pixels first."""
    given = image(*size)
    truth = pixels(Image.fromarray(given), wanted, 3).float()
    apart = (fitted(torch.from_numpy(given).permute(2, 0, 1)[None], *wanted)[0] - truth).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() < 0.35


def test_deep_pictures_are_not_rounded():
    given = numpy.random.default_rng(0).integers(0, 65536, (50, 70), dtype=numpy.uint16)
    truth = pixels(Image.fromarray(given), (32, 24), 1, deep=True)
    found = fitted(torch.from_numpy(given.astype(numpy.float32) / 65535)[None, None], 32, 24)[0]
    torch.testing.assert_close(found, truth, atol=1e-6, rtol=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(16, 16), (80, 90), (37, 20)])
def test_floats_are_resized_as_torch_does_it(size, interpolation):
    images = torch.rand(2, 3, 37, 50)
    truth = nn.functional.interpolate(images, size, mode=interpolation, antialias=True)
    torch.testing.assert_close(resized(images, *size, interpolation), truth, atol=1e-5, rtol=0)


def test_what_is_exported_of_resize_is_what_it_does():
    images, resize = torch.rand(2, 3, 37, 50), Resize(20, (16, 18))
    torch.testing.assert_close(resize.traceable()(images), resize(images), atol=1e-6, rtol=0)
