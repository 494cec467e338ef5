"""transforms.flip, crop, cutout, mixup and cutmix: what happens to training batches of images on the device."""

from collections.abc import Mapping
from typing import Any

import torch

from plainloop.config.sections import Spec, Transforms
from plainloop.data.augment import Augment
from plainloop.errors import UserError, first_line, out_of_memory
from plainloop.tasks.task import Task


def augment_for(section: Transforms, spec: Spec, choices: Mapping[str, Any], task: Task, inputs: Any) -> Augment | None:
    """What the section asks for; None for nothing. Raises UserError where it doesn't fit the data or the task.

    Args:
        choices: which option of each group was taken, for errors.
        inputs: one sample's.
    """
    chosen: dict[str, Any] = {
        "flip": section.flip,
        "crop": section.crop,
        "cutout": section.cutout,
        "mixup": section.mixup,
        "cutmix": section.cutmix,
    }
    wanted = [name for name, value in chosen.items() if value]
    if not wanted:
        return None
    moved = [name for name in wanted if name in ("flip", "crop")]  # before `preprocess`, which may make the image
    shape = tuple(inputs.shape) if isinstance(inputs, torch.Tensor) else ()
    if spec.image_size is None or (moved and len(shape) != 3):
        raise UserError(f"transforms.{(moved or wanted)[0]}: it is for images, and the inputs are of shape {shape}.")
    mixes = section.mixup or section.cutmix
    if mixes and not task.takes_shares:
        raise UserError(
            f"transforms.{wanted[-1]}: it mixes labels, and task={choices.get('task')} can't learn "
            "shares of classes: it is for task=multiclass."
        )
    if mixes and getattr(task, "ignored", None) is not None:
        raise UserError(
            f"transforms.{wanted[-1]}: it mixes labels, and some of the data's are {task.ignored}: they have none."
        )
    return Augment(**chosen, num_classes=spec.num_classes)


def check_shares(section: Transforms, choices: Mapping[str, Any], task: Task, outputs: torch.Tensor) -> None:
    """Where labels are mixed, the loss takes shares of classes (N, C). Raises UserError."""
    shares = torch.full_like(outputs, 1 / outputs.shape[1])
    try:
        task.loss(outputs, shares)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        if out_of_memory(error):
            raise
        name = "mixup" if section.mixup else "cutmix"
        raise UserError(
            f"transforms.{name}: it makes labels shares of classes, as {tuple(shares.shape)}, and "
            f"loss={choices.get('loss')} can't take them: {first_line(error)}"
        ) from error
