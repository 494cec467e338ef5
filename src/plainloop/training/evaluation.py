"""The eval-mode pass that validation, test and evaluate share: every sample exactly once, no gradients."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from plainloop import seeding
from plainloop.errors import MachineError
from plainloop.tasks.metrics import compute_all, reset_all
from plainloop.tasks.task import Task
from plainloop.training.batches import Preparation
from plainloop.training.meter import MeanLoss


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


def nothing_counts(task: Task, of: str) -> str:
    """Of a batch, or a split, that has no mean."""
    return f"every target of a {of} is {getattr(task, 'ignored', 'ignored')}, which the loss ignores: it has no mean."


def measure(
    model: nn.Module,
    task: Task,
    batches: Iterable[Any],
    prepare: Preparation,
    stopped: Callable[[], None] = lambda: None,
    also: Sequence[Any] = (),
    each: Callable[[Any, Any], None] | None = None,
) -> dict[str, float]:
    """Loss and metrics over all samples of a split: {"loss": ..., "accuracy": ...}.

    The loss is the mean over samples: each batch's mean counts as often as the batch has samples (or, with class
    weights, by their sum). So are its parts: {"loss/NAME": ...}.

    Args:
        stopped: called between batches; may raise to end the pass.
        also: metrics that are updated on the way, for the caller to compute (a confusion matrix).
        each: given the model's outputs for a batch, and the batch.
    """
    seeding.seed_everything(0, seeding.MEASURE)  # a model may draw in eval mode too
    reset_all(task.metrics)
    watched = {**task.metrics, **{f"also {number}": metric for number, metric in enumerate(also)}}
    forward = prepare.forward(task.loss_of)
    means: dict[str, MeanLoss] = {}
    ignored = 0  # batches in which nothing counts
    with eval_mode(model, task), torch.inference_mode():
        for batch in batches:
            stopped()
            batch = prepare(batch)
            size, share = task.size(batch), task.share(batch) if task.weighted else None
            if size == 0:  # it has no mean
                ignored += 1
                continue
            loss, outputs = forward(model, batch)
            for name, value in {"loss": loss, **{f"loss/{name}": part for name, part in task.parts().items()}}.items():
                means.setdefault(name, MeanLoss()).add(value, size, share)
            task.update(watched, outputs, batch)
            if each is not None:
                each(outputs, batch)
        sums = {name: mean.read() for name, mean in means.items()}
        if not sums and ignored:
            raise MachineError(nothing_counts(task, "split"))
        if not sums or sums["loss"][1] == 0:
            raise MachineError("a pass over a split saw no samples.")
        losses = {name: total / count for name, (total, count) in sums.items()}
        return {**losses, **compute_all(task.metrics)}


def of_batch(task: Task, outputs: Any, batch: Any) -> dict[str, float]:
    """Metrics and the parts of the newest loss over a single batch, which the model has had already."""
    reset_all(task.metrics)
    with torch.no_grad():
        task.update(task.metrics, outputs, batch)
        return {**{f"loss/{name}": float(value) for name, value in task.parts().items()}, **compute_all(task.metrics)}
