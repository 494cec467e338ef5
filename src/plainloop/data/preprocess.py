"""What happens to a batch's inputs on the device before the model: part of what is saved, evaluated and exported.

Nobody can forget it: training, validation, evaluation and prediction all go through the same module.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.errors import UserError, first_line
from plainloop.models.zoo import timm_model, torchvision_model
from plainloop.models.zoo.pretrained import Preset


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
        self.register_buffer("scale", (1.0 / (std * (255.0 if bytes_in else 1.0))).float())
        self.register_buffer("shift", (-mean / std).float())

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
            images = nn.functional.interpolate(
                images, (height, width), mode=self.interpolation, align_corners=False, antialias=True
            )
        if self.crop is None:
            return images
        tall, wide = self.crop
        top, left = round((height - tall) / 2), round((width - wide) / 2)
        return images[:, :, top : top + tall, left : left + wide]


def make_preprocess(normalize: Any, train: Iterable[Any], sample: Any) -> Preprocess:
    """The preprocessing that `transforms.normalize` asks for.

    Args:
        normalize: "none", "train" (statistics of the training split), or {"mean": ..., "std": ...}.
        train: the batches of the training split, read through for "train".
        sample: one sample's inputs.
    """
    if not isinstance(sample, Tensor) and normalize != "none":
        raise UserError(
            "transforms.normalize: these inputs are no single tensor: use none, and normalise in the data set."
        )
    if not isinstance(sample, Tensor):
        return Preprocess(torch.zeros(()), torch.ones(()), bytes_in=False)
    bytes_in = sample.dtype == torch.uint8
    if normalize == "none":
        mean, std = torch.zeros(()), torch.ones(())
    elif normalize == "train":
        mean, std = statistics(train)
    else:
        mean, std = (_per_channel(normalize[name], sample, name) for name in ("mean", "std"))
        if not bool((std > 0).all()):
            raise UserError(f"transforms.normalize.std={normalize['std']}: must be above 0.")
    preprocess = Preprocess(mean, std, bytes_in)
    preprocess.identity = preprocess.identity and sample.dtype != torch.float64
    return preprocess


def preset_of(model: Mapping[str, Any]) -> Preset | None:
    """What the pretrained weights that a model's config names expect of images; None where it names none."""
    if str(model.get("_target_", "")).endswith("timm_model"):
        return timm_model.preset_of(model) if model.get("pretrained") else None
    if str(model.get("_target_", "torchvision_model")).endswith("torchvision_model") and model.get("weights"):
        return torchvision_model.preset_of(model)
    return None


def statistics_of_weights(name: str, model: Mapping[str, Any]) -> dict[str, list[float]]:
    """The mean and deviation that pretrained weights were trained with.

    Args:
        name: as "ResNet18_Weights.DEFAULT" of torchvision; "weights" for those that the model's config names.
        model: the model's config. Images of another number of channels than three get the mean of the three.
    """
    if name != "weights":
        import torchvision

        try:
            preset = torchvision_model.preset_named(torchvision.models.get_weight(name))
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(
                f"transforms.normalize={name}: torchvision has no such weights: {first_line(error)}"
            ) from error
        return {"mean": preset.mean, "std": preset.std}
    found = preset_of(model)
    if found is None:
        if model.get("weights"):
            raise UserError(
                f"transforms.normalize=weights: nobody knows how images were normalised for "
                f"model.weights={model['weights']}. Write transforms.normalize=train, say."
            )
        raise UserError("transforms.normalize=weights: the model names no weights (model.weights=DEFAULT).")
    if model.get("in_channels", 3) in (3, None):
        return {"mean": found.mean, "std": found.std}
    return {"mean": [sum(found.mean) / len(found.mean)], "std": [sum(found.std) / len(found.std)]}


def statistics(batches: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel (C, 1, 1) or feature (F,) over batches (inputs, ...), in float64, uint8 as
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
    deviation[deviation == 0] = 1.0
    assert origin is not None, "an empty training split"
    shape = (-1, *[1] * trailing)
    return mean.reshape(shape) + origin, deviation.reshape(shape)


def _per_channel(value: float | Sequence[float], sample: Tensor, name: str) -> Tensor:
    """A number, or one per channel, as a tensor that broadcasts against a batch."""
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"transforms.normalize.{name}={value}: must be a number, or one per channel.") from error
    if tensor.ndim == 0:
        return tensor
    if tensor.ndim != 1 or len(tensor) != sample.shape[0]:
        raise UserError(
            f"transforms.normalize.{name} has {tensor.numel()} numbers; the inputs have {sample.shape[0]} channels."
        )
    return tensor.reshape(-1, *[1] * (sample.ndim - 1))
