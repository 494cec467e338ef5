"""Disks that are full, and folders that can't be written."""

import resource
from contextlib import contextmanager
from pathlib import Path

import pytest

import plainloop
from plainloop.errors import MachineError
from plainloop.reports import pictures
from plainloop.runs import environment
from tests.promises.faults.fragile import QUICK, Typed, assert_same_end, assert_told, contents

pytestmark = pytest.mark.slow  # plain `pytest` has the catalogue of mistakes, and stays short


BIG = (*QUICK, "model.hidden_sizes=[2048]", "trainer.max_epochs=1")  # 1.8 MB of weights and moments


@contextmanager
def full_disk(size: int):
    """No file may become larger than `size`, here and in commands that are typed, as on a disk that is full. (Python
    ignores SIGXFSZ.)"""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_checkpoint(trained, copied):
    """In process, at the end of an epoch; with room again, the run goes on as if nothing had been."""
    run = copied(*BIG)
    before = contents(run / "checkpoints")
    with full_disk(1_000_000), pytest.raises(MachineError) as caught:
        plainloop.train([f"resume={run}", "trainer.max_epochs=3"])
    assert_told(str(caught.value), "best.pt could not be written", "disk full", "resume=run")
    assert contents(run / "checkpoints") == before
    resumed = plainloop.train([f"resume={run}", "trainer.max_epochs=3"])
    assert_same_end(resumed.path, trained(*BIG, "trainer.max_epochs=3"))


def test_a_disk_that_is_full_at_the_first_checkpoint(tmp_path):
    with full_disk(1_000_000), pytest.raises(MachineError) as caught:
        plainloop.train([*BIG, "hydra.run.dir=run"])
    assert_told(str(caught.value), "could not be written", "disk full", "there is none yet")
    assert list((tmp_path / "run/checkpoints").iterdir()) == []


@pytest.mark.parametrize("logger", ["none", "tensorboard"])
@pytest.mark.parametrize("size", [1500, 9000], ids=["config", "history"])
def test_a_disk_that_is_full_before_a_checkpoint_is_due(size, logger, monkeypatch):
    """The config has 3 kB, and the history comes to 9 before its run ends: closing what can't be written doesn't
    hide the cause."""
    monkeypatch.setattr(environment, "_git", lambda *_: None)  # the size of a diff is nobody's business here
    monkeypatch.setattr(pictures, "draw_inputs", lambda *_: None)
    words = [
        *QUICK,
        "trainer.log_every=1",
        "trainer.max_epochs=30",
        "checkpoint.every_epochs=null",
        "data=mine",
        "trainer.validate_every=0",
        f"logger={logger}",
        "hydra.run.dir=run",
    ]
    with full_disk(size), pytest.raises(MachineError) as caught:
        plainloop.train(words)
    assert_told(str(caught.value), "disk full")


def test_typed_a_full_disk_leaves_the_old_checkpoint(copied, trained):
    run = copied(*BIG)
    before = contents(run / "checkpoints")
    with full_disk(1_000_000):
        command = Typed(run.parent, "resume=run", "trainer.max_epochs=3", cold=True)  # it inherits the limit
    done = command.ended()
    assert done.status == 1
    assert_told(done.err, "error: ", "best.pt could not be written", "disk full", "train.py resume=run")
    assert contents(run / "checkpoints") == before
    resumed = plainloop.train(["resume=run", "trainer.max_epochs=3"])
    assert_same_end(resumed.path, trained(*BIG, "trainer.max_epochs=3"))


in_proc = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a place where nobody can write")
PLACES = [
    pytest.param("paths.outputs=/proc/nowhere", "paths.outputs=", marks=in_proc),
    pytest.param("paths.outputs=file", "paths.outputs="),
    pytest.param("paths.outputs=file/inside", "paths.outputs="),
    pytest.param("name=file paths.outputs=.", "paths.outputs="),
    pytest.param("hydra.run.dir=/proc/nowhere", "hydra.run.dir=", marks=in_proc),
    pytest.param("hydra.run.dir=file", "hydra.run.dir="),
]


@pytest.mark.parametrize(("words", "remedy"), PLACES)
def test_where_no_run_directory_can_be_created(words, remedy, tmp_path):
    """Said after the checks and before the first step, with the key that names another place."""
    (tmp_path / "file").write_text("a file, where a folder belongs")
    with pytest.raises(MachineError) as caught:
        plainloop.train([*QUICK, *words.split()])
    assert_told(str(caught.value), words.split("=")[1].split()[0].split("/")[-1], remedy)
    assert contents(tmp_path) == {"file": b"a file, where a folder belongs"}


@in_proc
@pytest.mark.parametrize("key", ["paths.outputs", "hydra.run.dir"])
def test_typed_where_no_run_directory_can_be_created(key, tmp_path):
    done = Typed(tmp_path, *QUICK, f"{key}=/proc/nowhere").ended()
    assert done.status == 1
    assert_told(done.err, "error: ", "/proc/nowhere", f"{key}=")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_folder_that_cannot_be_written(tmp_path):
    """A file is in its place."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoints").write_text("a file")
    with pytest.raises(MachineError) as caught:
        plainloop.train([*QUICK, "hydra.run.dir=run"])
    assert_told(str(caught.value), "run/checkpoints")
    assert (tmp_path / "run/checkpoints").read_text() == "a file"


def test_an_evaluation_that_cannot_be_written(copied, capsys):
    """A folder is in the place of the file: it is told, and the run is as it was."""
    run = copied(*QUICK)
    (run / "evaluate-val-best.json").mkdir()
    before = contents(run)
    with pytest.raises(MachineError) as caught:
        plainloop.evaluate(run, split="val")
    assert_told(str(caught.value), "evaluate-val-best.json")
    assert contents(run) == before
