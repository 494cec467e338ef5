"""Checkpoints of another run, and data that has changed, are refused by name."""

import shutil
from pathlib import Path

import pytest

import plainloop
from plainloop.errors import UserError
from plainloop.runs import checkpoint
from tests.conftest import path_of
from tests.promises.faults.fragile import (
    LINEAR,
    QUICK,
    Samples,
    assert_same_end,
    assert_told,
    contents,
    newest,
    write_arrays,
)

pytestmark = pytest.mark.slow  # plain `pytest` has the catalogue of mistakes, and stays short


class Named(Samples):
    """The same samples, with classes that can be named, and as many of them as are wanted."""

    def __init__(self, names: list[str], count: int = 24):
        super().__init__()
        self.classes, self.count, self.targets = names, count, self.targets[:count]

    def __len__(self) -> int:
        return self.count


NAMED = ("data=custom", f"data._target_={path_of(Named)}", "data.names=[cat,dog]")
STEPPED = ("scheduler=step", "scheduler.step_size=2")
FOREIGN = [
    # id, the run's words, those of the run that the checkpoint is from (None: of another model's), what must be named
    ("another model", (), None, ("model", "MLP", "Linear")),
    ("another size of the model", (), ("model.hidden_sizes=[16]",), ("hidden_sizes",)),
    ("AdamW for SGD", ("optimizer=sgd",), ("optimizer=adamw",), ("optimizer", "AdamW", "SGD")),
    ("SGD for AdamW", ("optimizer=adamw",), ("optimizer=sgd",), ("optimizer", "AdamW", "SGD")),
    ("Adam for AdamW", ("optimizer=adamw",), (), ("optimizer", "adam.Adam,", "AdamW")),
    ("another scheduler", STEPPED, ("scheduler=cosine",), ("scheduler", "StepLR", "CosineAnnealingLR")),
    ("a scheduler for none", (), STEPPED, ("scheduler", "StepLR", "None")),
    ("no scheduler", STEPPED, (), ("scheduler", "StepLR", "None")),
    ("another rate", (), ("optimizer.lr=0.5",), ("optimizer.lr", "0.5", "0.001")),
    ("another dropout", (), ("model.dropout=0.5",), ("model.dropout",)),
    ("another seed", (), ("seed=1",), ("seed", "1", "0")),
    ("another size of the data", (), ("split.fractions=[0.6,0.2,0.2]",), ("train", "1078", "1258")),
    ("other classes", NAMED, (*NAMED[:2], "data.names=[dog,cat]"), ("class_names", "['dog', 'cat']")),
    ("another batch size", (), ("loader.batch_size=64",), ("batch_size", "64", "128", "resume_inexact")),
]


@pytest.mark.parametrize(("own", "other", "pieces"), [pytest.param(*row[1:], id=row[0]) for row in FOREIGN])
def test_a_checkpoint_of_another_run_is_refused_by_name(own, other, pieces, trained, copied):
    """It has been copied into the directory, and is whole."""
    run = copied(*QUICK, *own)
    step = checkpoint.step_of(newest(run))
    other = LINEAR if other is None else (*QUICK, *other)
    shutil.copyfile(newest(trained(*other)), run / f"checkpoints/step-{step + 1}.pt")
    before = contents(run)
    with pytest.raises(UserError) as caught:
        plainloop.train([f"resume={run}"])
    assert_told(str(caught.value), *pieces)
    assert contents(run) == before
    (run / f"checkpoints/step-{step + 1}.pt").unlink()
    plainloop.train([f"resume={run}"])  # the run's own stands
    assert_same_end(run, trained(*QUICK, *own))


def test_a_checkpoint_of_another_model_is_not_measured(trained, copied):
    run = copied(*QUICK)
    for words in (LINEAR, (*QUICK, "model.hidden_sizes=[16]")):
        other = newest(trained(*words))
        with pytest.raises(UserError) as caught:
            plainloop.evaluate(run, checkpoint=str(other))
        assert_told(str(caught.value), str(other), "the model of", "layers.1.weight")


CHANGES = [
    ({"count": 44}, ("num_train", "was 28", "is 31")),
    ({"names": "abdc"}, ("class_names", "'c', 'd'", "'d', 'c'")),
    ({"names": "abcde"}, ("class_names", "'e'")),
    ({"first_pixel": 1}, ("content", "train", "resume_inexact=true")),
]


@pytest.mark.parametrize(("change", "pieces"), CHANGES, ids=lambda value: next(iter(value), ""))
def test_data_that_has_changed_is_refused_by_name(change, pieces):
    write_arrays()
    words = [*QUICK, "data.path=mine.npz", "data.inputs=inputs", "data.targets=targets", "hydra.run.dir=mine"]
    plainloop.train([*words, "trainer.max_epochs=1"])
    before = contents(Path("mine"))
    write_arrays(**change)
    with pytest.raises(UserError) as caught:
        plainloop.train(["resume=mine", "trainer.max_epochs=2"])
    assert_told(str(caught.value), *pieces)
    assert contents(Path("mine")) == before
    write_arrays()
    assert plainloop.train(["resume=mine", "trainer.max_epochs=2"]).metrics["epochs"] == 2
