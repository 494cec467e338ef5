"""Data that nothing can be learned from: splits and epochs that are empty, a sample that is left over."""

from pathlib import Path

import pytest
from torch.utils.data import IterableDataset

import plainloop
from plainloop.errors import MachineError, UserError
from plainloop.runs import checkpoint
from tests.conftest import path_of
from tests.promises.faults.fragile import FORK, FOUR, FRAGILE, NOTHING, TEN, assert_told, features, given, newest

pytestmark = pytest.mark.slow  # plain `pytest` has the catalogue of mistakes, and stays short


@pytest.mark.parametrize(("words", "piece"), [pytest.param(*row[1:], id=row[0]) for row in NOTHING])
def test_data_that_is_empty_is_refused(words, piece, tmp_path):
    with pytest.raises(UserError) as caught:
        plainloop.train(words)
    assert_told(str(caught.value), "data", piece)
    assert list(tmp_path.iterdir()) == []


class DriesUp(IterableDataset):
    """A stream of ten samples in its first epoch, and of none after that."""

    classes = ["even", "odd"]

    def __init__(self, epochs: int):
        self.epochs, self.epoch = epochs, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        return iter([(features(index), index % 2) for index in range(10)] if self.epoch < self.epochs else [])


@pytest.mark.parametrize("how", ["", FORK])
def test_a_stream_that_dries_up_is_noticed(how, tmp_path):
    """No epoch of zero batches passes as trained; the checkpoint before it stands."""
    words = [word for word in FRAGILE if not word.startswith(("data", "split", "name"))]
    words += ["data=custom", f"data._target_={path_of(DriesUp)}", "trainer.max_steps=90", "hydra.run.dir=run"]
    with pytest.raises(UserError, match="the training split is empty"):
        plainloop.train([*words, "data.epochs=0"])
    assert not Path("run").exists()
    with pytest.raises(MachineError) as caught:
        plainloop.train([*words, "data.epochs=1", *how.split()])
    assert_told(str(caught.value), "no batch in epoch 2", "resume=run")
    assert checkpoint.load(newest(tmp_path / "run"))["position"]["step"] == 3


@pytest.mark.parametrize(
    ("count", "batch_size", "dropped"), [(9, 4, True), (10, 4, False), (8, 4, False), (5, 2, True)]
)
def test_a_sample_that_is_left_over_is_kept_from_batch_norm(count, batch_size, dropped, capsys):
    """It is said, and another one is left over in each epoch. Without BatchNorm nothing is dropped."""
    labels = [number % 2 for number in range(count)]
    words = given(labels, FOUR, "model.norm=true", f"loader.batch_size={batch_size}")
    run = plainloop.train(words)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note ")]
    assert len(lines) == dropped
    assert all(f"1 of {count} training samples" in line and "dropped" in line for line in lines)
    assert run.metrics["samples"] == 3 * (count - dropped)
    assert run.config.spec.steps_per_epoch == (count - dropped + batch_size - 1) // batch_size
    plain = plainloop.train(
        [word.replace("model.norm=true", "model.norm=false") for word in words[:-4]]
        + [f"loader.batch_size={batch_size}", *words[-4:-3], "hydra.run.dir=plain"]
    )
    assert plain.metrics["samples"] == 3 * count


def test_one_sample_a_batch_is_nothing_for_batch_norm():
    with pytest.raises(UserError) as caught:
        plainloop.train(given(TEN, FOUR, "model.norm=true", "loader.batch_size=1"))
    assert_told(str(caught.value), "BatchNorm", "loader.batch_size")
