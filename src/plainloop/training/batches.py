"""What stands between the loader and the model: the device, augmentation, preprocessing, mixed precision."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.data.augment import Augment


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch on the device: tensors, and tuples, lists and dicts of them; the rest as it is."""
    if hasattr(batch, "to"):  # tensors, packed sequences, and what else knows how
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {name: to_device(value, device) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, tuple | list):
        return tuple(to_device(value, device) for value in batch)
    return batch


def preparation(
    preprocess: nn.Module, device: torch.device, channels_last: bool = False, augment: Augment | None = None
) -> Callable[[Any], Any]:
    """What stands between the loader and the model: to the device, then `preprocess` on the inputs, and around it
    what augments a training batch.

    Decided once, so that nothing is decided at every step.
    """

    on_cpu = device.type == "cpu"

    def prepare(batch: Any) -> Any:
        if not on_cpu:
            batch = to_device(batch, device)
        if not isinstance(batch, (tuple, list)):
            return preprocess(batch)
        if on_cpu and not channels_last and getattr(preprocess, "identity", False):
            return batch
        inputs = preprocess(batch[0])
        if channels_last and isinstance(inputs, Tensor) and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return (inputs, *batch[1:])

    if augment is None:
        return prepare
    augmenting = augment

    def prepare_augmented(batch: Any) -> Any:
        batch = to_device(batch, device)
        if not isinstance(batch, (tuple, list)):  # images alone, which are their own target
            return augmenting.after(prepare(augmenting.before(batch)), batch)[0]
        inputs, *rest = batch
        inputs, targets, *rest = prepare((augmenting.before(inputs), *rest))
        return (*augmenting.after(inputs, targets), *rest)

    return prepare_augmented


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """The context of the forward pass: automatic mixed precision, or nothing."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[precision])
