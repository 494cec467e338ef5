"""`experiment=overfitting` overfits, and what is said to help does: docs/overfitting.md, without its exact figures."""

import functools
from collections.abc import Callable

import pytest
import torch

import plainloop

Trained = Callable[..., plainloop.Run]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """trained("model.dropout=0.5"): the recipe with these words, once for all tests."""
    common = ["experiment=overfitting", "logger=none", "test=false"]
    common.append(f"paths.outputs={tmp_path_factory.mktemp('overfitting')}")
    return functools.cache(lambda *words: plainloop.train([*common, *words]))


def losses(run: plainloop.Run, checkpoint: str = "last") -> dict[str, float]:
    """The plain cross-entropy of the weights, on all splits alike."""
    session = plainloop.load_run(run.path, checkpoint=checkpoint).session
    session.task.loss = torch.nn.CrossEntropyLoss()
    return {split: session.measure(split)["loss"] for split in ("train", "val", "test")}


@pytest.mark.slow
def test_the_recipe_overfits(trained: Trained):
    """By heart at the end; the validation loss has fallen to its lowest early, and risen again since."""
    run = trained("trainer.max_epochs=30")
    epochs = [record for record in run.history() if "val/loss" in record]
    val = [record["val/loss"] for record in epochs]
    lowest = val.index(min(val))
    assert len(val) == 30
    assert epochs[-1]["train/epoch_loss"] < 0.01
    assert 2 <= lowest < 20
    assert val[lowest] < 0.5 * val[0]
    assert val[-1] > 1.2 * val[lowest]
    found = losses(run)
    assert found["val"] - found["train"] > 0.4
    assert run.metrics["best/epoch"] == lowest + 1
    assert run.metrics["val/loss"] == val[lowest] < run.metrics["last/val/loss"] == val[-1]


REMEDIES = {
    "four times the data": ["split.fractions=[0.2,0.3,0.5]"],
    "weight decay": ["optimizer=adamw", "optimizer.weight_decay=3"],
    "dropout": ["model.dropout=0.5"],
    "label smoothing": ["loss.label_smoothing=0.1"],
    "MixUp": ["transforms.mixup=1.0"],
}


@pytest.mark.slow
@pytest.mark.parametrize("remedy", list(REMEDIES)[::2])  # all of them by benchmarks/overfitting.py
def test_a_remedy_narrows_the_gap(remedy, trained: Trained):
    """And the losses that the run ends with are lower: the gap didn't close from the wrong side."""
    without, with_it = losses(trained()), losses(trained(*REMEDIES[remedy]))
    assert with_it["val"] - with_it["train"] < 0.85 * (without["val"] - without["train"])
    assert with_it["val"] < 0.9 * without["val"]
    assert with_it["test"] < without["test"]


@pytest.mark.slow
def test_early_stopping_ends_the_run_and_best_is_what_the_long_one_would_have_chosen(trained: Trained):
    stopped, whole = trained("early_stopping.patience=10"), trained()
    assert stopped.metrics["epochs"] == stopped.metrics["best/epoch"] + 10 < 60
    assert stopped.metrics["val/loss"] == whole.metrics["val/loss"]
    assert losses(stopped, checkpoint="best")["val"] < 0.9 * losses(whole)["val"]
