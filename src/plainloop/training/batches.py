"""What stands between the loader and the model, and how the model is called: decided once, before the loop."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.data.augment import Augment

CPU = torch.device("cpu")
LossOf = Callable[[Any, Any], tuple[Tensor, Any]]  # of (model, batch): the loss, and the model's outputs


class Preparation:
    """A batch on its way to the model: `prepare(batch)` brings it to the device and preprocesses its inputs;
    `prepare.training(batch)` augments them besides.

    Args:
        preprocess: applied to every batch's inputs on the device.
        device: where model and preprocess are.
        precision: of the forward pass: fp32, or autocast to bf16 or fp16.
        channels_last: memory format of images.
        augment: what happens to training batches, before and after `preprocess`.
    """

    def __init__(
        self,
        preprocess: nn.Module,
        device: torch.device = CPU,
        precision: str = "fp32",
        channels_last: bool = False,
        augment: Augment | None = None,
    ):
        self.preprocess, self.device, self.precision = preprocess, device, precision
        self.channels_last, self.augment = channels_last, augment
        self.on_cpu = device.type == "cpu"
        self.training: Callable[[Any], Any] = self if augment is None else self._augmented

    def __call__(self, batch: Any) -> Any:
        if not self.on_cpu:
            batch = to_device(batch, self.device)
        if not isinstance(batch, (tuple, list)):
            return self.preprocess(batch)
        if self.on_cpu and not self.channels_last and getattr(self.preprocess, "identity", False):
            return batch
        inputs = self.preprocess(batch[0])
        if self.channels_last and isinstance(inputs, Tensor) and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return (inputs, *batch[1:])

    def _augmented(self, batch: Any) -> Any:
        assert self.augment is not None
        batch = to_device(batch, self.device)
        if not isinstance(batch, (tuple, list)):  # images alone, which are their own target
            return self.augment.after(self(self.augment.before(batch)), batch)[0]
        inputs, *rest = batch
        inputs, targets, *rest = self((self.augment.before(inputs), *rest))
        return (*self.augment.after(inputs, targets), *rest)

    def autocast(self) -> AbstractContextManager:
        """The context of a forward pass: automatic mixed precision, or nothing."""
        if self.precision == "fp32":
            return nullcontext()
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        return torch.autocast(self.device.type, dtype=dtype)

    def forward(self, loss_of: LossOf) -> LossOf:
        """A task's `loss_of` in this precision."""
        if self.precision == "fp32":
            return loss_of

        def under_autocast(model: Any, batch: Any) -> tuple[Tensor, Any]:
            with self.autocast():
                return loss_of(model, batch)

        return under_autocast


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


def windows(batches: Iterable[Any], count: int) -> Iterator[list[Any]]:
    """Batches in lists of `count`; the last of an epoch may be shorter."""
    window = []
    for batch in batches:
        window.append(batch)
        if len(window) == count:
            yield window
            window = []
    if window:
        yield window
