"""Every model of timm (Wightman 2019, "PyTorch Image Models"), by name: the extra `plainloop[timm]`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from plainloop.build import factory
from plainloop.errors import UserError, did_you_mean, first_line
from plainloop.models.preset import Preset
from plainloop.models.zoo.pretrained import check_takes
from plainloop.trust import optional


@factory("model", pretrained_by="pretrained")
def timm_model(
    name: str,
    num_classes: int,
    in_channels: int = 3,
    image_size: Sequence[int] | None = None,
    pretrained: bool = False,
    loaded: bool = False,
    **arguments: Any,
) -> nn.Module:
    """Build timm's model `name` for images (N, in_channels, H, W) and outputs (N, num_classes).

    Args:
        name: as timm.list_models() has it, or with the tag of its weights, as resnet18.a1_in1k.
        image_size: height and width; a model of one fixed size is built for it, others are asked whether they can
            take it.
        pretrained: with weights that timm knows, which may have to be downloaded; the head is new, and timm adapts
            the first convolution to the channels.
        loaded: a run's own weights are loaded afterwards: these aren't fetched.
        arguments: the model's own, as `drop_path_rate`.

    Raises:
        UserError: timm isn't installed, an unknown name or argument, an image size that the model can't take, weights
            that can't be fetched.
    """
    timm = _timm()
    preset = _preset(timm, name)
    given = {"num_classes": num_classes, "in_chans": in_channels, **arguments}
    file = given.get("checkpoint_path")
    if file and loaded:
        del given["checkpoint_path"]
    elif file and not Path(str(file)).is_file():
        raise UserError(f"model.checkpoint_path={file}: there is no such file.")
    if image_size is not None and preset.fixed_input_size:
        given = {"img_size": tuple(image_size), **given}
    if pretrained and preset.url in (None, "") and not preset.hf_hub_id:
        raise UserError(f"model.pretrained=true: timm has no weights of {name}. Leave it out, or choose another model.")
    try:
        model = timm.create_model(name, pretrained=pretrained and not loaded, **given)
    except TypeError as error:
        if "img_size" not in given or "img_size" not in str(error):
            raise UserError(f"model: {name} doesn't take these arguments ({', '.join(arguments)}): {error}.") from error
        del given["img_size"]  # fixed, and not to be chosen
        model = timm.create_model(name, pretrained=pretrained and not loaded, **given)
    except Exception as error:  # of urllib, of huggingface_hub and what that uses
        if not pretrained or loaded:
            raise
        place = f"huggingface.co/{preset.hf_hub_id}" if preset.hf_hub_id else preset.url
        raise UserError(
            f"model.pretrained=true: the weights of {name} couldn't be fetched ({place}): "
            f"{first_line(error).rstrip('.')}.\n"
            "Get the file elsewhere, and give 'model.pretrained_cfg_overlay={file: weights.safetensors}', or train "
            "from scratch, without model.pretrained."
        ) from error
    if image_size is not None:
        usual = preset.input_size[1:] if preset.fixed_input_size else None
        check_takes(model, f"model.name={name}", (in_channels, *image_size), usual)
    return model


def preset_of(model: Mapping[str, Any]) -> Preset | None:
    """What the pretrained weights expect of images that a model's config (`name`, `pretrained`) asks for; None where it
    asks for none. Nothing is downloaded."""
    if not model.get("pretrained"):
        return None
    found = _preset(_timm(), str(model["name"]))
    height, width = found.input_size[1:]
    interpolation = found.interpolation if found.interpolation in ("bilinear", "bicubic") else "bicubic"
    return Preset(
        list(found.mean),
        list(found.std),
        int(min(height, width) / found.crop_pct),
        (height, width),
        interpolation,
        str(model["name"]),
    )


timm_model.preset_of = preset_of  # type: ignore[attr-defined]


def _timm() -> Any:
    try:
        timm = optional("timm")
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise UserError('model=timm: the package timm isn\'t installed. Type: pip install "plainloop[timm]"') from None
    return timm


def _preset(timm: Any, name: str) -> Any:
    """What timm knows of a model's weights. Raises UserError for an unknown name."""
    names = timm.list_models()
    base, _, tag = str(name).partition(".")
    if base not in names:
        raise UserError(
            f"model.name={name}: timm has no such model.{did_you_mean(base, names)} It has {len(names):,}, "
            f"from {names[0]} to {names[-1]}."
        )
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in tags:
        raise UserError(f"model.name={name}: timm has no such weights of {base}. It has: {', '.join(tags) or 'none'}.")
    return timm.get_pretrained_cfg(name)
