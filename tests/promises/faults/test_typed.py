"""One case of each class that is told before the first step, typed."""

import shutil

import pytest

from tests.promises.faults.fragile import (
    FOUR,
    LABELS,
    NOTHING,
    QUICK,
    SPOIL_ONE,
    TEN,
    Typed,
    assert_same_end,
    assert_told,
    contents,
    given,
    newest,
    spoil_all,
)

pytestmark = pytest.mark.slow  # plain `pytest` has the catalogue of mistakes, and stays short


TYPED = [
    ("all are damaged", "train.py", "resume=run", 1, ("run/checkpoints", "all 2 are damaged")),
    ("AdamW for SGD", "train.py", "resume=run", 2, ("optimizer", "AdamW", "SGD")),
    ("best is damaged", "evaluate.py", "run=run", 1, ("best.pt", "checkpoint=last")),
    ("no samples", "train.py", " ".join(NOTHING[0][1]), 2, ("the training split is empty",)),
    ("all are ignored", "train.py", " ".join(given(TEN, [-100] * 3)), 2, ("every target of val is -100",)),
    ("a label too large", "train.py", " ".join(LABELS[0][1]), 2, ("sample 3 of train", "label 2")),
]


@pytest.mark.parametrize(("name", "script", "words", "status", "pieces"), TYPED, ids=lambda value: str(value)[:20])
def test_typed_what_is_told_before_the_first_step(name, script, words, status, pieces, copied, trained, tmp_path):
    if "run=run" in words or "resume=run" in words:
        run = copied(*QUICK, "optimizer=sgd")
        if name == "AdamW for SGD":
            shutil.copyfile(newest(trained(*QUICK, "optimizer=adamw")), run / "checkpoints/step-31.pt")
        elif name == "best is damaged":
            best = run / "checkpoints/best.pt"
            best.write_bytes(SPOIL_ONE(best.read_bytes()))
        else:
            spoil_all(run)
    before = contents(tmp_path)
    done = Typed(tmp_path, *words.split(), script=script).ended()
    assert done.status == status, done.err
    assert_told(done.err, "error: ", *pieces)
    assert contents(tmp_path) == before


def test_typed_the_newest_is_damaged(copied, trained):
    run = copied(*QUICK)
    path = newest(run)
    path.write_bytes(SPOIL_ONE(path.read_bytes()))
    done = Typed(run.parent, "resume=run").ended()
    assert done.status == 0
    assert "warning: run/checkpoints/step-30.pt is damaged" in done.out
    assert "Falling back to the one before." in done.out
    assert_same_end(run, trained(*QUICK))


def test_typed_a_sample_that_is_left_over_is_said(tmp_path):
    done = Typed(tmp_path, *given([0, 1] * 4 + [0], FOUR, "model.norm=true", "loader.batch_size=4")).ended()
    assert done.status == 0
    assert done.err == ""
    assert "note    1 of 9 training samples is left over" in done.out
