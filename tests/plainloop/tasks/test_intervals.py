"""Intervals, against closed forms and other libraries."""

import math

import numpy
import pytest
import torch
from scipy import stats
from sklearn import metrics as truth

from plainloop.tasks import (
    AUROC,
    F1,
    MAE,
    R2,
    RMSE,
    Accuracy,
    ExactMatch,
    LabelAccuracy,
    LabelF1,
    Perplexity,
    intervals,
)
from plainloop.tasks.breakdown import by_class, calibration, coverage, residuals


@pytest.mark.parametrize(("right", "count"), [(8, 10), (0, 7), (7, 7), (930, 1000), (1, 3)])
def test_wilsons_interval_is_the_roots_of_its_equation(right, count):
    """Both ends solve (p - right/count)^2 = z^2 p (1 - p) / count; scipy's is the same."""
    low, high = intervals.wilson(right, count)
    theirs = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilsons_interval_covers_the_truth_as_often_as_it_says():
    drawn = numpy.random.default_rng(0).binomial(200, 0.9, size=4000)
    hits = [low <= 0.9 <= high for low, high in (intervals.wilson(int(right), 200) for right in drawn)]
    assert numpy.mean(hits) == pytest.approx(0.95, abs=0.012)


def test_resamples_are_the_same_each_time_and_as_many_as_the_samples(monkeypatch: pytest.MonkeyPatch):
    first, again = (torch.cat(list(intervals.resamples(50))) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (1000, 50)
    assert (first.sum(1) == 50).all()
    assert first.mean() == 1
    monkeypatch.setattr(intervals, "HELD", 1 << 10)
    assert [len(weights) for weights in intervals.resamples(60, work=1 << 14)] == [17] * 16 + [
        1
    ]  # of large splits fewer, in parts
    assert sum(map(len, intervals.resamples(1000, work=1 << 14))) == 100


def test_the_bootstrap_of_a_mean_is_as_wide_as_its_standard_error():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1)).double()
    drawn = intervals.bootstrap({"mean": lambda weights: weights @ values / 400}, 400)["mean"]
    low, high = intervals.percentiles(drawn)
    error = float(values.std()) / 20
    assert (low, high) == pytest.approx(
        (float(values.mean()) - 1.96 * error, float(values.mean()) + 1.96 * error), abs=error / 4
    )


GENERATOR = torch.Generator().manual_seed(3)
LOGITS = torch.randn(60, 4, generator=GENERATOR)
CLASSES = torch.randint(4, (60,), generator=GENERATOR)
YES = torch.rand(60, 3, generator=GENERATOR) > 0.5
VALUES = torch.randn(60, 2, generator=GENERATOR)


@pytest.mark.parametrize(
    ("metric", "predictions", "targets"),
    [
        (Accuracy(), LOGITS.softmax(1), CLASSES),
        (Accuracy(top_k=2), LOGITS.softmax(1), CLASSES),
        (F1(num_classes=4), LOGITS.softmax(1), CLASSES),
        (Perplexity(), LOGITS.softmax(1), CLASSES),
        (LabelAccuracy(), LOGITS[:, :3].sigmoid(), YES),
        (LabelF1(), LOGITS[:, :3].sigmoid(), YES),
        (ExactMatch(), LOGITS[:, :3].sigmoid(), YES),
        (AUROC(), (LOGITS[:, 0] * 4).round().sigmoid(), YES[:, 0]),  # with ties
        (MAE(), LOGITS[:, :2], VALUES),
        (MAE(names=["a", "b"]), LOGITS[:, :2], VALUES),
        (RMSE(names=["a", "b"]), LOGITS[:, :2], VALUES),
        (RMSE(), LOGITS[:, :2], VALUES),
        (R2(), LOGITS[:, :2], VALUES),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_weighed_metric_is_that_of_samples_which_are_there_as_often(metric, predictions, targets):
    weights = torch.cat(list(intervals.resamples(60)))[:5]
    function = metric.weighed(predictions, targets)
    for row, found in zip(weights, function(weights), strict=True):
        rows = torch.arange(60).repeat_interleave(row.long())
        metric.reset()
        metric.update(predictions[rows], targets[rows])
        wanted = torch.as_tensor(metric.compute(), dtype=torch.float64)
        torch.testing.assert_close(found.double(), wanted, atol=1e-12, rtol=1e-12)
    repeated = intervals.by_repeating(metric, predictions, targets)(weights)
    torch.testing.assert_close(repeated, function(weights).double(), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("ours", "theirs"), [(0, 0), (1, 9), (5, 5), (30, 12), (400, 310)])
def test_mcnemar_is_the_binomial_test_of_the_samples_that_differ(ours, theirs):
    first = torch.tensor([True] * ours + [False] * theirs + [True] * 20)
    second = torch.tensor([False] * ours + [True] * theirs + [True] * 20)
    wanted = stats.binomtest(ours, ours + theirs).pvalue if ours + theirs else 1.0
    assert intervals.mcnemar(first, second) == pytest.approx(wanted, rel=1e-9)


def test_the_table_by_class_is_scikit_learns():
    said = LOGITS.argmax(1)
    said[said == 3] = 2  # a class that is never said
    rows = by_class(said, CLASSES, list("abcd")).rows
    precision, recall, f1, support = truth.precision_recall_fscore_support(CLASSES, said, zero_division=0)
    assert [row[1] for row in rows] == support.tolist()
    assert numpy.array([row[2:] for row in rows]) == pytest.approx(numpy.stack([precision, recall, f1], 1), abs=1e-12)
    labels = (LOGITS[:, :3] > 0).long()
    rows = by_class(labels, YES.long(), list("abc")).rows
    precision, recall, f1, support = truth.precision_recall_fscore_support(YES, labels, zero_division=0)
    assert numpy.array([row[2:] for row in rows]) == pytest.approx(numpy.stack([precision, recall, f1], 1), abs=1e-12)


def test_the_calibration_error_is_the_mean_distance_in_the_bins():
    """Two bins: 30 samples said with 0.9 of which 24 are right, and 10 with 0.5 of which 7 are."""
    sure = torch.tensor([0.9] * 30 + [0.5] * 10)
    right = torch.tensor([True] * 24 + [False] * 6 + [True] * 7 + [False] * 3)
    table = calibration(sure, right)
    assert table.facts["ece"] == pytest.approx((30 * 0.1 + 10 * 0.2) / 40, abs=1e-7)
    assert [row[1] for row in table.rows] == [10, 30]


def test_a_normal_distribution_lies_within_its_own_intervals():
    errors = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    found = coverage(3 * errors, torch.full_like(errors, 3.0)).rows
    assert [row[1] for row in found] == pytest.approx([0.5, 0.8, 0.95], abs=0.01)


def test_residuals_are_of_five_equal_parts_in_the_order_of_the_predictions():
    predictions = torch.arange(10.0)
    targets = predictions - torch.tensor([1.0] * 4 + [0.0] * 4 + [-2.0, 2.0])
    table = residuals(predictions, targets, "price")
    assert [row[1] for row in table.rows] == [2] * 5
    assert [row[2] for row in table.rows] == [1, 1, 0, 0, 0]
    assert table.rows[-1] == ["8 to 9", 2, 0.0, 2.0, 2.0]
    assert math.isclose(float((predictions - targets).mean()), 0.4, rel_tol=1e-6)
    assert "0.4" in table.note
