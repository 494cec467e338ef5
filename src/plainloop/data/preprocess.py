"""What happens to a batch's inputs on the device before the model: part of what is saved, evaluated and exported.

Nobody can forget it: training, validation, evaluation and prediction all go through the same module.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.data.resizing import resized
from plainloop.errors import UserError

# --- a mean and a deviation for each channel ------------------------------------------------------------------------


def normalisation(
    normalize: Any, count: int, there_are: str, measured: Callable[[], tuple[Tensor, Tensor]], behind: int = 0
) -> tuple[Tensor, Tensor]:
    """The mean and the deviation that `transforms.normalize` asks for: float64, one number () or one for each of K
    channels (K, 1, ...), of channels, features, bands or columns alike. Raises UserError.

    Args:
        normalize: "none" (0 and 1), "train" (what is measured), or {"mean": ..., "std": ...}, a number or K of them.
        count: K.
        there_are: that in words, for errors: "the inputs have 3 channels".
        measured: gives both of the training split.
        behind: how many axes a batch has behind the channels'.
    """
    if normalize == "none":
        return torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    if normalize == "train":
        return measured()
    given = {}
    for name in ("mean", "std"):
        try:
            numbers = torch.as_tensor(normalize[name], dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            what = f"transforms.normalize.{name}={normalize[name]}"
            raise UserError(f"{what}: must be a number, or one for each; {there_are}.") from error
        if numbers.ndim > 1 or numbers.numel() not in (1, count):
            raise UserError(f"transforms.normalize.{name} has {numbers.numel()} numbers; {there_are}.")
        given[name] = numbers if numbers.ndim == 0 else numbers.reshape(-1, *[1] * behind)
    if not bool((given["std"] > 0).all()):
        raise UserError(f"transforms.normalize.std={normalize['std']}: must be above 0.")
    return given["mean"], given["std"]


def statistics(batches: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel (C, 1, ...) or feature (F,) over batches (inputs, ...), in float64, uint8 as
    [0, 1].

    A channel that never changes gets deviation 1: it is centred and not scaled. Sums are taken around a value
    of the first sample, so that a channel far from zero doesn't lose its digits.
    """
    count, total, squares, origin = 0, torch.zeros(()), torch.zeros(()), None
    for inputs, *_ in batches:
        values = inputs.double() / (255.0 if inputs.dtype == torch.uint8 else 1.0)
        axes = [0, *range(2, values.ndim)]  # every axis but the channel's
        if origin is None:
            first = values[0] if values.ndim < 3 else values[0].flatten(1)[:, 0]
            origin = first.reshape(-1, *[1] * (values.ndim - 2))
        values = values - origin
        count += values.numel() // values.shape[1] if values.ndim > 1 else values.numel()
        total = total + values.sum(axes)
        squares = squares + values.square().sum(axes)
        trailing = values.ndim - 2
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    deviation[deviation.float() == 0] = 1.0  # as float32 sees it, in which it will be divided by
    assert origin is not None, "an empty training split"
    shape = (-1, *[1] * trailing)
    return mean.reshape(shape) + origin, deviation.reshape(shape)


# --- what is done with them -----------------------------------------------------------------------------------------


class Preprocess(nn.Module):
    """uint8 to [0, 1], then (x - mean) / std. Inputs that aren't a tensor of numbers pass as they are.

    Kept as one multiplication and one addition, x * scale + shift, which takes half the time of the textbook's
    three operations and differs from it by rounding only.

    Args:
        mean, std: per channel or feature, in units of [0, 1] for uint8 inputs; shapes that broadcast against
            a batch: (C, 1, 1) for images (N, C, H, W), (F,) for features (N, F).
        bytes_in: whether inputs are uint8.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Tensor, std: Tensor, bytes_in: bool):
        super().__init__()
        self.identity = not bytes_in and bool((mean == 0).all()) and bool((std == 1).all())  # nothing to do
        scale, shift = scale_and_shift(mean, std, 255.0 if bytes_in else 1.0)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        super()._load_from_state_dict(*arguments, **options)
        self.identity = self.identity and bool((self.scale == 1).all()) and bool((self.shift == 0).all())

    def forward(self, inputs: Any) -> Any:
        if not isinstance(inputs, Tensor):
            return inputs
        if self.identity:
            return inputs
        if inputs.dtype == torch.float64:  # NumPy's default, and never meant
            inputs = inputs.float()
        if inputs.dtype == torch.uint8:
            return inputs.float().mul_(self.scale).add_(self.shift)  # in place: the copy is ours
        return inputs * self.scale + self.shift


def scale_and_shift(mean: Tensor, std: Tensor, unit: float = 1.0) -> tuple[Tensor, Tensor]:
    """The float32 numbers by which x * scale + shift is (x / unit - mean) / std."""
    return (1.0 / (std * unit)).float(), (-mean / std).float()


class Standardise(nn.Module):
    """(x - mean) / std, by the textbook: for inputs that cost little, of which the numbers stay readable. (It rounds
    otherwise than x * scale + shift, so that neither can take the other's place under the same weights.)

    Args:
        mean, std: of shapes that broadcast against a batch.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean.float().clone())
        self.register_buffer("std", std.float().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs - self.mean) / self.std


def of_state(state: Mapping[str, Tensor]) -> Preprocess | Standardise:
    """One of the two above, into which this state can be loaded."""
    if "mean" in state:
        return Standardise(state["mean"], state["std"])
    shape = state["scale"].shape
    return Preprocess(torch.zeros(shape), torch.ones(shape), bytes_in=False)


def make_preprocess(normalize: Any, train: Iterable[Any], sample: Any) -> Preprocess:
    """The preprocessing that `transforms.normalize` asks for, of a data set that has no way of its own.

    Args:
        normalize: "none", "train" (statistics of the training split), or {"mean": ..., "std": ...}.
        train: the batches of the training split, read through for "train".
        sample: one sample's inputs.
    """
    if not isinstance(sample, Tensor):
        if normalize != "none":
            raise UserError(
                "transforms.normalize: these inputs are no single tensor: use none, and normalise in the data set."
            )
        return Preprocess(torch.zeros(()), torch.ones(()), bytes_in=False)
    channels = sample.shape[0] if sample.ndim else 1
    mean, std = normalisation(
        normalize, channels, f"the inputs have {channels} channels", lambda: statistics(train), sample.ndim - 1
    )
    preprocess = Preprocess(mean, std, bytes_in=sample.dtype == torch.uint8)
    preprocess.identity = preprocess.identity and sample.dtype != torch.float64
    return preprocess


# --- the size of images ---------------------------------------------------------------------------------------------


class Resize(nn.Module):
    """Images (N, C, H, W) to another size, bilinear and antialiased, as torchvision resizes tensors; on floats, after
    the normalisation, so that uint8 images aren't rounded a second time.

    Args:
        size: (height, width), or one number for the shorter side, which keeps the shape.
        crop: the (height, width) that is then cut out of the middle; None for no cutting.
        interpolation: bilinear or bicubic.
    """

    def __init__(self, size: int | Sequence[int], crop: Sequence[int] | None = None, interpolation: str = "bilinear"):
        super().__init__()
        self.size, self.crop, self.interpolation = size, crop, interpolation

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width before the middle is cut out."""
        if not isinstance(self.size, int):
            return self.size[0], self.size[1]
        shorter = min(height, width)
        return int(self.size * height / shorter), int(self.size * width / shorter)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what comes out."""
        return self.resized(height, width) if self.crop is None else (self.crop[0], self.crop[1])

    def forward(self, images: Tensor) -> Tensor:
        height, width = self.resized(*images.shape[2:])
        if (height, width) != tuple(images.shape[2:]):
            images = self.brought_to(images, height, width)
        if self.crop is None:
            return images
        tall, wide = self.crop
        top, left = round((height - tall) / 2), round((width - wide) / 2)
        return images[:, :, top : top + tall, left : left + wide]

    def brought_to(self, images: Tensor, height: int, width: int) -> Tensor:
        """The images in another size."""
        return nn.functional.interpolate(
            images, (height, width), mode=self.interpolation, align_corners=False, antialias=True
        )

    def traceable(self) -> "ResizeByProducts":
        """The same, for exporters."""
        return ResizeByProducts(self.size, self.crop, self.interpolation)


class ResizeByProducts(Resize):
    """The same numbers, to rounding, in operations that every runtime knows."""

    def brought_to(self, images: Tensor, height: int, width: int) -> Tensor:
        return resized(images, height, width, self.interpolation)
