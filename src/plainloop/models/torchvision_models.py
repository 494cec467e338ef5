"""Every classification model of torchvision, by name."""

from typing import Any

from torch import nn

from plainloop.build import factory
from plainloop.errors import UserError, did_you_mean


@factory("model")
def torchvision_model(name: str, num_classes: int, in_channels: int = 3, **arguments: Any) -> nn.Module:
    """Build torchvision's model `name`, untrained, with a head for `num_classes`.

    Args:
        name: as in `torchvision.models.list_models(module=torchvision.models)`: resnet18, vit_b_16, ...
        num_classes: outputs per image (logits); torchvision builds the head for them.
        in_channels: where it isn't 3, the first convolution is replaced by one that takes this many channels.
        arguments: the model's own, as `zero_init_residual` of a ResNet.
    """
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        raise UserError(
            f"model.name={name}: torchvision has no such classification model.{did_you_mean(name, names)} "
            f"It has {len(names)}, from {names[0]} to {names[-1]}."
        )
    if name in ("googlenet", "inception_v3"):  # their auxiliary heads make them return a tuple while training
        arguments = {"aux_logits": False, "init_weights": True, **arguments}
    try:
        model = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **arguments)
    except TypeError as error:
        raise UserError(f"model: {name} doesn't take these arguments ({', '.join(arguments)}): {error}.") from error
    if in_channels != 3:
        replace_first_convolution(model, in_channels)
    return model


def replace_first_convolution(model: nn.Module, in_channels: int) -> None:
    """Put a new first convolution, for this many input channels, in the place of the old one."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            parent = model.get_submodule(name.rpartition(".")[0])
            new = nn.Conv2d(
                in_channels,
                module.out_channels,
                kernel_size=module.kernel_size,  # type: ignore[arg-type]
                stride=module.stride,  # type: ignore[arg-type]
                padding=module.padding,  # type: ignore[arg-type]
                dilation=module.dilation,  # type: ignore[arg-type]
                bias=module.bias is not None,
            )
            setattr(parent, name.rpartition(".")[2], new)
            return
