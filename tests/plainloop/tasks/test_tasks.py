"""What a problem means: losses by hand, predictions in the user's own unit, shapes that never broadcast."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import plainloop
from plainloop.data import Data, InMemory
from plainloop.errors import UserError
from plainloop.tasks.classification import Binary, Multiclass, Multilabel
from plainloop.tasks.metrics import AUROC, F1, MAE, R2, RMSE, Accuracy
from plainloop.tasks.reconstruction import Reconstruction
from plainloop.tasks.regression import Regression
from plainloop.tasks.task import Task, forward


class Says(nn.Module):
    """A model whose outputs are given."""

    def __init__(self, outputs: Any):
        super().__init__()
        self.outputs = outputs

    def forward(self, inputs: Any) -> Any:
        return self.outputs


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def classes_of(labels: list[int], names: list[str] | None = None) -> InMemory:
    return InMemory(torch.zeros(len(labels), 1), torch.tensor(labels), classes=names)


def values_of(targets: Tensor, names: list[str] | None = None) -> InMemory:
    return InMemory(torch.zeros(len(targets), 1), targets, target_names=names)


INPUTS = torch.zeros(6, 1)  # what the models above don't look at


# --- multiclass ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_multiclass_loss(smoothing):
    """Minus the logarithm of the softmax at the true class; smoothed towards the mean over all classes."""
    logits, targets = random(6, 4), torch.tensor([0, 1, 2, 3, 3, 1])
    loss, outputs = Multiclass(nn.CrossEntropyLoss(label_smoothing=smoothing)).loss_of(Says(logits), (INPUTS, targets))
    log = logits - logits.exp().sum(1, keepdim=True).log()
    by_hand = -(1 - smoothing) * log[torch.arange(6), targets] - smoothing * log.mean(1)
    torch.testing.assert_close(loss, by_hand.mean())
    assert outputs is logits


def test_multiclass_predictions_are_probabilities():
    """Softmax of the logits, in float32 also where the model computes in bfloat16."""
    logits = random(6, 4)
    expected = logits.exp() / logits.exp().sum(1, keepdim=True)
    torch.testing.assert_close(Multiclass(nn.CrossEntropyLoss()).predict(logits), expected)
    low = Multiclass(nn.CrossEntropyLoss()).predict(logits.bfloat16())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.sum(1), torch.ones(6))


def test_multiclass_metrics():
    logits, targets = random(6, 4), torch.tensor([0, 1, 2, 3, 3, 1])
    metrics = {"accuracy": Accuracy(), "f1": F1(4)}
    Multiclass(nn.CrossEntropyLoss()).update(metrics, logits, (INPUTS, targets))
    assert metrics["accuracy"].compute() == pytest.approx((logits.argmax(1) == targets).float().mean().item())
    assert metrics["f1"].matrix.sum() == 6


def test_multiclass_describes_its_classes():
    data = Data(classes_of([0, 2, 1], ["ape", "bee", "cat"]), classes_of([2, 2], ["ape", "bee", "cat"]))
    names = ["ape", "bee", "cat"]
    assert Multiclass.describe(data) == {"num_outputs": 3, "num_classes": 3, "class_names": names}
    assert Multiclass.describe(Data(classes_of([0, 1, 3])))["class_names"] == ["0", "1", "2", "3"]


# --- binary -------------------------------------------------------------------------------------------------


def test_binary_loss():
    """-y log p - (1 - y) log(1 - p) with p the logistic function of the one logit."""
    logits, targets = random(6, 1), torch.tensor([0, 1, 1, 0, 1, 1])
    loss, outputs = Binary(nn.BCEWithLogitsLoss()).loss_of(Says(logits), (INPUTS, targets))
    p = 1 / (1 + torch.exp(-logits[:, 0]))
    torch.testing.assert_close(loss, -(targets * p.log() + (1 - targets) * (1 - p).log()).mean())
    assert outputs is logits


def test_binary_predictions_are_probabilities_of_class_1():
    logits = random(6, 1)
    predictions = Binary(nn.BCEWithLogitsLoss()).predict(logits)
    torch.testing.assert_close(predictions, 1 / (1 + torch.exp(-logits[:, 0])))
    assert Binary(nn.BCEWithLogitsLoss()).predict(logits.bfloat16()).dtype == torch.float32
    assert Binary(nn.BCEWithLogitsLoss()).predict(logits[:1]).shape == (1,)


def test_binary_metrics():
    logits, targets = random(6, 1), torch.tensor([0, 1, 1, 0, 1, 1])
    metrics = {"accuracy": Accuracy(), "f1": F1(average="binary"), "auroc": AUROC()}
    Binary(nn.BCEWithLogitsLoss()).update(metrics, logits, (INPUTS, targets))
    assert metrics["accuracy"].compute() == pytest.approx(((logits[:, 0] > 0) == targets).float().mean().item())


def test_binary_describes_its_classes():
    data = Data(classes_of([0, 1, 1], ["benign", "malignant"]))
    assert Binary.describe(data) == {"num_outputs": 1, "num_classes": 2, "class_names": ["benign", "malignant"]}


# --- regression ---------------------------------------------------------------------------------------------

LOSSES: list[tuple[nn.Module, Callable[[Tensor], Tensor]]] = [
    (nn.MSELoss(), lambda error: error.square()),
    (nn.L1Loss(), lambda error: error.abs()),
    (nn.HuberLoss(), lambda error: torch.where(error.abs() < 1, error.square() / 2, error.abs() - 0.5)),
]


@pytest.mark.parametrize(("loss", "of_error"), LOSSES, ids=["mse", "l1", "huber"])
@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 3)], ids=str)
@pytest.mark.parametrize("standardize", [True, False])
def test_regression_loss(loss, of_error, shape, standardize):
    """The mean over all N x T values of the loss of (target - mean) / deviation, of the training split's own."""
    targets = 1000 + 50 * random(*shape, seed=1)
    columns = targets.reshape(6, -1)
    outputs = random(*columns.shape)
    task = Regression(loss, standardize=standardize)
    task.fit(Data(values_of(targets)))
    scaled = (columns - columns.mean(0)) / columns.std(0, correction=0) if standardize else columns
    found, _ = task.loss_of(Says(outputs), (INPUTS, targets))
    torch.testing.assert_close(found, of_error(outputs - scaled).mean(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 3)], ids=str)
@pytest.mark.parametrize("standardize", [True, False])
def test_regression_metrics_are_in_the_targets_own_unit(shape, standardize):
    """A model that is wrong by one deviation has an MAE of one deviation, in grams if the targets are grams."""
    targets = 4000 + 800 * random(*shape, seed=1)
    columns = targets.reshape(6, -1)
    task = Regression(nn.MSELoss(), standardize=standardize)
    task.fit(Data(values_of(targets)))
    wanted = columns + random(*columns.shape, seed=2) * 100
    outputs = (wanted - columns.mean(0)) / columns.std(0, correction=0) if standardize else wanted
    torch.testing.assert_close(task.predict(outputs), wanted, rtol=1e-5, atol=1e-2)
    assert task.predict(outputs.bfloat16()).dtype == torch.float32
    metrics = {"mae": MAE(), "rmse": RMSE(), "r2": R2()}
    task.update(metrics, outputs, (INPUTS, targets))
    error = wanted - columns
    assert metrics["mae"].compute().item() == pytest.approx(error.abs().mean().item(), rel=1e-4)
    assert metrics["rmse"].compute().item() == pytest.approx(error.square().mean().sqrt().item(), rel=1e-4)
    explained = 1 - error.square().sum(0) / (columns - columns.mean(0)).square().sum(0)
    assert metrics["r2"].compute().item() == pytest.approx(explained.mean().item(), rel=1e-4)


def test_regression_statistics_are_the_training_splits():
    """The validation split has no say in them."""
    train, val = random(50, 2, seed=1), 100 + random(50, 2, seed=2)
    task = Regression(nn.MSELoss())
    task.fit(Data(values_of(train), values_of(val)))
    torch.testing.assert_close(task.mean, train.mean(0))
    torch.testing.assert_close(task.std, train.std(0, correction=0))


def test_regression_of_a_constant():
    """A target that never varies is centred and not scaled."""
    task = Regression(nn.MSELoss())
    task.fit(Data(values_of(torch.tensor([[5.0, 1.0], [5.0, 3.0]]))))
    assert task.std.tolist() == [1.0, 1.0]
    assert task.mean.tolist() == [5.0, 2.0]
    loss, _ = task.loss_of(Says(torch.zeros(2, 2)), (INPUTS[:2], torch.tensor([[5.0, 1.0], [5.0, 3.0]])))
    assert loss.item() == 0.5


def test_regression_statistics_are_saved_with_the_run():
    """They are the task's buffers: another task that loads them predicts the same."""
    fitted, other = Regression(nn.MSELoss()), Regression(nn.MSELoss())
    fitted.fit(Data(values_of(10 + random(20, 3))))
    other.fit(Data(values_of(random(20, 3, seed=5))))
    other.load_state_dict(fitted.state_dict())
    outputs = random(4, 3)
    assert torch.equal(other.predict(outputs), fitted.predict(outputs))


def test_regression_describes_its_targets():
    assert Regression.describe(Data(values_of(torch.rand(5, 1), ["mass"])))["target_names"] == ["mass"]
    assert Regression.describe(Data(values_of(torch.rand(5, 3))))["num_outputs"] == 3
    assert Regression.describe(Data(values_of(torch.rand(5))))["num_outputs"] == 1


# --- what doesn't fit ---------------------------------------------------------------------------------------

LABELS = torch.tensor([0, 1, 2, 0])
WRONG = {
    "classes as (N,)": (Multiclass, torch.rand(4), LABELS),
    "classes as a map": (Multiclass, torch.rand(4, 3, 2, 2), LABELS),
    "no tensor": (Multiclass, {"logits": torch.rand(4, 3)}, LABELS),
    "float targets": (Multiclass, torch.rand(4, 3), torch.rand(4)),
    "one-hot targets": (Multiclass, torch.rand(4, 3), torch.eye(3)[LABELS].long()),
    "binary as (N,)": (Binary, torch.rand(4), LABELS),
    "binary as (N, 2)": (Binary, torch.rand(4, 2), LABELS),
    "binary targets (N, 1)": (Binary, torch.rand(4, 1), LABELS.unsqueeze(1)),
    "values as (N,)": (Regression, torch.rand(4), torch.rand(4)),
    "values (N,) for (N, 1)": (Regression, torch.rand(4), torch.rand(4, 1)),
    "values (N, 1) for (N, 2)": (Regression, torch.rand(4, 1), torch.rand(4, 2)),
    "values (N, 2) for (N, 1)": (Regression, torch.rand(4, 2), torch.rand(4, 1)),
    "values of one sample": (Regression, torch.rand(1, 2), torch.rand(4, 2)),
    "values as a tuple": (Regression, (torch.rand(4, 1), None), torch.rand(4, 1)),
}


@pytest.mark.parametrize("case", WRONG)
def test_shapes_that_do_not_fit_are_refused(case):
    """Before the first step, with the shape that was seen: nothing is broadcast."""
    kind, outputs, targets = WRONG[case]
    task = kind(nn.MSELoss())
    with pytest.raises(UserError, match=r"needs .*\(N|where the task needs") as caught:
        task.check(Says(outputs), (torch.zeros(4, 1), targets))
    assert len(str(caught.value).splitlines()) <= 2
    with pytest.raises(UserError):
        task.check_outputs(outputs, targets)


RIGHT = {
    "classes": (Multiclass, torch.rand(4, 3), LABELS),
    "one sample": (Multiclass, torch.rand(1, 3), LABELS[:1]),
    "binary": (Binary, torch.rand(4, 1), LABELS),
    "binary, one sample": (Binary, torch.rand(1, 1), LABELS[:1]),
    "a value": (Regression, torch.rand(4, 1), torch.rand(4, 1)),
    "a value as (N,)": (Regression, torch.rand(4, 1), torch.rand(4)),
    "two values": (Regression, torch.rand(4, 2), torch.rand(4, 2)),
}


@pytest.mark.parametrize("case", RIGHT)
def test_shapes_that_fit_pass(case):
    """And a loss can be had from them."""
    kind, outputs, targets = RIGHT[case]
    task = kind(nn.CrossEntropyLoss() if kind is Multiclass else nn.MSELoss())
    task.check(Says(outputs), (torch.zeros(len(targets), 1), targets))
    assert task.loss_of(Says(outputs), (torch.zeros(len(targets), 1), targets))[0].ndim == 0


@pytest.mark.parametrize("outputs", [3, 12])
def test_a_model_with_another_number_of_classes_is_refused(outputs):
    """The data has ten: too few outputs crash later, too many go unnoticed. Before anything is written."""
    with pytest.raises(UserError, match="model: its outputs are"):
        plainloop.train(["model=linear", f"model.out_features={outputs}", "trainer.max_epochs=1", "logger=none"])


@pytest.mark.parametrize(
    ("kind", "train", "message"),
    [
        (Multiclass, classes_of([0, 0]), "one class only"),
        (Multiclass, values_of(torch.rand(3)), "task=regression"),
        (Multiclass, classes_of([0, 2], ["a", "b"]), "sample 1 of train has label 2"),
        (Binary, classes_of([0, 1, 2]), "has 3. Try task=multiclass"),
        (Binary, classes_of([0, 0], ["a"]), "needs two classes"),
        (Regression, classes_of([0, 1]), "needs targets that are float numbers"),
        (Regression, values_of(torch.rand(3, 2, 2)), "needs targets that are float numbers"),
    ],
    ids=["one class", "values", "beyond the names", "three for two", "one for two", "classes", "matrices"],
)
def test_data_that_does_not_fit_the_task_is_refused(kind, train, message):
    with pytest.raises(UserError, match=message):
        kind.describe(Data(train))


def test_labels_of_every_split_are_checked():
    with pytest.raises(UserError, match="sample 1 of test has label 4"):
        Multiclass.describe(Data(classes_of([0, 1]), None, classes_of([1, 4])))


# --- a task of one's own ------------------------------------------------------------------------------------


class ByName(nn.Module):
    def forward(self, tokens: Tensor, length: Tensor) -> Tensor:
        return tokens.sum(1) / length


def test_inputs_by_name():
    """A tensor is given as it is, a dict by name."""
    inputs = {"tokens": torch.tensor([[1.0, 2.0], [3.0, 0.0]]), "length": torch.tensor([2.0, 1.0])}
    assert forward(ByName(), inputs).tolist() == [1.5, 3.0]
    assert forward(nn.Identity(), INPUTS) is INPUTS


def test_an_own_task_overrides_two_methods():
    """For another kind of batch: the loss of a batch and what outputs mean; size and update follow from them."""

    class Weighted(Task):
        def loss_of(self, model: nn.Module, batch: Any) -> tuple[Tensor, Any]:
            inputs, targets, weights = batch
            outputs = model(inputs)
            return (F.mse_loss(outputs, targets, reduction="none") * weights).mean(), outputs

        def predict(self, outputs: Any) -> Tensor:
            return outputs * 10

    batch = torch.ones(3, 1), torch.zeros(3, 1), torch.tensor([[0.0], [1.0], [2.0]])
    task = Weighted(nn.MSELoss())
    loss, outputs = task.loss_of(nn.Identity(), batch)
    assert (loss.item(), task.size(batch)) == (1.0, 3)
    metric = MAE()
    task.update({"mae": metric}, outputs, batch)
    assert metric.compute().item() == 10


# --- what more the tasks find out of the data ----------------------------------------------------------------


class Read(Dataset):
    """Samples that are known only when they are fetched; the first can't be read."""

    def __init__(self, targets: Any, alone: bool = False):
        self.held, self.alone = targets, alone
        self.classes = ["a", "b"]

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, index: int) -> Any:
        if index == 0:
            raise OSError("gone")
        image = torch.full((3, 4, 5), float(index))
        return image if self.alone else (image, self.held[index])


@pytest.mark.parametrize(
    ("task", "targets", "outputs"),
    [(Multilabel, torch.ones(4, 7), 7), (Reconstruction, torch.ones(4, 7), None), (Regression, torch.ones(4, 2), 2)],
)
def test_a_first_sample_that_cannot_be_read_may_be_left_out(task, targets, outputs):
    assert task.describe(Data(Read(targets), skip=1))["num_outputs"] == outputs
    with pytest.raises(UserError, match="sample 0 can't be read"):
        task.describe(Data(Read(targets)))


def test_inputs_alone_are_reconstructed_whole():
    """Of an image without a target every channel, not the first alone."""
    data = Read(torch.ones(4, 1), alone=True)
    assert Reconstruction.check_sample(data[1])[0].shape == (3, 4, 5)
    assert Reconstruction.describe(Data(data, skip=1))["num_outputs"] is None  # it has a shape, and no number


def test_inputs_by_name_are_no_target():
    class Named(Dataset):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Any:
            if index:
                raise IndexError
            return {"x": torch.zeros(2)}, 0

    with pytest.raises(UserError, match="the input is the target, and must be one tensor"):
        Reconstruction.describe(Data(Named()))


def test_labels_that_are_neither_0_nor_1_are_named():
    """In every split, with the sample; those that are known only when they are fetched, in their batch."""
    good, bad = torch.zeros(5, 3), torch.zeros(5, 3)
    bad[2, 1] = 2
    sets = {split: InMemory(torch.zeros(5, 1), good) for split in ("train", "val", "test")}
    Multilabel.describe(Data(**sets))
    with pytest.raises(UserError, match="sample 2 of val has 2"):
        Multilabel.describe(Data(**{**sets, "val": InMemory(torch.zeros(5, 1), bad)}))
    task = Multilabel(nn.BCEWithLogitsLoss())
    task.fit(Data(**sets))
    assert task.size((good, bad)) == 5  # they were looked at
    task.fit(Data(Read(good)))
    assert task.size((good, good)) == 5
    with pytest.raises(UserError, match="a sample has label 2, outside"):
        task.size((good, bad))


# --- metrics that only look at which scores are largest -------------------------------------------------------


class Reversed(Multiclass):
    """A task of the user's whose predictions aren't the softmax."""

    def predict(self, outputs):
        return (-outputs).softmax(1)


@pytest.mark.parametrize("kind", [Multiclass, Reversed])
def test_logits_will_do_where_predictions_are_their_softmax(kind):
    """Accuracy and F1 come out as of the task's own predictions, whatever these are."""
    outputs, targets = torch.randn(200, 5), torch.randint(5, (200,))
    task = kind(nn.CrossEntropyLoss(), {"accuracy": Accuracy(), "top_2": Accuracy(top_k=2), "f1": F1(5)})
    task.update(task.metrics, outputs, (None, targets))
    expected = {"accuracy": Accuracy(), "top_2": Accuracy(top_k=2), "f1": F1(5)}
    for name, metric in expected.items():
        metric.update(task.predict(outputs), targets)
        assert float(task.metrics[name].compute()) == float(metric.compute()), name


class Sure(Accuracy):
    """The user's own, derived from ours: the share of samples that the model is sure of, by its probabilities."""

    def update(self, predictions, targets):
        self.right = self.right + (predictions.max(1).values > 0.9).sum()
        self.count += len(targets)


def replaced() -> Accuracy:
    """One of ours whose `update` is the user's, though it says that it is ours."""
    metric = Accuracy()
    metric.update = functools.wraps(Accuracy.update)(functools.partial(Sure.update, metric))
    return metric


@pytest.mark.parametrize("sure", [Sure, replaced])
def test_a_metric_of_ones_own_gets_probabilities(sure):
    outputs, targets = 2 * torch.randn(200, 5), torch.randint(5, (200,))
    task = Multiclass(nn.CrossEntropyLoss(), {"sure": sure(), "accuracy": Accuracy()})
    task.update(task.metrics, outputs, (None, targets))
    assert task.metrics["sure"].compute() == int((outputs.softmax(1).max(1).values > 0.9).sum()) / 200


def test_a_count_below_0_is_answered_with_other_losses():
    task = Regression(nn.PoissonNLLLoss(), losses=["poisson_nll", "mse", "l1"])
    with pytest.raises(UserError, match=r"sample 1 of train is negative, .* Others: mse, l1\."):
        task.fit(Data(InMemory(torch.zeros(2, 3), torch.tensor([1.0, -1.0]))))
