"""Metrics: short readable states on the device, summed over a whole split and read once at the end.

The interface is torchmetrics' own, update / compute / reset, so that any class of torchmetrics works in their
place by its `_target_`. A metric gets predictions as probabilities: (N, C) for classes, (N,) for two classes,
and values (N, T) for regression.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# What a metric of the user's must have, as those of torchmetrics do.
METRIC = ("update", "compute", "reset")


def wide(tensor: Tensor) -> Tensor:
    """float64 for sums of many values, where the device has it."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def same_shape(predictions: Tensor, targets: Tensor) -> None:
    """(N, 1) against (N,) would compare every sample with every other. Raises ValueError."""
    if predictions.shape != targets.shape:
        raise ValueError(
            f"predictions {tuple(predictions.shape)} and targets {tuple(targets.shape)} must have one shape"
        )


def share(right: Tensor | int, count: int) -> float:
    """right / count, as numbers of Python's; NaN where nothing was counted."""
    return int(right) / count if count else math.nan


# Of how often each of N predictions counts, in B ways, (B, N): the metric for each, (B,), or (B, K) of several values.
Weighed = Callable[[Tensor], Tensor]


def mean_of(values: Tensor) -> Weighed:
    """The weighed mean of a value of each prediction, (N,) or (N, K)."""
    values = values.double()
    return lambda weights: (weights @ values) / weights.sum(1).reshape(-1, *[1] * (values.ndim - 1))


class Metric:
    """A sum over samples. Subclasses say what is added (`update`) and what it amounts to (`compute`); and what it would
    be if some samples counted more often than others (`weighed`), for intervals (intervals.py)."""

    higher_is_better: bool | None = True
    is_rate = False  # whether it is the share of samples that are right, which `hits` then tells

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        raise NotImplementedError

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        raise NotImplementedError

    def compute(self) -> Tensor | float:
        """The metric over everything since the reset, as a number or a scalar tensor."""
        raise NotImplementedError

    def weighed(self, predictions: Tensor, targets: Tensor) -> Weighed:
        """The metric of these, which are all on the CPU, as a function of how often each counts. (A metric that doesn't
        define it is given its samples as often as they count, instead.)"""
        raise NotImplementedError


class Accuracy(Metric):
    """Share of samples whose class is predicted: (N, C) or (N,) probabilities against classes (N,).

    Args:
        top_k: right if the class is among the k most probable.
    """

    is_rate = True

    def __init__(self, top_k: int = 1):
        self.top_k = top_k
        super().__init__()

    def reset(self) -> None:
        self.right: Tensor | int = 0
        self.count = 0

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        self.right = self.right + self.hits(predictions, targets).sum()
        self.count += len(targets)

    def weighed(self, predictions: Tensor, targets: Tensor) -> Weighed:
        return mean_of(self.hits(predictions, targets))

    def hits(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Whether each is right, (N,)."""
        if self.top_k > 1 and (predictions.ndim == 1 or self.top_k > predictions.shape[1]):
            raise ValueError(f"Accuracy(top_k={self.top_k}) was given predictions of shape {tuple(predictions.shape)}")
        if predictions.ndim == 1:
            return (predictions > 0.5) == targets.bool()
        if self.top_k == 1:
            return predictions.argmax(1) == targets
        return (predictions.topk(self.top_k, dim=1).indices == targets[:, None]).any(1)

    def compute(self) -> float:
        return share(self.right, self.count)


class _Counts(Metric):
    """Counts (C, C): rows are the true classes, columns the predicted ones."""

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        super().__init__()

    def reset(self) -> None:
        self.matrix: Tensor | None = None

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        counts = torch.bincount(self.cells(predictions, targets), minlength=self.num_classes**2)
        counts = counts.reshape(self.num_classes, self.num_classes)
        self.matrix = counts if self.matrix is None else self.matrix + counts

    def cells(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Each one's place in the flattened matrix, (N,)."""
        outputs = 2 if predictions.ndim == 1 else predictions.shape[1]
        if outputs != self.num_classes:
            raise ValueError(f"{type(self).__name__}(num_classes={self.num_classes}) was given {outputs} classes")
        predicted = (predictions > 0.5).long() if predictions.ndim == 1 else predictions.argmax(1)
        return torch.add(predicted, targets.long(), alpha=self.num_classes)

    def counted(self) -> Tensor:
        assert self.matrix is not None, "compute() before any update()"
        return self.matrix


class ConfusionMatrix(_Counts):
    """Counts (C, C): rows are the true classes, columns the predicted ones."""

    higher_is_better: bool | None = None

    def compute(self) -> Tensor:
        return self.counted()


class _FromConfusion(_Counts):
    """Precision, recall and F1 of each class, averaged over classes ("macro"), or of class 1 alone where there
    are two classes and average is "binary". A ratio of 0 to 0 counts as 0, as in scikit-learn.

    Classes that neither occur nor are predicted are left out of the average.
    """

    higher_is_better = True

    def __init__(self, num_classes: int = 2, average: str = "macro"):
        if average not in ("macro", "binary"):
            raise ValueError(f"average must be macro or binary, not {average}")
        self.average = average
        super().__init__(num_classes)

    def weighed(self, predictions: Tensor, targets: Tensor) -> Weighed:
        cells, count = self.cells(predictions, targets), self.num_classes

        def over(weights: Tensor) -> Tensor:
            found, held = [], self.matrix
            for row in weights:
                self.matrix = torch.bincount(cells, row, minlength=count**2).reshape(count, count)
                found.append(float(self.compute()) if row.any() else math.nan)
            self.matrix = held
            return torch.tensor(found, dtype=torch.float64)

        return over

    def parts(self) -> tuple[list[int], list[int], list[int]]:
        """Right, predicted, and true or predicted counts of each class (C,); as numbers of Python's, which for the few
        that they are is ten times as fast as torch."""
        matrix = self.counted()
        right, predicted, true = torch.stack([matrix.diagonal(), matrix.sum(0), matrix.sum(1)]).tolist()
        return right, predicted, [one + other for one, other in zip(predicted, true, strict=True)]

    def averaged(self, numerator: Sequence[int], denominator: Sequence[int], seen: Sequence[int]) -> float:
        scores = [above / max(below, 1) for above, below in zip(numerator, denominator, strict=True)]
        return scores[1] if self.average == "binary" else sum(scores) / sum(count > 0 for count in seen)


class Precision(_FromConfusion):
    """Of what was predicted as a class, the share that is."""

    def compute(self) -> float:
        right, predicted, seen = self.parts()
        return self.averaged(right, predicted, seen)


class Recall(_FromConfusion):
    """Of what is in a class, the share that was predicted so."""

    def compute(self) -> float:
        right, predicted, seen = self.parts()
        return self.averaged(right, [both - one for both, one in zip(seen, predicted, strict=True)], seen)


class F1(_FromConfusion):
    """Harmonic mean of precision and recall: 2 right / (predicted + true)."""

    def compute(self) -> float:
        right, _, seen = self.parts()
        return self.averaged([2 * count for count in right], seen, seen)


class Perplexity(Metric):
    """exp of the mean negative log-likelihood of the true class: probabilities (N, C), classes (N,)."""

    higher_is_better = False

    def reset(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        self.total = self.total + self.surprises(predictions, targets).sum()
        self.count += len(targets)

    def weighed(self, predictions: Tensor, targets: Tensor) -> Weighed:
        mean = mean_of(self.surprises(predictions, targets))
        return lambda weights: mean(weights).exp()

    @staticmethod
    def surprises(predictions: Tensor, targets: Tensor) -> Tensor:
        """Each one's negative log-likelihood, (N,)."""
        likelihood = predictions.gather(1, targets[:, None]).squeeze(1).clamp(min=torch.finfo(predictions.dtype).tiny)
        return -wide(likelihood).log()

    def compute(self) -> Tensor:
        return (torch.as_tensor(self.total) / self.count).exp()


class _Labels(Metric):
    """Of several labels that may all be true at once: probabilities and targets 0 or 1, (N, T) both."""

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        same_shape(predictions, targets)
        self.count_labels(predictions > 0.5, targets.bool())

    def weighed(self, predictions: Tensor, targets: Tensor) -> Weighed:
        same_shape(predictions, targets)
        return self.of_labels(predictions > 0.5, targets.bool())

    def of_labels(self, predicted: Tensor, true: Tensor) -> Weighed:
        raise NotImplementedError

    def count_labels(self, predicted: Tensor, true: Tensor) -> None:
        raise NotImplementedError


class LabelAccuracy(_Labels):
    """Share of the N x T labels that are right."""

    def reset(self) -> None:
        self.right: Tensor | int = 0
        self.count = 0

    def count_labels(self, predicted: Tensor, true: Tensor) -> None:
        self.right = self.right + (predicted == true).sum()
        self.count += true.numel()

    def of_labels(self, predicted: Tensor, true: Tensor) -> Weighed:
        return mean_of((predicted == true).double().mean(1))

    def compute(self) -> float:
        return share(self.right, self.count)


class ExactMatch(LabelAccuracy):
    """Share of samples whose labels are all right."""

    is_rate = True

    def count_labels(self, predicted: Tensor, true: Tensor) -> None:
        self.right = self.right + (predicted == true).all(1).sum()
        self.count += len(true)

    def hits(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Whether each is right, (N,)."""
        return ((predictions > 0.5) == targets.bool()).all(1)

    def of_labels(self, predicted: Tensor, true: Tensor) -> Weighed:
        return mean_of((predicted == true).all(1))


class LabelF1(_Labels):
    """F1 of each label, 2 right / (predicted + true), averaged over the T labels; 0 / 0 counts as 0."""

    def reset(self) -> None:
        self.sums: Tensor | None = None

    def count_labels(self, predicted: Tensor, true: Tensor) -> None:
        sums = torch.stack([(predicted & true).sum(0), predicted.sum(0) + true.sum(0)])
        self.sums = sums if self.sums is None else self.sums + sums

    def compute(self) -> Tensor:
        assert self.sums is not None, "compute() before any update()"
        right, both = wide(self.sums)
        return (2 * right / both.clamp(min=1)).mean()

    def of_labels(self, predicted: Tensor, true: Tensor) -> Weighed:
        hits, both = (predicted & true).double(), predicted.double() + true
        return lambda weights: (2 * (weights @ hits) / (weights @ both).clamp(min=1)).mean(1)


class AUROC(Metric):
    """Area under the ROC curve of two classes: the probability that a positive sample scores above a negative one,
    ties counting one half (Hanley and McNeil 1982). NaN where only one class is present.
    """

    def reset(self) -> None:
        self.scores: list[Tensor] = []
        self.targets: list[Tensor] = []

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        same_shape(predictions, targets)
        self.scores.append(predictions.detach())
        self.targets.append(targets.detach().bool())

    def compute(self) -> Tensor:
        scores, positive = torch.cat(self.scores), torch.cat(self.targets)
        _, place, ties = scores.unique(return_inverse=True, return_counts=True)
        last_rank = wide(ties.cumsum(0))
        rank = (last_rank - (ties - 1) / 2)[place]  # equal scores share the mean of their ranks
        positives, negatives = wide(positive.sum()), wide((~positive).sum())
        above = rank[positive].sum() - positives * (positives + 1) / 2
        return above / (positives * negatives)

    def weighed(self, predictions: Tensor, targets: Tensor) -> Weighed:
        _, place = predictions.unique(return_inverse=True)
        positive = targets.double()

        def over(weights: Tensor) -> Tensor:
            found = []
            for row in weights:
                pairs = [torch.bincount(place, row * share) for share in (positive, 1 - positive)]
                ones, zeros = pairs
                below = zeros.cumsum(0) - zeros / 2  # of those with the same score, one half
                found.append((ones * below).sum() / (ones.sum() * zeros.sum()))
            return torch.stack(found)

        return over


class _Error(Metric):
    """A mean of something about the error.

    Args:
        names: of the K columns that the T values are of, in turn (several steps of each, perhaps). With two or more,
            whose units may differ, there is a mean for each, (K,); else one over all N x T values.
    """

    higher_is_better = False

    def __init__(self, names: Sequence[str] | None = None):
        self.names = list(names) if names is not None and len(names) > 1 else None
        super().__init__()

    def reset(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        same_shape(predictions, targets)
        columns = len(self.names or [""])
        errors = self.error(wide(predictions), wide(targets)).reshape(-1, columns)
        self.total = self.total + (errors.sum(0) if self.names else errors.sum())
        self.count += len(errors)

    def weighed(self, predictions: Tensor, targets: Tensor) -> Weighed:
        same_shape(predictions, targets)
        errors = self.error(wide(predictions), wide(targets)).reshape(len(predictions), -1, len(self.names or [""]))
        mean = mean_of(errors.mean(1) if self.names else errors.mean((1, 2)))
        return lambda weights: self.of_mean(mean(weights))

    def of_mean(self, mean: Tensor) -> Tensor:
        """The metric, of the mean over all errors."""
        return mean

    def error(self, predictions: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError

    def compute(self) -> Tensor:
        return self.of_mean(torch.as_tensor(self.total) / self.count)


class MAE(_Error):
    """Mean absolute error, in the target's unit."""

    def error(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).abs()


class RMSE(_Error):
    """Root of the mean squared error, in the target's unit."""

    def error(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).square()

    def of_mean(self, mean: Tensor) -> Tensor:
        return mean.sqrt()


class R2(Metric):
    """Share of the targets' variance that is explained, 1 - SSE / SST, averaged over the T targets.
    NaN where the targets don't vary."""

    def reset(self) -> None:
        self.count = 0
        self.sums: Tensor | None = None

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        same_shape(predictions, targets)
        predictions, targets = wide(predictions), wide(targets)
        if self.sums is None:
            self.origin = targets.mean(0)  # sums around a typical value don't lose digits
        away = targets - self.origin
        sums = torch.stack([away.sum(0), away.square().sum(0), (targets - predictions).square().sum(0)])
        self.sums = sums if self.sums is None else self.sums + sums
        self.count += len(targets)

    def compute(self) -> Tensor:
        assert self.sums is not None, "compute() before any update()"
        total, squares, errors = self.sums
        return self.explained(total, squares, errors, self.count).mean()

    def weighed(self, predictions: Tensor, targets: Tensor) -> Weighed:
        same_shape(predictions, targets)
        away = wide(targets) - wide(targets).mean(0)
        errors = wide(targets) - wide(predictions)
        parts = [part.reshape(len(targets), -1) for part in (away, away.square(), errors.square())]

        def over(weights: Tensor) -> Tensor:
            total, squares, errors = (weights @ part for part in parts)
            return self.explained(total, squares, errors, weights.sum(1, keepdim=True)).mean(1)

        return over

    @staticmethod
    def explained(total: Tensor, squares: Tensor, errors: Tensor, count: Any) -> Tensor:
        variation = squares - total.square() / count
        return torch.where(variation > 0, 1 - errors / variation, torch.nan)


def reset_all(metrics: Mapping[str, Any]) -> None:
    for metric in metrics.values():
        metric.reset()


def update_all(metrics: Mapping[str, Any], predictions: Tensor, targets: Tensor) -> None:
    for metric in metrics.values():
        metric.update(predictions, targets)


def update_ranking(metrics: Mapping[str, Any], scores: Tensor, targets: Tensor) -> dict[str, Any]:
    """Update the metrics that look only at which scores (N, C) are largest, for which logits will do, and return the
    others, which need probabilities. That is known of two methods; whoever replaces them gets probabilities."""
    others = {}
    for name, metric in metrics.items():
        if getattr(metric.update, "__func__", None) in (Accuracy.update, _Counts.update):
            metric.update(scores, targets)
        else:
            others[name] = metric
    return others


def compute_all(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Each metric's value as a Python number; of one that tells several by its `names`, "mae/price" and so on."""
    found: dict[str, float] = {}
    for name, metric in metrics.items():
        names = getattr(metric, "names", None)
        if names:
            found |= {f"{name}/{part}": float(value) for part, value in zip(names, metric.compute(), strict=True)}
        else:
            found[name] = float(metric.compute())
    return found
