"""Images to another size as two matrix products, whose weights follow from the size that an image has.

The same numbers as by torch's antialiased interpolation and by Pillow, in operations that every runtime knows: what
others make of a "resize" in a graph, with its a dozen attributes, is not the same everywhere.
"""

import torch
from torch import Tensor


def triangle(distance: Tensor) -> Tensor:
    """Bilinear: 1 at 0, 0 from 1 on."""
    return (1 - distance.abs()).clamp(min=0)


def cubic(distance: Tensor) -> Tensor:
    """Bicubic with a = -1/2 (Keys 1981, "Cubic convolution interpolation for digital image processing")."""
    x = distance.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


FILTERS = {"bilinear": triangle, "bicubic": cubic}


def weights(count: int, size: int, interpolation: str = "bilinear") -> Tensor:
    """What each of `count` pixels in a row counts for each of the `size` new ones, (size, count) float64: antialiased,
    as the filter is as wide as a new pixel where that is wider than an old one."""
    places = torch.arange(count, dtype=torch.float64)
    scale = count / size
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    found = FILTERS[interpolation]((places + 0.5 - centres[:, None]) / max(scale, 1.0))
    return found / found.sum(1, keepdim=True)


def resized(images: Tensor, height: int, width: int, interpolation: str = "bilinear") -> Tensor:
    """Images (N, C, H, W), floats, as (N, C, height, width)."""
    rows = weights(images.shape[2], height, interpolation).to(images.dtype)
    columns = weights(images.shape[3], width, interpolation).to(images.dtype)
    return rows @ (images @ columns.T)


# --- as Pillow does it -------------------------------------------------------------------------------------------

# Pillow weighs pixels by whole numbers of 1 / 2^22. Written as two of 11 bits each, all sums are whole numbers that
# float32 holds, so that no runtime rounds another pixel than Pillow does.
BITS = 1 << 11


def fitted(images: Tensor, height: int, width: int) -> Tensor:
    """The largest part in the middle of images that has the proportions of (height, width), shrunk or enlarged to it,
    as Pillow's `resize(..., BILINEAR, box, reducing_gap=2)` does it.

    To the last bit, but for two cases, in which a pixel may be one level off: tall images, whose rows some versions of
    Pillow resize before their columns (13 does, 10 doesn't); and those of four times the size or more, which Pillow
    makes smaller in two steps, and rounds after each.

    Args:
        images: (N, C, H, W), whole numbers from 0 to 255, or floats, of which none is rounded.

    Returns:
        (N, C, height, width) float32.
    """
    tall, wide = torch.arange(images.shape[2]), torch.arange(images.shape[3])
    counts = tall.max() + 1, wide.max() + 1
    is_wide = counts[0] * width <= counts[1] * height
    # So many pixels become so many.
    scale = torch.where(is_wide, counts[0], counts[1]), torch.where(is_wide, height, width)
    columns = _weights_of_box(wide[:, None], torch.arange(width), scale)
    rows = _weights_of_box(tall, torch.arange(height)[:, None], scale)
    if images.is_floating_point():
        return _shares(rows, 1) @ (images @ _shares(columns, 0))
    high, low = _parts(columns, 0)
    images = images.float()
    images = _rounded(images @ high, images @ low)
    high, low = _parts(rows, 1)
    return _rounded(high @ images, low @ images)


def _weights_of_box(places: Tensor, wanted: Tensor, scale: tuple[Tensor, Tensor]) -> Tensor:
    """What each pixel of a row counts for each new one, in whole numbers that add up to another sum for each.

    Args:
        places, wanted: 0, 1, ... of the pixels, and of the new ones; the one that is (count, 1) gives the rows of what
            comes out, the other, (count,), its columns.
        scale: how many pixels become how many new ones.
    """
    count, size, (many, few) = places.max() + 1, wanted.numel(), scale
    # All lengths are in parts of a pixel, 2 * few of them: then all are whole numbers.
    start = count * few - many * size
    start = torch.where(many == few, 2 * few * ((count - size) // 2), start)
    # Many pixels are averaged in groups first, as many in each as leave twice what is needed.
    group = (many // (2 * few)).clamp(min=1)
    first = torch.where(group > 1, (start - many).clamp(min=0) // (2 * few), 0)
    last = torch.where(group > 1, torch.minimum(-((-start - 2 * many * size - many) // (2 * few)), count), count)
    groups = (places - first).clamp(min=0) // group
    members = torch.minimum(group, last - first - groups * group).clamp(min=1)  # the last one may have fewer
    apart = (2 * groups + 1) * few * group - (start - 2 * few * first) - (2 * wanted + 1) * many
    found = (2 * torch.maximum(many, few * group) - apart.abs()).clamp(min=0) * group // members
    return torch.where((places >= first) & (places < last), found, 0)


def _shares(weights: Tensor, axis: int) -> Tensor:
    """Weights that add up to 1 along an axis."""
    return weights / weights.sum(axis, keepdim=True)


def _parts(weights: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Weights that add up to 2^22 along an axis, each rounded: the upper and the lower 11 bits."""
    total = weights.sum(axis, keepdim=True)
    high = weights * BITS // total
    rest = weights * BITS - high * total
    low = (2 * rest * BITS + total) // (2 * total)
    return high.float(), low.float()


def _rounded(high: Tensor, low: Tensor) -> Tensor:
    """Sums of pixels by the upper and the lower bits of their weights, as pixels."""
    sums = high + (low / BITS).floor()
    return ((sums + BITS // 2) / BITS).floor().clamp(0, 255)
