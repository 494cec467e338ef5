"""The eval-mode pass that validation, test and evaluate share: every sample exactly once, no gradients."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from plainloop import seeding
from plainloop.errors import MachineError
from plainloop.tasks import metrics as metrics_room
from plainloop.tasks.task import Task
from plainloop.training import meter


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


def measure(
    model: nn.Module,
    task: Task,
    batches: Iterable[Any],
    prepare: Callable[[Any], Any],
    context: AbstractContextManager,
    metrics: Mapping[str, Any],
    stopped: Callable[[], None] = lambda: None,
    also: Sequence[Any] = (),
) -> dict[str, float]:
    """Loss and metrics over all samples of a split: {"loss": ..., "accuracy": ...}.

    The loss is the mean over samples: each batch's mean counts as often as the batch has samples (or, with class
    weights, by their sum). So are its parts: {"loss/NAME": ...}.
    `stopped` is called between batches, and may raise to end the pass. The metrics in `also` are updated on the
    way, for the caller to compute (a confusion matrix).
    """
    seeding.seed_everything(0, seeding.MEASURE)  # a model may draw in eval mode too
    metrics_room.reset_all(metrics)
    watched = {**metrics, **{f"also {number}": metric for number, metric in enumerate(also)}}
    means: dict[str, meter.MeanLoss] = {}
    with eval_mode(model, task), torch.inference_mode():
        for batch in batches:
            stopped()
            batch = prepare(batch)
            with context:
                loss, outputs = task.loss_of(model, batch)
            size, share = task.size(batch), task.share(batch) if task.weighted else None
            for name, value in {"loss": loss, **{f"loss/{name}": part for name, part in task.parts().items()}}.items():
                means.setdefault(name, meter.MeanLoss()).add(value, size, share)
            task.update(watched, outputs, batch)
        sums = {name: mean.read() for name, mean in means.items()}
        if not sums or sums["loss"][1] == 0:
            raise MachineError("a pass over a split saw no samples.")
        losses = {name: total / count for name, (total, count) in sums.items()}
        return {**losses, **metrics_room.compute_all(metrics)}
