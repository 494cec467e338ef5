"""What a model said of each sample of a split, and what follows from it: how sure each metric is, what a model that
knows nothing would have reached, where this one fails."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plainloop.tasks import intervals, metrics
from plainloop.tasks.breakdown import Table
from plainloop.tasks.intervals import Interval
from plainloop.tasks.task import Task

MOST_COLUMNS = 20  # the probability of each class, where there are at most so many
MOST_HELD = 1 << 28  # numbers of predictions: 1 GB


class Answered:
    """The samples of a split, as an evaluation comes upon them, in their order.

    Args:
        task: as it was trained.
        names: of its classes, labels or values.
        trivial: outputs for a sample that don't depend on its inputs, of `task.trivial`.
        most: numbers of predictions to hold; of more, there are no intervals.
        work: as of `intervals.resamples`.
    """

    def __init__(
        self,
        task: Task,
        names: Sequence[str],
        trivial: Tensor | None = None,
        most: int = MOST_HELD,
        work: int = intervals.WORK,
    ):
        self.work = work
        self.task, self.names, self.trivial, self.most = task, list(names), trivial, most
        self.every = len(self.names) <= MOST_COLUMNS
        self.count = 0  # samples
        self.columns: dict[str, list[Any]] = {}  # of `task.truths` and `task.answers`
        self.losses: list[Tensor] = []
        self.seen = _Seen()
        self.of: list[Tensor] = []  # which sample each of the predictions is of
        self.idle = {name: twin for name, metric in task.metrics.items() if (twin := _copied(metric)) is not None}
        metrics.reset_all(self.idle)  # of the trivial outputs
        self.idle_loss, self.idle_weight = 0.0, 0.0
        self.note = ""  # why there is nothing, where a task of the user's own doesn't say what it needs to

    def add(self, outputs: Any, batch: Any) -> None:
        """A batch, on its device and preprocessed, and the model's outputs."""
        if self.note:
            return
        try:
            self._add(outputs, batch)
        except Exception as error:  # of a task or a loss of the user's own: what was measured stands all the same
            self.__init__(self.task, self.names)  # type: ignore[misc]
            self.note = (
                f"what becomes of each sample isn't known, so that there is no interval and no table: see answers, "
                f"truths and losses_of of plainloop.tasks.Task ({type(self.task).__qualname__} with "
                f"{type(self.task.loss).__qualname__}: {type(error).__name__}: {error})"
            )

    def _add(self, outputs: Any, batch: Any) -> None:
        task, outputs = self.task, outputs.float() if isinstance(outputs, Tensor) else outputs
        losses = task.losses_of(outputs, batch)
        columns = task.truths(batch, self.names)
        said = task.answers(outputs, batch[0] if isinstance(batch, tuple | list) else batch, self.names, 1, self.every)
        columns |= {_apart(name, self.names, columns): values for name, values in said.items()}
        for name, values in columns.items():
            self.columns.setdefault(name, []).extend(values)
        self.losses.append(losses)
        counted = task.counted(batch)
        if self.seen.held <= self.most:
            task.update({"seen": self.seen}, outputs, batch)
            each = torch.arange(len(losses)) if counted is None else counted.nonzero()[:, 0].cpu()
            self.of.append(self.count + each)
        self.count += len(losses)
        size = task.size(batch)
        if self.trivial is not None and size:
            constant = self.trivial.to(outputs.device).expand_as(outputs)
            task.update(self.idle, constant, batch)
            loss_of: Callable[..., Any] = task.loss_of
            loss = loss_of(lambda *_, **__: constant, batch)[0]
            weight = task.share(batch) if task.weighted else size
            self.idle_loss, self.idle_weight = self.idle_loss + float(loss) * weight, self.idle_weight + weight

    def loss(self) -> Tensor:
        """Of each sample, (N,); NaN for one that doesn't count."""
        return torch.cat(self.losses) if self.losses else torch.zeros(0)

    def baseline(self) -> dict[str, float]:
        """What the trivial outputs reach: {"loss": ..., "accuracy": ...}; nothing, where there are none."""
        if self.trivial is None or not self.idle_weight:
            return {}
        return {"loss": self.idle_loss / self.idle_weight, **metrics.compute_all(self.idle)}

    def predictions(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Predictions and targets of all the samples, as metrics get them, and which sample each is of; None where they
        were too many, or the task gives its metrics something else."""
        if not self.of or self.seen.held > self.most:
            return None
        predictions, targets, of = torch.cat(self.seen.predictions), torch.cat(self.seen.targets), torch.cat(self.of)
        return (predictions, targets, of) if len(predictions) == len(targets) == len(of) else None

    def intervals(self) -> dict[str, Interval]:
        """Of each metric that they are known of, the 95 % interval: Wilson's of shares of samples, else by a bootstrap
        of the samples."""
        found: dict[str, Interval] = {}
        held = self.predictions()
        if held is not None and self.count and self.alone(held[2]):
            for name, metric in self.task.metrics.items():
                if not is_rate(metric):
                    continue
                found[name] = intervals.wilson(int(metric.hits(held[0], held[1]).sum()), self.count)
        functions = {name: function for name, function in self.functions().items() if name not in found}
        for name, values in intervals.bootstrap(functions, self.count, self.work).items():
            parts = getattr(self.task.metrics.get(name), "names", None)
            each = zip([f"{name}/{part}" for part in parts], values.T, strict=True) if parts else [(name, values)]
            found |= {name: intervals.percentiles(column) for name, column in each}
        return found

    def functions(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """The loss and each metric, as functions of how often each sample counts, (B, N)."""
        functions: dict[str, Callable[[Tensor], Tensor]] = {}
        if self.count and not self.task.weighted:  # else it isn't the mean over samples
            functions["loss"] = self._loss_function(self.loss())
        held = self.predictions()
        if held is None:
            return functions
        predictions, targets, of = held
        for name, metric in self.task.metrics.items():
            function: Callable[[Tensor], Tensor] | None = None
            if weighs(metric):
                function = metric.weighed(predictions, targets)
            elif predictions.numel() * intervals.MOST <= self.work:
                function = intervals.by_repeating(metric, predictions, targets)
            if function is None:
                continue
            functions[name] = function if self.alone(of) else _spread(function, of)
        return functions

    def _loss_function(self, losses: Tensor) -> Callable[[Tensor], Tensor]:
        """The mean loss; of samples with several places, each counts as often as it has places."""
        held = self.predictions()
        places = torch.ones(self.count) if held is None else torch.bincount(held[2], minlength=self.count)
        places, values = places.double(), losses.double().nan_to_num()
        return lambda weights: (weights @ (values * places)) / (weights @ places)

    def alone(self, of: Tensor) -> bool:
        """Whether each sample has one prediction."""
        return len(of) == self.count and bool((of == torch.arange(self.count)).all())

    def tables(self) -> list[Table]:
        """Where the model is right and where it fails."""
        held = self.predictions()
        return [] if held is None else self.task.breakdown(held[0], held[1], self.names, self.columns)


@dataclass
class Difference:
    """Of a metric of two models, on the same samples.

    Args:
        first, second: its values.
        interval: 95 %, of second - first.
        probability: of McNemar's test, where it is a share of samples; else None.
        better: 1 where the second is better, -1 where the first is, 0 where they can't be told apart; None where
            nobody knows which is better.
    """

    first: float
    second: float
    interval: Interval
    probability: float | None
    better: int | None


def differences(first: Answered, second: Answered, values: Sequence[Mapping[str, float]]) -> dict[str, Difference]:
    """What can be said of two models by the same samples, resampled in pairs.

    Args:
        values: what was measured of each.
    """
    ours, theirs = first.functions(), second.functions()

    def apart(name: str) -> Callable[[Tensor], Tensor]:
        return lambda weights: theirs[name](weights) - ours[name](weights)

    resampled = intervals.bootstrap({name: apart(name) for name in ours if name in theirs}, first.count)
    found = {}
    for name, drawn in resampled.items():
        metric = first.task.metrics.get(name)
        parts = getattr(metric, "names", None)
        higher = False if metric is None else getattr(metric, "higher_is_better", None)
        each = zip([f"{name}/{part}" for part in parts], drawn.T, strict=True) if parts else [(name, drawn)]
        for label, column in each:
            low, high = intervals.percentiles(column)
            sign = 1 if low > 0 else -1 if high < 0 else 0
            better = None if higher is None else sign if higher else -sign
            probability = _mcnemar(metric, first, second) if is_rate(metric) else None
            found[label] = Difference(values[0][label], values[1][label], (low, high), probability, better)
    return found


def _mcnemar(metric: Any, first: Answered, second: Answered) -> float | None:
    """Of which samples each has right, where each sample has one prediction."""
    ours, theirs = first.predictions(), second.predictions()
    if ours is None or theirs is None or not first.alone(ours[2]):
        return None
    hits = [metric.hits(predictions, targets) for predictions, targets, _ in (ours, theirs)]
    return intervals.mcnemar(*hits)


def _copied(metric: Any) -> Any:
    """None for one of the user's that can't be copied, as it holds a lock, say."""
    try:
        return copy.deepcopy(metric)
    except Exception:
        return None


def weighs(metric: Any) -> bool:
    """Whether a metric's `weighed` is its own: a class of the user's that changes one of ours may have inherited it."""
    return type(metric).__module__ == metrics.__name__ or "weighed" in vars(type(metric))


def is_rate(metric: Any) -> bool:
    """Whether a metric is a share of samples, and tells which of them are right."""
    return weighs(metric) and getattr(metric, "is_rate", False)


def _spread(function: Callable[[Tensor], Tensor], of: Tensor) -> Callable[[Tensor], Tensor]:
    """A function of how often each prediction counts, as one of how often each sample does."""
    return lambda weights: function(weights[:, of])


class _Seen:
    """What metrics are given, kept."""

    def __init__(self) -> None:
        self.predictions: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.held = 0

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        self.predictions.append(predictions.cpu())
        self.targets.append(targets.cpu())
        self.held += predictions.numel()


def _apart(name: str, names: Sequence[str], columns: Mapping[str, Any]) -> str:
    """The name of a column of answers beside those of targets: of values, 'prediction price'."""
    if name not in names or name == "prediction":
        return name
    return f"prediction {name}" if f"target {name}" in columns else "prediction"
