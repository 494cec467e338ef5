"""Images to another size as two matrix products, whose weights follow from the size that an image has.

The same numbers as by torch's antialiased interpolation and by Pillow, in operations that every runtime knows: what
others make of a "resize" in a graph, with its a dozen attributes, is not the same everywhere.
"""

import torch
from torch import Tensor

LEVELS = 1 << 22  # Pillow weighs whole-numbered pixels by whole numbers of such parts


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


def fitted(images: Tensor, height: int, width: int) -> Tensor:
    """The largest part in the middle of images that has the proportions of (height, width), shrunk or enlarged to it:
    to the last bit what Pillow's `resize(..., BILINEAR, box, reducing_gap=2)` makes of it, but where it would halve an
    image first (one of four times the size or more), whose rounding is left out.

    Args:
        images: (N, C, H, W), whole numbers from 0 to 255, or floats, of which none is rounded.

    Returns:
        (N, C, height, width) float32.
    """
    tall, wide = torch.arange(images.shape[2], dtype=torch.float64), torch.arange(images.shape[3], dtype=torch.float64)
    scale = torch.minimum((tall[-1] + 1) / height, (wide[-1] + 1) / width)
    whole = not images.is_floating_point()
    columns, rows = _weights_of_box(wide, width, scale, whole), _weights_of_box(tall, height, scale, whole)
    images = _rounded(images.double() @ columns.T, whole)
    return _rounded(rows @ images, whole).float()


def _weights_of_box(places: Tensor, size: int, scale: Tensor, whole: bool) -> Tensor:
    """What each pixel of a row counts for each new one, (size, pixels) float64.

    Args:
        places: 0, 1, ... of the pixels.
        scale: how many of them become one.
        whole: pixels are whole numbers: so are the weights, in parts of `LEVELS`.
    """
    count = places[-1] + 1
    start = (count - scale * size) / 2
    start = torch.where(scale == 1, start.floor(), start)
    end = torch.minimum(start + scale * size, count)
    # Many pixels are averaged in groups first, as many in each as leave twice what is needed.
    group = ((end - start) / size / 2).floor().clamp(min=1)
    margin = torch.where(group > 1, 0.5 * (end - start) / size, 0)
    first = torch.where(group > 1, (start - margin).floor().clamp(min=0), 0)
    last = torch.where(group > 1, torch.minimum((end + margin).ceil(), count), count)
    groups = ((places - first) / group).floor()
    members = torch.minimum(group, last - first - groups * group)  # the last one may have fewer
    # Pillow takes the box in float32.
    start, end = ((start - first) / group).float(), ((end - first) / group).float()
    step = (end - start).double() / size
    centres = start.double() + (torch.arange(size, dtype=torch.float64) + 0.5) * step
    found = triangle((groups - centres[:, None] + 0.5) * (1 / step.clamp(min=1))) / members
    found = torch.where((places >= first) & (places < last), found, 0)
    found = found * (1 / found.sum(1, keepdim=True))
    return (0.5 + found * LEVELS).floor() if whole else found


def _rounded(sums: Tensor, whole: bool) -> Tensor:
    return ((sums + LEVELS / 2) / LEVELS).floor().clamp(0, 255) if whole else sums
