"""Every metric against torchmetrics, at once and in batches; the mean loss against its closed form."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import plainloop
from plainloop.tasks.metrics import (
    AUROC,
    F1,
    MAE,
    R2,
    RMSE,
    Accuracy,
    ConfusionMatrix,
    Precision,
    Recall,
    compute_all,
    reset_all,
    update_all,
)
from plainloop.training.meter import MeanLoss
from tests.later import Later

torchmetrics, sklearn_metrics = Later("torchmetrics"), Later("sklearn.metrics")
classification, regression = Later("torchmetrics.classification"), Later("torchmetrics.regression")
CPU = torch.device("cpu")
# torchmetrics warns where a class doesn't occur, which is just what is compared here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torchmetrics")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def multiclass_case(weights: list[float], count: int, seed: int, sharpness: float = 1.0) -> tuple[Tensor, Tensor]:
    """Probabilities (N, C) that know something about classes (N,) drawn with these weights."""
    generator, classes = seeded(seed), len(weights)
    targets = torch.multinomial(torch.tensor(weights).float(), count, replacement=True, generator=generator)
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), targets] += sharpness
    return logits.softmax(1), targets


def binary_case(share: float, count: int, seed: int, steps: int | None = None) -> tuple[Tensor, Tensor]:
    """Probabilities (N,) and targets (N,); with `steps`, rounded to so many values, so that many are equal."""
    generator = seeded(seed)
    targets = (torch.rand(count, generator=generator) < share).long()
    scores = (torch.randn(count, generator=generator) + targets).sigmoid()
    return (scores if steps is None else (scores * steps).round() / steps), targets


def in_batches(metric: Any, predictions: Tensor, targets: Tensor, sizes: list[int]) -> Tensor:
    """Batches of these sizes in turn; the last one holds what is left."""
    metric.reset()
    start = 0
    while start < len(targets):
        size = sizes[start % len(sizes)]
        metric.update(predictions[start : start + size], targets[start : start + size])
        start += size
    found = metric.compute()
    return found if isinstance(found, Tensor) else torch.tensor(found, dtype=torch.float64)


def compare(ours: Any, theirs: Any, predictions: Tensor, targets: Tensor, tolerance: float = 1e-5) -> None:
    """Our metric equals theirs on the whole, and itself in batches of 1, of 7, of unequal sizes, and in all."""
    theirs.update(predictions, targets)
    expected = theirs.compute()
    for sizes in ([len(targets)], [7], [1, 5, 2, 13], [1]):
        found = in_batches(ours, predictions, targets, sizes)
        assert found.ndim == expected.ndim
        torch.testing.assert_close(found.double(), expected.double(), atol=tolerance, rtol=tolerance)


MULTICLASS = {
    "balanced": multiclass_case([1, 1, 1, 1], 200, 0),
    "unbalanced": multiclass_case([100, 10, 1], 300, 1),
    "two classes as (N, 2)": multiclass_case([3, 1], 100, 2),
    "a class that never occurs": multiclass_case([1, 0, 1, 1], 100, 3),
    "classes neither true nor predicted": multiclass_case([1, 1, 0, 0, 0], 40, 4, sharpness=20),
    "one class only": multiclass_case([0, 0, 1], 50, 5),
    "one class, always right": multiclass_case([0, 1, 0], 50, 6, sharpness=50),
    "always wrong": multiclass_case([1, 1, 1], 60, 7, sharpness=-50),
    "one sample": multiclass_case([1, 1, 1], 1, 8),
    "ten classes": multiclass_case([1] * 10, 500, 9),
}
BINARY = {
    "balanced": binary_case(0.5, 200, 0),
    "unbalanced": binary_case(0.05, 400, 1),
    "equal scores": binary_case(0.4, 300, 2, steps=10),
    "two scores": binary_case(0.4, 300, 3, steps=1),
    "exactly one half": (torch.tensor([0.5, 0.5, 0.7, 0.1]), torch.tensor([1, 0, 1, 1])),
    "all scores equal": (torch.full((10,), 0.3), torch.arange(10) % 2),
    "separated": (torch.arange(20) / 20, (torch.arange(20) >= 12).long()),
    "separated the wrong way": (torch.arange(20) / 20, (torch.arange(20) < 12).long()),
}
AVERAGED = [(Precision, "Precision"), (Recall, "Recall"), (F1, "F1Score")]


# --- classes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", MULTICLASS)
@pytest.mark.parametrize("top_k", [1, 2])
def test_accuracy(case, top_k):
    predictions, targets = MULTICLASS[case]
    theirs = classification.MulticlassAccuracy(predictions.shape[1], top_k=top_k, average="micro")
    compare(Accuracy(top_k=top_k), theirs, predictions, targets)


@pytest.mark.parametrize("case", BINARY)
def test_accuracy_of_two_classes(case):
    """A probability of exactly 1/2 is class 0, as torchmetrics has it."""
    compare(Accuracy(), classification.BinaryAccuracy(), *BINARY[case])


@pytest.mark.parametrize("case", MULTICLASS)
def test_confusion_matrix(case):
    """Rows are the true classes, columns the predicted ones."""
    predictions, targets = MULTICLASS[case]
    classes = predictions.shape[1]
    compare(ConfusionMatrix(classes), classification.MulticlassConfusionMatrix(classes), predictions, targets)


@pytest.mark.parametrize("case", BINARY)
def test_confusion_matrix_of_two_classes(case):
    compare(ConfusionMatrix(2), classification.BinaryConfusionMatrix(), *BINARY[case])


@pytest.mark.parametrize("case", MULTICLASS)
@pytest.mark.parametrize(("ours", "name"), AVERAGED, ids=[name for _, name in AVERAGED])
def test_macro_averages(case, ours, name):
    """Classes that neither occur nor are predicted are left out; 0 / 0 is 0: torchmetrics and scikit-learn agree."""
    predictions, targets = MULTICLASS[case]
    theirs = getattr(classification, f"Multiclass{name}")(predictions.shape[1], average="macro")
    compare(ours(num_classes=predictions.shape[1]), theirs, predictions, targets)
    score = getattr(sklearn_metrics, {"F1Score": "f1"}.get(name, name.lower()) + "_score")
    truth = score(targets.numpy(), predictions.argmax(1).numpy(), average="macro", zero_division=0)
    found = in_batches(ours(num_classes=predictions.shape[1]), predictions, targets, [len(targets)])
    assert found.item() == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize("case", BINARY)
@pytest.mark.parametrize(("ours", "name"), AVERAGED, ids=[name for _, name in AVERAGED])
def test_scores_of_the_positive_class(case, ours, name):
    """average=binary: class 1 alone."""
    compare(ours(average="binary"), getattr(classification, f"Binary{name}")(), *BINARY[case])


@pytest.mark.parametrize("case", BINARY)
def test_auroc(case):
    """Against torchmetrics and scikit-learn; equal scores count one half."""
    predictions, targets = BINARY[case]
    compare(AUROC(), classification.BinaryAUROC(), predictions, targets)
    truth = sklearn_metrics.roc_auc_score(targets.numpy(), predictions.numpy())
    assert in_batches(AUROC(), predictions, targets, [3]).item() == pytest.approx(truth, abs=1e-6)


def test_auroc_is_a_probability():
    """The share of pairs of a positive and a negative sample in which the positive one scores higher."""
    predictions, targets = binary_case(0.3, 60, 11, steps=8)
    pairs = [(p, n) for p in predictions[targets == 1].tolist() for n in predictions[targets == 0].tolist()]
    expected = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs) / len(pairs)
    assert in_batches(AUROC(), predictions, targets, [7]).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("label", [0, 1])
def test_auroc_of_one_class_is_not_a_number(label):
    """Nothing to compare: NaN, which is never the best, rather than a number that means nothing."""
    assert math.isnan(in_batches(AUROC(), torch.rand(10), torch.full((10,), label), [10]))


@pytest.mark.parametrize(
    ("metric", "labels"),
    [
        (AUROC(), [0, 1, 2, 2]),
        (F1(), [2, 0, 0, 1]),
        (ConfusionMatrix(2), [0, 0, 0, 0]),
        (ConfusionMatrix(4), [0, 1, 2, 0]),
        (ConfusionMatrix(3), [0, 3, 1, 0]),
        (Accuracy(top_k=4), [0, 1, 2, 0]),
    ],
    ids=["AUROC of 3", "F1 of 2 given 3", "3 outputs for 2", "3 outputs for 4", "a label too many", "best 4 of 3"],
)
def test_a_metric_that_does_not_fit_the_classes_is_an_error(metric, labels):
    """Nothing wrong passes silently: no number comes out that looks like a score."""
    predictions = torch.eye(3)[torch.tensor([1, 2, 2, 1])]
    with pytest.raises((ValueError, RuntimeError)):
        in_batches(metric, predictions, torch.tensor(labels), [4])


def test_only_known_averages():
    with pytest.raises(ValueError, match="macro or binary, not micro"):
        F1(average="micro")


# --- values -------------------------------------------------------------------------------------------------


def values_case(count: int, targets: int, seed: int, offset: float = 0.0, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    truth = offset + torch.randn(count, targets, generator=generator) * torch.arange(1, targets + 1)
    return truth + noise * torch.randn(count, targets, generator=generator), truth


VALUES = {
    "one target": values_case(200, 1, 0),
    "three targets": values_case(101, 3, 1),
    "worse than the mean": values_case(50, 2, 2, noise=5.0),
    "exact": (values_case(50, 2, 3)[1],) * 2,
    "two samples": values_case(2, 1, 4),
}


@pytest.mark.parametrize("case", VALUES)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (MAE, lambda: regression.MeanAbsoluteError(num_outputs=1)),
        (RMSE, lambda: regression.MeanSquaredError(squared=False)),
        (R2, lambda: regression.R2Score(multioutput="uniform_average")),
    ],
    ids=["MAE", "RMSE", "R2"],
)
def test_errors_of_values(case, ours, theirs):
    """(N, T) values; R2 is averaged over the T targets."""
    compare(ours(), theirs(), *VALUES[case])


def test_r2_keeps_its_digits_far_from_zero():
    """Targets around a million that vary by one: as in float64, by scikit-learn."""
    predictions, targets = values_case(300, 2, 5, offset=1e6)
    truth = sklearn_metrics.r2_score(targets.double().numpy(), predictions.double().numpy())
    for sizes in ([300], [7], [1]):
        assert in_batches(R2(), predictions, targets, sizes).item() == pytest.approx(truth, abs=1e-5)


def test_r2_against_scikit_learn():
    predictions, targets = VALUES["three targets"]
    truth = sklearn_metrics.r2_score(targets.numpy(), predictions.numpy(), multioutput="uniform_average")
    assert in_batches(R2(), predictions, targets, [10]).item() == pytest.approx(truth, abs=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1000.1])
@pytest.mark.parametrize("count", [1, 7, 569])
def test_r2_of_targets_that_do_not_vary_is_not_a_number(value, count):
    """There is no variance to explain: NaN, and not minus infinity by a rounding error."""
    targets = torch.full((count, 1), value)
    for sizes in ([count], [3]):
        assert math.isnan(in_batches(R2(), targets + 0.5, targets, sizes))


@pytest.mark.parametrize(
    ("metric", "theirs"),
    [
        (MAE, lambda: regression.MeanAbsoluteError(num_outputs=1)),
        (RMSE, lambda: regression.MeanSquaredError(squared=False)),
    ],
    ids=["MAE", "RMSE"],
)
@pytest.mark.parametrize("steps", [1, 3])
def test_targets_of_several_units_are_not_mixed(metric, theirs, steps):
    """A value for each column, over all steps of it; one column is a plain number."""
    generator = torch.Generator().manual_seed(0)
    ours, unit = metric(["price", "rooms"]), torch.tensor([1e5, 1.0])
    apart = [theirs(), theirs()]
    for count in (7, 12):
        predictions, targets = (torch.randn(count, steps, 2, generator=generator) * unit for _ in range(2))
        ours.update(predictions.flatten(1), targets.flatten(1))
        for column, their in enumerate(apart):
            their.update(predictions[..., column].flatten(), targets[..., column].flatten())
    found = compute_all({"error": ours})
    assert list(found) == ["error/price", "error/rooms"]
    torch.testing.assert_close(torch.tensor(list(found.values())), torch.stack([their.compute() for their in apart]))
    single = metric(["price"])
    single.update(predictions.flatten()[:, None], targets.flatten()[:, None])
    assert list(compute_all({"error": single})) == ["error"]


@pytest.mark.parametrize("metric", [MAE, RMSE, R2])
@pytest.mark.parametrize("shapes", [((6, 1), (6,)), ((6,), (6, 1)), ((6, 2), (6, 1)), ((1, 2), (6, 2))], ids=str)
def test_values_are_never_broadcast(metric, shapes):
    """(N, 1) against (N,) would compare every sample with every other: an error."""
    made = metric()
    with pytest.raises((ValueError, RuntimeError)):
        made.update(torch.rand(shapes[0]), torch.rand(shapes[1]))


def test_sums_of_many_small_errors_keep_their_digits():
    """A hundred thousand float32 errors of 0.1, added in batches: their mean is 0.1 to seven digits."""
    metric = MAE()
    for _ in range(100):
        metric.update(torch.full((1000, 1), 0.1), torch.zeros(1000, 1))
    assert metric.compute().item() == pytest.approx(float(torch.tensor(0.1)), rel=1e-7)


# --- every metric -------------------------------------------------------------------------------------------


EVERY: list[tuple[Callable[[], Any], tuple[Tensor, Tensor]]] = [
    (Accuracy, MULTICLASS["unbalanced"]),
    (lambda: ConfusionMatrix(3), MULTICLASS["unbalanced"]),
    (lambda: Precision(3), MULTICLASS["unbalanced"]),
    (lambda: Recall(3), MULTICLASS["unbalanced"]),
    (lambda: F1(3), MULTICLASS["unbalanced"]),
    (AUROC, BINARY["balanced"]),
    (MAE, VALUES["three targets"]),
    (RMSE, VALUES["three targets"]),
    (R2, VALUES["three targets"]),
]


@pytest.mark.parametrize(("make", "case"), EVERY, ids=[make().__class__.__name__ for make, _ in EVERY])
def test_a_reset_forgets_everything(make, case):
    """After a reset the metric is as new; computing twice gives the same and changes nothing."""
    metric = make()
    predictions, targets = case
    metric.update(predictions.flip(0)[:40], targets[:40])
    metric.compute()
    metric.reset()
    metric.update(predictions, targets)
    fresh = make()
    fresh.update(predictions, targets)
    for _ in range(2):
        assert torch.equal(torch.as_tensor(metric.compute()), torch.as_tensor(fresh.compute()))


def test_which_way_is_better():
    """What monitor_mode=auto asks."""
    better = {make().__class__.__name__: make().higher_is_better for make, _ in EVERY}
    assert better.pop("ConfusionMatrix") is None
    assert {name for name, higher in better.items() if not higher} == {"MAE", "RMSE"}


def test_several_metrics_by_name():
    """The three helpers act on all; torchmetrics' classes and ours go together."""
    predictions, targets = MULTICLASS["balanced"]
    metrics = {"ours": Accuracy(), "theirs": classification.MulticlassAccuracy(4, average="micro")}
    for _ in range(2):
        reset_all(metrics)
        update_all(metrics, predictions[:50], targets[:50])
        update_all(metrics, predictions[50:], targets[50:])
        values = compute_all(metrics)
    assert {type(value) for value in values.values()} == {float}
    expected = (predictions.argmax(1) == targets).float().mean().item()
    assert values == pytest.approx({"ours": expected, "theirs": expected})


def test_a_torchmetrics_class_works_by_its_name():
    """metrics.NAME._target_=torchmetrics...: at every log point, in validation, in the test, and as the monitor."""
    run = plainloop.train(
        [
            "model=linear",
            "trainer.max_epochs=2",
            "trainer.log_every=7",
            "logger=none",
            "monitor=val/theirs",
            "metrics.theirs._target_=torchmetrics.classification.MulticlassF1Score",
            "metrics.theirs.num_classes=${spec.num_classes}",
        ]
    )
    assert isinstance(run.session.task.metrics["theirs"], torchmetrics.Metric)
    for split in ("val", "test"):
        assert run.metrics[f"{split}/theirs"] == pytest.approx(run.metrics[f"{split}/macro_f1"], abs=1e-6)
    records = [record for record in run.history() if "train/theirs" in record]
    assert records
    assert all(record["train/theirs"] == pytest.approx(record["train/macro_f1"], abs=1e-6) for record in records)


@pytest.mark.cuda
def test_a_torchmetrics_class_works_on_the_gpu():
    """Its state is a module's: it moves to the device with the task."""
    run = plainloop.train(
        [
            "model=linear",
            "trainer.max_epochs=1",
            "trainer.device=cuda",
            "logger=none",
            "metrics.theirs._target_=torchmetrics.classification.MulticlassF1Score",
            "metrics.theirs.num_classes=10",
        ]
    )
    assert run.metrics["test/theirs"] == pytest.approx(run.metrics["test/macro_f1"], abs=1e-6)


# --- the mean loss ------------------------------------------------------------------------------------------


def losses_and_sizes(count: int) -> tuple[list[float], list[int]]:
    generator = seeded(0)
    losses = (torch.rand(count, generator=generator) * 3).tolist()
    return losses, torch.randint(1, 65, (count,), generator=generator).tolist()


def added(mean: MeanLoss, losses: list[float], sizes: list[int]) -> MeanLoss:
    for loss, size in zip(losses, sizes, strict=True):
        mean.add(torch.tensor(loss), size)
    return mean


@pytest.mark.parametrize("count", [1, 10, 4095, 4096, 4097, 9000])
def test_losses_are_weighted_by_samples(count):
    """(sum of loss x size, sum of sizes), also when more wait than are kept on the device at a time."""
    losses, sizes = losses_and_sizes(count)
    total, samples = added(MeanLoss(), losses, sizes).read()
    assert samples == sum(sizes)
    exact = math.fsum(float(torch.tensor(loss)) * size for loss, size in zip(losses, sizes, strict=True))
    assert total == pytest.approx(exact, rel=1e-12)


def test_a_mean_of_batches_is_the_mean_of_samples():
    """Whatever the batches: the closed form is the mean over all samples."""
    errors = torch.rand(100, dtype=torch.float64, generator=seeded(1))
    for sizes in ([100], [64, 36], [33, 33, 33, 1]):
        mean = MeanLoss()
        for batch in errors.split(sizes):
            mean.add(batch.mean(), len(batch))
        total, samples = mean.read()
        assert total / samples == pytest.approx(errors.mean().item(), rel=1e-12)


def test_reading_starts_anew():
    mean = added(MeanLoss(), [1.0, 2.0], [10, 30])
    assert mean.read() == (70.0, 40)
    assert mean.read() == (0.0, 0)
    assert added(mean, [3.0], [2]).read() == (6.0, 2)


@pytest.mark.parametrize("place", [0, 1, 5, 4096, 5000])
def test_the_mean_loss_survives_a_checkpoint(tmp_path, place):
    """Saved and loaded at any place, the sums are the same bits as without."""
    losses, sizes = losses_and_sizes(5005)
    expected = added(MeanLoss(), losses, sizes).read()
    before = added(MeanLoss(), losses[:place], sizes[:place])
    torch.save(before.state_dict(), tmp_path / "state.pt")
    after = MeanLoss()
    after.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert added(after, losses[place:], sizes[place:]).read() == expected


def test_a_taken_state_does_not_change_any_more():
    """What was true when the state was taken is what is loaded, though the run went on."""
    mean = added(MeanLoss(), [1.0, 2.0], [10, 30])
    state = mean.state_dict()
    added(mean, [5.0], [100])
    other = MeanLoss()
    other.load_state_dict(state)
    assert other.read() == (70.0, 40)


def test_losses_wait_without_their_graph():
    """Nothing of a step's graph is kept alive until the log point."""
    mean = MeanLoss()
    mean.add((torch.ones(3, requires_grad=True) * 2).mean(), 3)
    assert not any(loss.requires_grad for loss in mean.waiting)
    assert mean.read() == (6.0, 3)
