"""What happens to a batch's inputs on the device before the model: part of what is saved, evaluated and exported.

Nobody can forget it: training, validation, evaluation and prediction all go through the same module.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.errors import UserError, first_line


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


def statistics_of_weights(name: str, model: Mapping[str, Any]) -> dict[str, list[float]]:
    """The mean and deviation that torchvision's pretrained weights were trained with.

    Args:
        name: as "ResNet18_Weights.DEFAULT"; "weights" for those that the model's config names.
        model: the model's config, with `name` and `weights`.
    """
    import torchvision

    chosen = model.get("weights") if name == "weights" else name
    if not chosen:
        raise UserError("transforms.normalize=weights: the model names no weights (model.weights=DEFAULT).")
    try:
        if name == "weights":
            found = torchvision.models.get_model_weights(str(model["name"]))[str(chosen).rpartition(".")[2]]
        else:
            found = torchvision.models.get_weight(name)
        presets = found.transforms()
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"transforms.normalize={name}: torchvision has no such weights: {first_line(error)}") from error
    return {"mean": list(presets.mean), "std": list(presets.std)}


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
