"""How sure a number is that was measured on a sample: 95 % intervals, of one model and of the difference of two."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Z = 1.959963984540054  # 95 % of a normal distribution lie within so many deviations
MOST = 1000  # resamples
HELD = 1 << 23  # so many weights are drawn at once: 64 MB
WORK = 1 << 26  # so many in all, of large splits: their intervals are narrow, and fewer resamples will do
Interval = tuple[float, float]


def wilson(right: float, count: int) -> Interval:
    """The 95 % interval of a share, right / count (Wilson 1927): that of 0 and 1 has a width, too."""
    share, square = right / count, Z * Z / count
    middle, half = share + square / 2, Z * math.sqrt(share * (1 - share) / count + square / count / 4)
    return max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))


def resamples(count: int, work: int = WORK) -> Iterator[Tensor]:
    """How often each of `count` samples is drawn, where as many are drawn with replacement: (B, count), some B at a
    time; always the same ones.

    Args:
        work: so many weights in all, about; but at least 100 resamples, and at most 1,000.
    """
    generator = torch.Generator().manual_seed(0)
    left = max(100, min(MOST, work // count))
    while left:
        rows = min(left, max(1, HELD // count))
        drawn = torch.randint(count, (rows, count), generator=generator)
        weights = torch.zeros(rows, count, dtype=torch.float64)
        yield weights.scatter_add_(1, drawn, torch.ones((), dtype=torch.float64).expand(rows, count))
        left -= rows


def percentiles(values: Tensor) -> Interval:
    """Between which 95 % of the resamples' values (B,) lie (Efron 1979); NaN where too many have none, or all are the
    same: of a sample without a mistake they tell nothing."""
    known = values[~values.isnan()]
    if len(known) < len(values) / 2 or bool((known == known[0]).all()):
        return math.nan, math.nan
    low, high = known.double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def bootstrap(functions: Mapping[str, Callable[[Tensor], Tensor]], count: int, work: int = WORK) -> dict[str, Tensor]:
    """Each function's values over the same resamples of `count` samples: (B,), or (B, K)."""
    found: dict[str, list[Tensor]] = {name: [] for name in functions}
    for weights in resamples(count, work) if count and functions else ():
        for name, function in functions.items():
            found[name].append(function(weights).double())
    return {name: torch.cat(values) for name, values in found.items() if values}


def by_repeating(metric: Any, predictions: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor] | None:
    """The same of a metric that is none of ours: its samples are given to it as often as they count. None for one whose
    result is no number, or numbers by its `names`."""

    def over(weights: Tensor) -> Tensor:
        found = []
        for row in weights:
            rows = torch.arange(len(row)).repeat_interleave(row.long())
            metric.reset()
            metric.update(predictions[rows], targets[rows])
            found.append(torch.as_tensor(metric.compute(), dtype=torch.float64))
        return torch.stack(found)

    try:
        metric = copy.deepcopy(metric)
        metric = metric.cpu() if hasattr(metric, "cpu") else metric  # torchmetrics' hold their states on a device
        alike = over(torch.ones(1, len(predictions), dtype=torch.float64))
    except Exception:  # whatever a metric of the user's does not take; what it measured stands
        return None
    return over if alike[0].numel() == len(getattr(metric, "names", None) or [""]) else None


def mcnemar(first: Tensor, second: Tensor) -> float:
    """The probability of a difference like this one, or a larger one, between two models that are equally good, of
    which samples each has right, (N,) and (N,): McNemar's test (1947), by the binomial distribution."""
    ours, theirs = int((first & ~second).sum()), int((~first & second).sum())
    count, few = ours + theirs, min(ours, theirs)
    logs = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) - count * math.log(2)
        for k in range(few + 1)
    ]
    return min(1.0, 2 * math.fsum(math.exp(log) for log in logs))
