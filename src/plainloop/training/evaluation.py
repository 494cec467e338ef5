"""The eval-mode pass that validation, test and evaluate share: every sample exactly once, no gradients."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from plainloop import metrics as metrics_room
from plainloop import seeding
from plainloop.augment import Augment
from plainloop.errors import MachineError
from plainloop.tasks import Task


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


def preparation(preprocess: nn.Module, device: torch.device, channels_last: bool = False,
                augment: Augment | None = None) -> Callable[[Any], Any]:  # fmt: skip
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


@contextmanager
def eval_mode(*models: nn.Module) -> Iterator[None]:
    """`model.eval()`, and afterwards every module in the mode it was found in."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def measure(model: nn.Module, task: Task, batches: Iterable[Any], prepare: Callable[[Any], Any],
            context: AbstractContextManager, metrics: Mapping[str, Any],
            stopped: Callable[[], None] = lambda: None, also: Sequence[Any] = ()) -> dict[str, float]:  # fmt: skip
    """Loss and metrics over all samples of a split: {"loss": ..., "accuracy": ...}.

    The loss is the mean over samples: each batch's mean counts as often as the batch has samples (or, with class
    weights, by their sum). So are its parts: {"loss/NAME": ...}.
    `stopped` is called between batches, and may raise to end the pass. The metrics in `also` are updated on the
    way, for the caller to compute (a confusion matrix).
    """
    seeding.seed_everything(0, seeding.MEASURE)  # a model may draw in eval mode too
    metrics_room.reset_all(metrics)
    watched = {**metrics, **{f"also {number}": metric for number, metric in enumerate(also)}}
    means: dict[str, metrics_room.MeanLoss] = {}
    with eval_mode(model, task), torch.inference_mode():
        for batch in batches:
            stopped()
            batch = prepare(batch)
            with context:
                loss, outputs = task.loss_of(model, batch)
            size, share = task.size(batch), task.share(batch) if task.weighted else None
            for name, value in {"loss": loss, **{f"loss/{name}": part for name, part in task.parts().items()}}.items():
                means.setdefault(name, metrics_room.MeanLoss()).add(value, size, share)
            task.update(watched, outputs, batch)
        sums = {name: mean.read() for name, mean in means.items()}
        if not sums or sums["loss"][1] == 0:
            raise MachineError("a pass over a split saw no samples.")
        losses = {name: total / count for name, (total, count) in sums.items()}
        return {**losses, **metrics_room.compute_all(metrics)}
