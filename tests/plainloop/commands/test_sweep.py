"""`-m`: all trials are checked first, the winner alone is tested, a table ranks them."""

import json
import re
from pathlib import Path

import numpy
import pytest

from plainloop.assembly.session import Session
from plainloop.commands import sweep, train
from plainloop.errors import UserError
from plainloop.runs import directory
from tests.conftest import command
from tests.plainloop.commands.runs import trained


@pytest.mark.slow
def test_a_sweep_ranks_its_trials_and_tests_the_winner_alone(tmp_path: Path):
    done = command(
        "train.py", "-m", "model=mlp,linear", "seed=0,1", "trainer.max_epochs=2", "logger=none", folder=tmp_path
    )
    assert done.status == 0, done.err
    (folder,) = (tmp_path / "outputs/digits").glob("sweep-*")
    runs = [folder / str(number) for number in range(4)]
    values = {run.name: json.loads((run / "metrics.json").read_text()) for run in runs}
    assert not any(name.startswith("test/") for metrics in values.values() for name in metrics)
    table = done.out[done.out.index("rank ") :].splitlines()
    assert table[0].split() == ["rank", "val/accuracy", "model", "seed", "run"]
    ranked = [line.split() for line in table[1:5]]
    scores = [float(row[1]) for row in ranked]
    assert scores == sorted(scores, reverse=True)
    best = max(values, key=lambda name: values[name]["val/accuracy"])
    assert ranked[0][4] == f"outputs/digits/{folder.name}/{best}"
    assert {tuple(row[2:4]) for row in ranked} == {("mlp", "0"), ("mlp", "1"), ("linear", "0"), ("linear", "1")}
    assert [run.name for run in runs if (run / "evaluate-test-best.json").exists()] == [best]
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


@pytest.mark.slow
def test_a_sweep_over_folds_prints_their_mean_and_deviation(capsys: pytest.CaptureFixture):
    """Of each model; the folds' validation samples are everything but the test split, each once."""
    words = ["model=linear,mlp", "split.folds=3", "split.fold=0,1,2", "trainer.max_epochs=1", "logger=none"]
    trials = sweep.run(words, train.train_config)
    table = capsys.readouterr().out.partition("deviation")[2].splitlines()
    assert table[0].split() == ["of", "model"]
    said = {row.split()[3]: [float(number) for number in row.split()[:3]] for row in table[1:3]}
    for model in ("linear", "mlp"):
        chosen = [trial for trial in trials if trial.setting("model") == model]
        values = numpy.array([directory.RunDir(trial.folder).read_metrics()["val/accuracy"] for trial in chosen])
        assert said[model] == pytest.approx([values.mean(), values.std(ddof=1), 3], abs=5e-5)
        splits = [json.loads((trial.folder / "splits.json").read_text()) for trial in chosen]
        validated = [index for split in splits for index in split["val"]["indices"]]
        assert sorted(validated + splits[0]["test"]["indices"]) == list(range(1797))
        assert splits[0]["test"] == splits[1]["test"] == splits[2]["test"]


def test_a_trial_that_fails_does_not_end_the_sweep(capsys: pytest.CaptureFixture):
    trials = sweep.run(
        ["model.dropout=0.1,2", "trainer.max_epochs=1", "logger=none"],
        train.train_config,
    )
    assert [bool(trial.failure) for trial in trials] == [False, True]
    out = capsys.readouterr().out
    assert re.search(r"1 +0\.\d+ +0\.1 +outputs", out)
    assert re.search(r"- +failed +2 +model.dropout=2: a share", out)


def test_all_trials_are_checked_before_the_first_is_trained(tmp_path: Path):
    with pytest.raises(UserError, match=r"trainer.max_epochs=-1"):
        sweep.run(["trainer.max_epochs=1,-1"], lambda *given: pytest.fail("a trial was started"))
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("words", "times"), [([], 1), (["test=false"], 0), (["debug=fast"], 0), (["debug=overfit"], 0)], ids=str
)
def test_the_test_split_is_touched_once_or_not_at_all(words, times, monkeypatch: pytest.MonkeyPatch):
    """Counted where batches are made: whoever wants a sample of the test split has to come by here."""
    touched = []
    loader = Session.loader

    def counted(self, split):
        touched.append(split)
        return loader(self, split)

    monkeypatch.setattr(Session, "loader", counted)
    trained(*words)
    assert touched.count("test") == times
