"""Where a model is right and where it fails, in tables: by class, by how sure it was, by what it said."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

BINS = 15  # of probabilities


@dataclass
class Table:
    """Rows and columns for people and for JSON.

    Args:
        title: what it shows.
        columns: their names.
        rows: a value for each column.
        note: what it amounts to, in a line.
        kind: what a report draws of it, beside the table: "reliability".
    """

    title: str
    columns: list[str]
    rows: list[list[Any]]
    note: str = ""
    kind: str = ""
    facts: dict[str, float] = field(default_factory=dict)  # numbers of it that have a name: {"ece": 0.03}


def by_class(predicted: Tensor, targets: Tensor, names: Sequence[str]) -> Table:
    """Of each class: how many samples, precision, recall and F1. 0 / 0 counts as 0, as in scikit-learn.

    Args:
        predicted, targets: classes (N,); or 0 and 1 (N, T) of T labels.
    """
    if targets.ndim == 2:
        right, said, true = ((predicted & targets).sum(0), predicted.sum(0), targets.sum(0))
    else:
        count = len(names)
        right = torch.bincount(targets[predicted == targets], minlength=count)
        said, true = torch.bincount(predicted, minlength=count), torch.bincount(targets, minlength=count)
    rows = [
        [name, n, r / s if s else 0.0, r / n if n else 0.0, 2 * r / (s + n) if s + n else 0.0]
        for name, r, s, n in zip(names, right.tolist(), said.tolist(), true.tolist(), strict=True)
    ]
    kind = "label" if targets.ndim == 2 else "class"
    return Table(f"by {kind}", [kind, "support", "precision", "recall", "f1"], rows)


def calibration(probabilities: Tensor, right: Tensor) -> Table:
    """How often the model is right where it says so and so probable; and the expected calibration error, the mean
    distance of the two over 15 bins, by their samples (Naeini, Cooper, Hauskrecht 2015; Guo et al. 2017).

    Args:
        probabilities: of what was said, (N,).
        right: whether it was so, (N,).
    """
    probabilities, right = probabilities.double(), right.double()
    place = (probabilities * BINS).ceil().long().clamp(1, BINS) - 1  # (0, 1/15], (1/15, 2/15], ...
    counts = torch.bincount(place, minlength=BINS).double()
    sure = torch.bincount(place, probabilities, minlength=BINS) / counts
    true = torch.bincount(place, right, minlength=BINS) / counts
    apart = (sure - true).abs().nan_to_num() * counts
    error = float(apart.sum() / counts.sum()) if len(probabilities) else math.nan
    rows = [
        [f"{low / BINS:.2f} to {(low + 1) / BINS:.2f}", int(n), p, r]
        for low, (n, p, r) in enumerate(zip(counts.tolist(), sure.tolist(), true.tolist(), strict=True))
        if n
    ]
    note = f"expected calibration error {error:.4f}"
    return Table("calibration", ["probability", "samples", "mean", "right"], rows, note, "reliability", {"ece": error})


def coverage(errors: Tensor, deviations: Tensor) -> Table:
    """How many targets lie within the intervals that a model's own deviations promise.

    Args:
        errors, deviations: in one unit, both (N, T).
    """
    rows = []
    for share, width in ((0.5, 0.6744897501960817), (0.8, 1.2815515655446004), (0.95, 1.959963984540054)):
        inside = (errors.abs() <= width * deviations).double().mean()
        rows.append([f"{share:.0%}", float(inside)])
    return Table("within the model's own intervals", ["promised", "found"], rows)


def residuals(predictions: Tensor, targets: Tensor, name: str = "") -> Table:
    """The errors, prediction - target, of five equal parts of the samples, from the lowest prediction to the highest:
    whether it says too much or too little there, and how far it is off.

    Args:
        predictions, targets: of one value, both (N,).
    """
    predictions, targets = predictions.double(), targets.double()
    order = predictions.argsort(stable=True)
    rows = []
    for part in order.tensor_split(min(5, len(order))) if len(order) else ():
        said, errors = predictions[part], (predictions - targets)[part]
        low, high = f"{float(said[0]):.6g}", f"{float(said[-1]):.6g}"
        between = f"{low} to {high}"
        rows.append([between, len(part), float(errors.mean()), float(errors.abs().mean()), float(errors.abs().max())])
    errors = predictions - targets
    note = f"mean of the errors {float(errors.mean()):.6g}, their deviation {float(errors.std(correction=0)):.6g}"
    columns = ["prediction", "samples", "mean error", "mean size", "largest"]
    return Table(f"errors{f' of {name}' if name else ''} by prediction", columns, rows, note, "residuals")
