"""Targets that are ignored, labels and shapes that don't fit."""

from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

import plainloop
from plainloop.errors import MachineError, UserError
from plainloop.runs import checkpoint
from tests.conftest import path_of
from tests.promises.faults.fragile import FOUR, LABELS, TEN, VALUES, Net, assert_told, features, given, newest

pytestmark = pytest.mark.slow  # plain `pytest` has the catalogue of mistakes, and stays short


SOME = [0, -100, 1, -100, -100, 1, 0, 1, -100, 0]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("lists", ["true", "false"])
def test_a_split_whose_targets_are_all_ignored_is_an_error(split, lists):
    """Never NaN: before the first step where the labels are listed, else when they are seen."""
    labels = {"train": TEN, "val": FOUR, split: [-100] * 4}
    with pytest.raises((UserError, MachineError)) as caught:
        plainloop.train(given(labels["train"], labels["val"], f"data.lists={lists}"))
    assert_told(str(caught.value), "-100", "ignore")
    if lists == "true":
        assert split in str(caught.value)
        assert not Path("run").exists()


def test_a_batch_whose_targets_are_all_ignored_is_an_error():
    """Four batches of two, in order; the third is ignored."""
    with pytest.raises(MachineError) as caught:
        plainloop.train(given([0, 1, 1, 0, -100, -100, 1, 1], FOUR, "loader.batch_size=2", "loader.shuffle=false"))
    assert_told(str(caught.value), "every target of a batch is -100", "loader.batch_size")


def test_a_validation_batch_whose_targets_are_all_ignored_counts_nothing():
    """The last of its two: the loss and the metrics are those of the other one."""
    words = ["loader.batch_size=4", "loader.shuffle=false", "optimizer=sgd", "optimizer.lr=0.0"]
    alone = plainloop.train(given(TEN, [1, 0, 1, 0], *words, "hydra.run.dir=alone"))
    both = plainloop.train(given(TEN, [1, 0, 1, 0, -100], *words))
    for name in ("val/loss", "val/accuracy"):
        assert both.metrics[name] == alone.metrics[name]


IGNORES = [
    ("-100", SOME, [], -100),
    ("-100, unlisted", SOME, ["data.lists=false"], -100),
    ("-1", [-1 if label == -100 else label for label in SOME], ["loss.ignore_index=-1"], -1),
    ("255", [255 if label == -100 else label for label in SOME], ["loss.ignore_index=255"], 255),
    (
        "255, undeclared",
        [255 if label == -100 else label for label in SOME],
        ["loss.ignore_index=255", "data.classes=0"],
        255,
    ),
    ("a class", [2 if label == -100 else label for label in SOME], ["loss.ignore_index=1"], 1),
]


@pytest.mark.parametrize(("labels", "words", "ignored"), [pytest.param(*row[1:], id=row[0]) for row in IGNORES])
def test_what_is_ignored_counts_nowhere(labels, words, ignored):
    """With a rate of zero: losses are torch's own over the rest, whatever the batches; metrics are of the rest."""
    labels = [0 if label == 2 else label for label in labels]
    val = [1, 0, labels[1] if ignored != 1 else 1, 0, 0]
    run = plainloop.train(
        given(
            labels,
            val,
            *words,
            "optimizer=sgd",
            "optimizer.lr=0.0",
            "loader.batch_size=4",
            "trainer.max_epochs=1",
            "loader.shuffle=false",
            "trainer.log_every=1",
        )
    )
    inputs = torch.stack([features(index) for index in range(15)])
    with torch.no_grad():
        logits = run.model(inputs)
    kept = torch.tensor(val) != ignored
    record = run.history()[-1]
    truth = {
        "train/epoch_loss": nn.functional.cross_entropy(logits[:10], torch.tensor(labels), ignore_index=ignored),
        "val/loss": nn.functional.cross_entropy(logits[10:], torch.tensor(val), ignore_index=ignored),
        "val/accuracy": (logits[10:].argmax(1) == torch.tensor(val))[kept].float().mean(),
    }
    for name, value in truth.items():
        assert record[name] == pytest.approx(float(value), rel=1e-6)
    assert run.metrics["samples"] == sum(label != ignored for label in labels)
    points = [record["train/accuracy"] for record in run.history() if "train/accuracy" in record]
    for start, accuracy in zip((0, 4, 8), points, strict=True):
        part = torch.tensor(labels[start : start + 4])
        right = logits[start : min(start + 4, 10)].argmax(1) == part
        assert accuracy == pytest.approx(float(right[part != ignored].float().mean()))


def test_accumulated_steps_weigh_by_what_counts():
    """Two batches of which one has three ignored targets make the step that one large batch makes."""
    labels = [0, -100, -100, -100, 1, 0, 1, 1]
    weights = []
    for size, windows in ((4, 2), (8, 1)):
        run = plainloop.train(
            given(
                labels,
                FOUR,
                "optimizer=sgd",
                "optimizer.lr=0.5",
                f"loader.batch_size={size}",
                f"trainer.accumulate_steps={windows}",
                "loader.shuffle=false",
                f"hydra.run.dir=run{size}",
            )
        )
        weights.append(checkpoint.load(newest(run.path))["model"]["layer.weight"])
    torch.testing.assert_close(weights[0], weights[1])


@pytest.mark.parametrize(("words", "pieces"), [pytest.param(*row[1:], id=row[0]) for row in LABELS])
def test_labels_that_do_not_fit_are_refused(words, pieces):
    """With the first of them, or its type, or its shape."""
    if "task=binary" in words:
        words = [*words, f"model._target_={path_of(One)}"]
    with pytest.raises(UserError) as caught:
        plainloop.train(words)
    assert_told(str(caught.value), *pieces)


class One(Net):
    """One output: (N, 1), or (N,) with `flat`."""

    def __init__(self, flat: bool = False):
        super().__init__()
        self.layer, self.flat = nn.Linear(4, 1), flat

    def forward(self, inputs):
        outputs = super().forward(inputs)
        return outputs[:, 0] if self.flat else outputs


ONE = f"model._target_={path_of(One)}"
AS_VALUES = ("task=regression", ONE, "data.kind=float32")


@pytest.mark.parametrize(
    "words",
    [AS_VALUES, (*AS_VALUES, "data.shape=[1]"), ("task=binary", ONE)],
    ids=["values, scalar", "values, one each", "binary"],
)
def test_flat_outputs_never_meet_targets_in_a_column(words):
    """(N,) against (N, 1) would compare each sample with all others."""
    labels = [0, 1] * 4 if "task=binary" in words else VALUES
    with pytest.raises(UserError) as caught:
        plainloop.train(given(labels, labels, *words, "model.flat=true"))
    assert_told(
        str(caught.value), "outputs are float32 of shape (2,)", "(N, 1)" if "task=binary" in words else "(2, 1)"
    )


def test_a_number_per_sample_is_a_column():
    """Targets () and (1,) per sample are the same to a model that returns (N, 1): each is compared with its own."""
    metrics = []
    for name, shape in (("scalar", "null"), ("column", "[1]")):
        run = plainloop.train(
            given(
                VALUES,
                VALUES,
                *AS_VALUES,
                f"data.shape={shape}",
                f"hydra.run.dir={name}",
                "optimizer=sgd",
                "optimizer.lr=0.0",
                "trainer.max_epochs=1",
            )
        )
        metrics.append({name: value for name, value in run.metrics.items() if name != "seconds"})
    assert metrics[0] == metrics[1]
    with torch.no_grad():
        outputs = run.model(torch.stack([features(8 + index) for index in range(8)]))[:, 0]
    targets = (torch.tensor(VALUES) - numpy.mean(VALUES)) / numpy.std(VALUES)
    assert run.metrics["val/loss"] == pytest.approx(float((outputs - targets).square().mean()), rel=1e-5)


@pytest.mark.parametrize("kind", ["int32", "uint8", "int16"])
def test_whole_numbers_of_any_width_are_classes(kind):
    """Trained, with the same result, or refused by their type."""
    run = plainloop.train(given(TEN, FOUR))
    try:
        other = plainloop.train(given(TEN, FOUR, f"data.kind={kind}", "hydra.run.dir=other"))
    except UserError as error:
        assert_told(str(error), kind, "int64")
    else:
        assert other.metrics["val/loss"] == run.metrics["val/loss"]
