"""resume_inexact: another batch size, and nothing else."""

import json

import pytest
import torch

import plainloop
from plainloop.errors import UserError
from tests.promises.resume.runs import SMOOTH, Images, Net, own
from tests.resuming import Watched, newest, resumed, watched

HALVES = ["loader.batch_size=8", "trainer.accumulate_steps=2"]  # of SIXTEEN's batches


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory) -> Watched:
    """A run with batches of 16 and a schedule for its 10 steps, in which only the batches hold anything random."""
    words = [
        *own(data=Images, model=Net),
        "model.norm=false",
        "model.dropout=0.0",
        "loader.batch_size=16",
        "optimizer=sgd",
        "optimizer.lr=0.1",
        "scheduler=cosine",
        "trainer.max_epochs=2",
        "logger=none",
    ]
    return watched(words, tmp_path_factory.mktemp("sixteen"))


@pytest.mark.slow
def test_another_batch_size_is_refused_unless_it_is_meant(sixteen, tmp_path, capsys):
    path = sixteen.interrupted(7, tmp_path)
    for word in HALVES:
        with pytest.raises(UserError, match=rf"{word}: this can't change when a run is continued.*resume_inexact=true"):
            resumed(path, *HALVES[HALVES.index(word) :])
    capsys.readouterr()
    resumed(path, *HALVES, "resume_inexact=true")
    out = capsys.readouterr().out
    assert "batch_size was 16 and is 8" in out
    assert "accumulate_steps was 1 and is 2" in out
    metrics, whole = (json.loads((each / "metrics.json").read_text()) for each in (path, sixteen.path))
    for name in ("steps", "samples", "epochs"):
        assert metrics[name] == whole[name]
    # Halves of a batch, weighted by their samples, have the gradient of the whole: equal up to rounding only if each
    # sample is seen once and augmented as it would have been.
    for name, weights in newest(sixteen.path)["model"].items():
        torch.testing.assert_close(newest(path)["model"][name], weights, rtol=1e-3, atol=1e-5)
    capsys.readouterr()
    resumed(path)  # what it is now is the run's own
    assert "this run is finished" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("step", "ended"), [(3, False), (5, False), (5, True)])
def test_another_batch_size_may_begin_anywhere(step, ended, sixteen, tmp_path):
    """Also behind an epoch's last batch, which wasn't full."""
    path = resumed(sixteen.interrupted(step, tmp_path, ended), *HALVES, "resume_inexact=true")
    assert json.loads((path / "metrics.json").read_text())["samples"] == 2 * 68
    for name, weights in newest(sixteen.path)["model"].items():
        torch.testing.assert_close(newest(path)["model"][name], weights, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_schedule_built_for_another_number_of_steps_is_refused(sixteen, tmp_path):
    """Nine small steps an epoch instead of five; without a schedule it may go on."""
    path = sixteen.interrupted(7, tmp_path)
    before = (path / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=r"was built for 10 steps, and with this batch size there are 18.*extend="):
        resumed(path, HALVES[0], "resume_inexact=true")
    assert (path / "config.yaml").read_bytes() == before
    plain = [word for word in SMOOTH if not word.startswith("scheduler")]
    run = watched(plain, tmp_path / "plain")
    metrics = json.loads(
        (resumed(run.copies[2], "loader.batch_size=4", "resume_inexact=true") / "metrics.json").read_text()
    )
    assert metrics["samples"] == 3 * 68


@pytest.mark.slow
def test_an_epoch_that_had_its_last_small_batch_is_done_for_larger_ones_too(tmp_path):
    """68 samples are nine batches of eight, or five of sixteen; 72 // 16 would see the last four again."""
    words = [word for word in SMOOTH if not word.startswith(("scheduler", "trainer.accumulate"))]
    run = watched([*words, "trainer.max_epochs=2"], tmp_path)
    path = run.interrupted(9, tmp_path)
    resumed(path, "loader.batch_size=16", "resume_inexact=true")
    assert json.loads((path / "metrics.json").read_text())["samples"] == 2 * 68
    assert newest(path)["position"]["step"] == 9 + 5


def test_a_schedule_that_counts_steps_of_an_epoch_does_not_fit_another_batch_size(tmp_path):
    """Though the length of the run isn't its own."""
    words = [
        *own(data=Images, model=Net),
        "scheduler=step",
        "scheduler.step_size=${spec.steps_per_epoch}",
        "schedule.interval=step",
        "loader.batch_size=8",
        "trainer.max_epochs=1",
        "logger=none",
    ]
    run = plainloop.train([*words, f"hydra.run.dir={tmp_path}/run"])
    with pytest.raises(UserError, match=r"was built for 9 steps an epoch, and with this batch size there are 5"):
        resumed(run.path, "trainer.max_epochs=2", "loader.batch_size=16", "resume_inexact=true")


def test_resume_inexact_allows_nothing_else(sixteen):
    for word in ("optimizer.lr=1", "seed=3", "model.norm=true"):
        with pytest.raises(UserError, match=f"{word}: this can't change"):
            resumed(sixteen.path, word, "resume_inexact=true")
