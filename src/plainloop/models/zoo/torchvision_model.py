"""Every classification model of torchvision, by name: with the data's channels and outputs, pretrained on request."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.build import factory
from plainloop.errors import UserError, did_you_mean, listed
from plainloop.models.preset import Preset
from plainloop.models.weights import read_weights
from plainloop.models.zoo.pretrained import (
    check_takes,
    explained_downloads,
    is_file,
    load_pretrained,
    replace_first_convolution,
)

# How much the loss of an auxiliary output weighs beside the main one's: Szegedy et al. 2014 ("Going deeper with
# convolutions"), and 2015 ("Rethinking the Inception architecture for computer vision") as torchvision trained it.
AUXILIARY = {"googlenet": 0.3, "inception_v3": 0.4}


@factory("model", pretrained_by="weights")
def torchvision_model(
    name: str,
    num_classes: int,
    in_channels: int = 3,
    image_size: Sequence[int] | None = None,
    weights: str | None = None,
    loaded: bool = False,
    **arguments: Any,
) -> nn.Module:
    """Build torchvision's model `name` for images (N, in_channels, H, W) and outputs (N, num_classes).

    GoogLeNet and Inception have auxiliary outputs with `aux_logits=True`; these count in the training loss only.

    Args:
        name: as in `torchvision.models.list_models(module=torchvision.models)`: resnet18, vit_b_16, ...; or one of
            its classes (ResNet, VisionTransformer, ...), of which `arguments` then say everything.
        num_classes: outputs per image (logits).
        in_channels: where it isn't 3, the first convolution is replaced by one that takes this many channels.
        image_size: height and width. A vision transformer is built for it; other models are asked whether they can
            take it.
        weights: None for random ones; DEFAULT or another name of torchvision's (IMAGENET1K_V2), which may have to be
            downloaded; or a local file with a state_dict. A head for another number of classes starts anew. Of the
            first convolution, each of C channels gets 1/C of the sum over red, green and blue: a grey image gives
            what the same image in colour would.
        loaded: a run's own weights are loaded afterwards: these aren't fetched.
        arguments: the model's own, as `zero_init_residual` of a ResNet.

    Raises:
        UserError: an unknown name or argument, an image size that the model can't take, weights that can't be fetched
            or don't fit.
    """
    _builder(name)
    chosen = None if weights is None or is_file(weights) else weights_named(name, weights)
    if image_size is not None:
        arguments = _size_filled(name, image_size, arguments)
    if weights is not None and name in AUXILIARY:  # they were trained with another normalisation, which this makes
        arguments = {"transform_input": in_channels == 3, **arguments}
    model = _new(name, num_classes, arguments)
    if in_channels != 3:
        replace_first_convolution(model, in_channels)
    if image_size is not None:
        check_takes(model, f"model.name={name}", (in_channels, *image_size))
    if weights is not None and not loaded:
        state = (
            read_weights(Path(weights), f"model.weights={weights}")
            if chosen is None
            else _fetched(name, weights, chosen)
        )
        if name.startswith("vit_") and image_size is not None:  # positions of other patches: interpolated
            state = _at_positions(name, image_size, state)
        load_pretrained(model, state, num_classes, f"model.weights={weights}")
    if getattr(model, "aux_logits", False):
        model.auxiliary_weight = AUXILIARY[name]  # type: ignore[assignment]
    return model


def _new(name: str, num_classes: int, arguments: Mapping[str, Any]) -> nn.Module:
    """The untrained model. Raises UserError for names and arguments that torchvision doesn't know."""
    build = _builder(name)
    if "pretrained" in arguments:
        raise UserError(
            f"model.pretrained={str(arguments['pretrained']).lower()}: torchvision's {name} takes its "
            "weights by name. Write model.weights=DEFAULT"
        )
    if name in AUXILIARY:  # with their auxiliary heads they return a tuple while training
        arguments = {"aux_logits": False, "init_weights": True, **arguments}
    try:
        return build(num_classes=num_classes, **arguments)
    except TypeError as error:
        raise UserError(f"model: {name} doesn't take these arguments ({', '.join(arguments)}): {error}.") from error


def _builder(name: str) -> Callable[..., nn.Module]:
    """torchvision's function, or class, of that name. Raises UserError."""
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    kind = getattr(torchvision.models, str(name), None)
    if name in names:
        return torchvision.models.get_model_builder(name)
    if isinstance(kind, type) and issubclass(kind, nn.Module):
        return kind
    raise UserError(
        f"model.name={name}: torchvision has no such classification model.{did_you_mean(str(name), names)} "
        f"It has {len(names)}, from {names[0]} to {names[-1]}."
    )


# --- the size of images --------------------------------------------------------------------------------------------


def _size_filled(name: str, image_size: Sequence[int], arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with the size of the images, for models that are built for one. Raises UserError for others."""
    height, width = image_size
    side = max(height, width)
    if name == "maxvit_t":  # halved five times, then cut into windows of 7 x 7
        _check_side(name, image_size, multiple=224)
        return {"input_size": (height, width), **arguments}
    if name.startswith("vit_"):
        _check_side(name, image_size, multiple=_patch(name))
    elif name == "VisionTransformer" and isinstance(arguments.get("patch_size"), int):
        patch = arguments["patch_size"]
        if height != width or side % patch:
            raise UserError(
                f"model.patch_size={patch}: the patches must cover square images, and these are {height} x "
                f"{width}: give a divisor of the side, or transforms.resize={-(-side // patch) * patch}"
            )
    else:
        return arguments
    return {"image_size": side, **arguments}


def _patch(name: str) -> int:
    """16 of vit_b_16."""
    return int(name.rpartition("_")[2])


def _check_side(name: str, image_size: Sequence[int], multiple: int) -> None:
    height, width = image_size
    if height != width or height % multiple:
        fitting = -(-max(height, width) // multiple) * multiple
        raise UserError(
            f"model.name={name}: it takes square images whose side is a multiple of {multiple}, and these "
            f"are {height} x {width}. Write transforms.resize={fitting}"
        )


# --- pretrained weights --------------------------------------------------------------------------------------------


def preset_of(model: Mapping[str, Any]) -> Preset | None:
    """What the weights expect of images that a model's config (`name`, `weights`) names; for a file, what the model's
    DEFAULT weights do; None where it names none, and for a file of a class's. Nothing is downloaded."""
    if not model.get("weights"):
        return None
    weights, builder = str(model["weights"]), _builder(str(model["name"]))
    if is_file(weights) and isinstance(builder, type):
        return None
    chosen = weights_named(str(model["name"]), "DEFAULT" if is_file(weights) else weights)
    presets = chosen.transforms()
    mean, std, side = list(presets.mean), list(presets.std), presets.crop_size[0]
    if model["name"] in AUXILIARY and model.get("in_channels", 3) != 3:  # its own `transform_input` is for colour
        mean, std = [0.5], [0.5]
    return Preset(mean, std, presets.resize_size[0], (side, side), presets.interpolation.value, str(chosen))


torchvision_model.preset_of = preset_of  # type: ignore[attr-defined]


def weights_named(name: str, weights: str) -> Any:
    """torchvision's weights DEFAULT, IMAGENET1K_V1, ... of a model. Raises UserError."""
    import torchvision

    _builder(name)
    try:
        there = torchvision.models.get_model_weights(name)
    except ValueError:
        raise UserError(
            f"model.weights={weights}: torchvision has no weights of {name}. Give a file, or leave model.weights out."
        ) from None
    word = str(weights).rpartition(".")[2]
    options = ["DEFAULT", *there.__members__]
    if word not in there.__members__ and word != "DEFAULT":
        raise UserError(
            f"model.weights={weights}: {name} has no such weights, and it isn't a file."
            f"{did_you_mean(word, options)} There are: {listed(dict.fromkeys(options))}."
        )
    return there[word]


def _fetched(name: str, weights: str, chosen: Any) -> Mapping[str, Tensor]:
    """torchvision's weights, from where torch keeps them or from the network. Raises UserError."""
    what = f"model.weights={weights}: the weights of {name}"
    with explained_downloads(what, chosen.url, f"{torch.hub.get_dir()}/checkpoints", "model.weights"):
        return chosen.get_state_dict(progress=False, check_hash=True)


def _at_positions(name: str, image_size: Sequence[int], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A vision transformer's weights, its embeddings of positions interpolated for images of another size."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    if "encoder.pos_embedding" not in state:  # not of this model, which is answered by name
        return state
    return interpolate_embeddings(max(image_size), _patch(name), OrderedDict(state))
