"""`experiment=overfitting` overfits, and what is said to help does: docs/overfitting.md, without its exact figures."""

import functools

import pytest
import torch

import plainloop

SPLITS = ("train", "val", "test")


@functools.cache
def curves(*words: str) -> tuple[list[float], list[float]]:
    """Training and validation losses at the ends of the epochs."""
    return tuple([record[name] for record in trained(*words).history() if name in record]
                 for name in ("train/epoch_loss", "val/loss"))  # fmt: skip


@functools.cache
def trained(*words: str) -> plainloop.Run:
    return plainloop.train(["experiment=overfitting", "logger=none", "test=false", *words])


@functools.cache
def losses(*words: str, checkpoint: str = "last") -> dict[str, float]:
    """The plain cross-entropy of the weights, on all splits alike."""
    run = plainloop.load_run(trained(*words).path, checkpoint=checkpoint)
    run.session.task.loss = torch.nn.CrossEntropyLoss()
    return {split: run.session.measure(split)["loss"] for split in SPLITS}


@pytest.fixture(scope="module", autouse=True)
def one_folder(tmp_path_factory: pytest.TempPathFactory):
    """The runs are shared, and each test has a folder of its own."""
    made = trained
    folder = tmp_path_factory.mktemp("overfitting")
    globals()["trained"] = functools.cache(lambda *words: made(*words, f"paths.outputs={folder}"))
    yield
    globals()["trained"] = made


def test_the_recipe_overfits():
    """By heart at the end; the validation loss has fallen to its lowest early, and risen again since."""
    train, val = curves()
    assert len(train) == len(val) == 60
    assert train[-1] < 0.01
    lowest = val.index(min(val))
    assert 2 <= lowest < 20
    assert val[lowest] < 0.5 * val[0]
    assert val[-1] > 1.2 * val[lowest]
    assert losses()["val"] - losses()["train"] > 0.4
    run = trained()
    assert run.metrics["best/epoch"] == lowest + 1
    assert run.metrics["val/loss"] == min(val) < run.metrics["last/val/loss"] == val[-1]


REMEDIES = {
    "four times the data": ["split.fractions=[0.2,0.3,0.5]"],
    "weight decay": ["optimizer=adamw", "optimizer.weight_decay=3"],
    "dropout": ["model.dropout=0.5"],
    "label smoothing": ["loss.label_smoothing=0.1"],
    "MixUp": ["transforms.mixup=1.0"],
}


@pytest.mark.slow
@pytest.mark.parametrize("remedy", REMEDIES)
def test_a_remedy_narrows_the_gap(remedy):
    """And the validation loss that the run ends with is lower: the gap didn't close from the wrong side."""
    without, with_it = losses(), losses(*REMEDIES[remedy])
    assert with_it["val"] - with_it["train"] < 0.85 * (without["val"] - without["train"])
    assert with_it["val"] < 0.9 * without["val"]
    assert with_it["test"] < without["test"]


@pytest.mark.slow
def test_early_stopping_ends_the_run_and_best_is_what_the_long_one_would_have_chosen():
    stopped, whole = trained("early_stopping.patience=10"), trained()
    assert stopped.metrics["epochs"] == stopped.metrics["best/epoch"] + 10 < 60
    assert stopped.metrics["val/loss"] == whole.metrics["val/loss"]
    assert losses("early_stopping.patience=10", checkpoint="best")["val"] < 0.9 * losses()["val"]
