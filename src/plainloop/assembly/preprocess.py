"""transforms.normalize and transforms.resize: what happens to inputs on the device, before the model."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from plainloop.build import locate
from plainloop.config.sections import Transforms
from plainloop.data import Data
from plainloop.data.dataset import asked
from plainloop.data.preprocess import Resize, make_preprocess
from plainloop.errors import UserError, first_line
from plainloop.models.preset import Preset


def preprocess_for(
    section: Transforms,
    model: Mapping[str, Any],
    data: Data,
    batches: Iterable[Any],
    inputs: Any,
    trust: Sequence[str] = (),
) -> nn.Module:
    """What goes on between the loader and the model: the data set's own, or plain normalisation; then the resizing.

    Args:
        model: the model's config, which may name pretrained weights; its `in_channels` are the data's.
        batches: the training samples as they are when nothing is random, for statistics.
        inputs: one sample's.
    """
    preset = preset_of(model, trust)
    own_way, normalize = asked(data.train, "make_preprocess"), section.normalize
    if own_way and normalize == "weights":  # what it makes isn't what these were trained on
        normalize = "train"
    if isinstance(normalize, str) and normalize not in ("none", "train"):
        normalize = statistics_of_weights(normalize, model, trust)
    preprocess = own_way(normalize, batches) if own_way else make_preprocess(normalize, batches, inputs)
    resize = resize_for(section, preset, bool(own_way))
    if resize is not None:
        preprocess = nn.Sequential(preprocess, resize)
    done = []
    if preset is not None and resize is not None and section.resize is None:
        done.append(f"shorter side {preset.resize}, of which the middle {preset.crop[0]} x {preset.crop[1]}")
    if preset is not None and isinstance(normalize, dict) and section.normalize == "weights":
        done.append(f"mean {normalize['mean']}, std {normalize['std']}")
    if preset is not None and done:
        preprocess.note = f"images as {preset.of} wants them: {'; '.join(done)}"
    return preprocess


def resize_for(section: Transforms, preset: Preset | None, own_way: bool) -> Resize | None:
    """transforms.resize, or the size that the model's pretrained weights ask for; None to leave images as they are.

    Args:
        own_way: the data set makes something of its inputs itself.
    """
    wanted = section.resize
    if wanted == "none":
        return None
    if wanted is not None:
        return Resize((wanted, wanted) if isinstance(wanted, int) else wanted)
    if preset is None or own_way:
        return None
    return Resize(preset.resize, preset.crop, preset.interpolation)


def preset_of(model: Mapping[str, Any], trust: Sequence[str] = ()) -> Preset | None:
    """What the pretrained weights that a model's config names expect of images; None where it names none. Whoever
    builds such models says so, by an attribute `preset_of` beside the factory."""
    told = getattr(locate(model["_target_"], "model", nn.Module, trust), "preset_of", None)
    return None if told is None else told(model)


def statistics_of_weights(name: str, model: Mapping[str, Any], trust: Sequence[str] = ()) -> dict[str, list[float]]:
    """The mean and deviation that pretrained weights were trained with.

    Args:
        name: as "ResNet18_Weights.DEFAULT" of torchvision; "weights" for those that the model's config names.
        model: the model's config. Images of another number of channels than three get the mean of the three.
    """
    if name != "weights":
        import torchvision

        try:
            transforms = torchvision.models.get_weight(name).transforms()
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(
                f"transforms.normalize={name}: torchvision has no such weights: {first_line(error)}"
            ) from error
        return {"mean": list(transforms.mean), "std": list(transforms.std)}
    preset = preset_of(model, trust)
    if preset is None:
        if model.get("weights"):
            raise UserError(
                f"transforms.normalize=weights: nobody knows how images were normalised for "
                f"model.weights={model['weights']}. Write transforms.normalize=train, say."
            )
        raise UserError("transforms.normalize=weights: the model names no weights (model.weights=DEFAULT).")
    if model.get("in_channels", 3) in (3, None):
        return {"mean": preset.mean, "std": preset.std}
    return {"mean": [sum(preset.mean) / len(preset.mean)], "std": [sum(preset.std) / len(preset.std)]}
