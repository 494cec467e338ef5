"""A run that was interrupted anywhere and resumed ends with exactly the bits of one that was never interrupted."""

import itertools
import json
import shutil
from pathlib import Path

import pytest

import plainloop
from tests.promises.resume.runs import NONE, RUNS, TWO, killed
from tests.resuming import curves, differences, newest, records, resumed, watched


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("smooth", 10),  # the epoch's batches are done, its validation isn't
        ("rough", 4),  # in the warm-up, validated
        ("closures", 3),
    ],
)
def test_a_resumed_run_equals_one_that_was_never_interrupted(name, step, uninterrupted, tmp_path):
    """At some boundaries; the others are tried below."""
    run = uninterrupted(name)
    assert differences(run.path, resumed(run.interrupted(step, tmp_path))) == []


def test_the_runs_are_what_they_are_meant_to_be(uninterrupted):
    """Else the comparisons would show less than they claim."""
    smooth, rough = uninterrupted("smooth").path, uninterrupted("rough").path
    steps = [record["step"] for record in records(smooth)]
    assert steps == [3, 5, 6, 9, 10, 12, 15, 15]
    assert newest(smooth)["losses"]["seen"] == 3 * 68
    assert newest(smooth)["task"]["loss.scale"] != 1.0
    metrics = json.loads((rough / "metrics.json").read_text())
    assert metrics["best/step"] == 2
    assert metrics["steps"] == 22  # stopped early, within the fifth epoch
    assert newest(rough)["update"]["skipped"] >= 4
    assert len({record["lr"] for record in records(rough) if "lr" in record}) > 4
    assert 3 < len(newest(rough)["train_batches"]["unreadable"]) < 60
    rates = [record["lr"] for record in records(smooth)]
    assert max(rates) > 10 * rates[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_interrupted_at_every_boundary(name, uninterrupted, tmp_path):
    run = uninterrupted(name)
    saved = [newest(path)["position"] for path in run.copies]
    assert {position["step"] for position in saved} == set(range(1, saved[-1]["step"] + 1))
    wrong = {}
    for number, (path, position) in enumerate(zip(run.copies, saved, strict=True)):
        again = resumed(Path(shutil.copytree(path, tmp_path / str(number))))
        wrong[f"copy {number}, {position}"] = differences(run.path, again)
    assert {where: found for where, found in wrong.items() if found} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smooth", "remembering"])
def test_interrupted_at_boundaries_with_workers(name, uninterrupted, tmp_path):
    """Two processes load, and as many or others when it goes on; the truth is the run without any. (Every boundary is
    tried above; here every third.)"""
    run = watched([*RUNS[name], *TWO], tmp_path)
    assert differences(uninterrupted(name).path, run.path) == []
    wrong = {}
    for number, (path, workers) in enumerate(zip(run.copies[::3], itertools.cycle([2, 3, 1]), strict=False)):
        again = resumed(path, f"loader.num_workers={workers}")
        wrong[f"copy {number}, {workers} workers"] = differences(run.path, again)
    assert {where: found for where, found in wrong.items() if found} == {}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "step"), [("smooth", 7), ("rough", 18), ("remembering", 3)])
def test_workers_of_the_default_start_method(name, step, uninterrupted, tmp_path):
    run = uninterrupted(name)
    assert differences(run.path, resumed(run.interrupted(step, tmp_path), "loader.num_workers=2")) == []


@pytest.mark.slow
def test_after_five_kills_everything_is_there_once(uninterrupted, tmp_path):
    """The same command line every time, as a cluster types it, with other workers; killed twice before anything was
    saved, and then three times between two saves."""
    words = [*RUNS["smooth"], "logger=tensorboard", "checkpoint.every_steps=2"]
    words = [*words, "resume=auto", f"hydra.run.dir={tmp_path}/run"]
    for step, workers in ((1, NONE), (2, TWO), (8, NONE), (10, TWO), (14, NONE)):
        killed([*words, *workers], step)
    again = plainloop.train([*words, *TWO])
    whole = uninterrupted("smooth").path
    assert [found for found in differences(whole, again.path) if not found.startswith("curves")] == []
    found = curves(again.path)
    assert [step for step, _ in found["train/lr"]] == [3, 5, 6, 9, 10, 12, 15, 15]
    assert [step for step, _ in found["val/loss"]] == [5, 10, 15]
    assert len(json.loads((again.path / "environment.json").read_text())["resumed"]) == 3
