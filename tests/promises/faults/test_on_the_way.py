"""What happens to a run on its way: loading processes that are lost or hang, losses that aren't finite, full memory."""

import multiprocessing
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import plainloop
from plainloop.config import schema
from plainloop.data import make_loader
from plainloop.errors import MachineError
from plainloop.runs import checkpoint
from tests.conftest import ROOT
from tests.promises.faults.fragile import (
    FORK,
    FRAGILE,
    TRUSTED,
    Samples,
    Typed,
    assert_same_end,
    assert_told,
    contents,
    steps,
)

pytestmark = pytest.mark.slow  # plain `pytest` has the catalogue of mistakes, and stays short


class Trap(NamedTuple):
    """A row: what goes wrong, the words that are typed beside FRAGILE, and what the answer holds."""

    fault: str
    words: str
    pieces: tuple[str, ...]
    typed: bool = False


HANGS = ("within 5 s", "loader.timeout=SECONDS", "loader.num_workers=0")
LOST = ("a loading process was lost", "loader.num_workers")
FULL = ("out of memory", "lower loader.batch_size", "raise trainer.accumulate_steps", "resume_inexact=true",
        "loader.batch_size=2", "trainer.accumulate_steps=2")  # fmt: skip
TRAPS = [
    Trap("data kill", "loader.num_workers=2", LOST, typed=True),
    Trap("data kill", FORK, LOST),
    Trap("data crash", FORK, LOST),
    Trap("data leave", FORK, LOST),
    Trap("data sleep_for_good", f"{FORK} loader.timeout=5", HANGS, typed=True),
    Trap("data compute_for_good", f"{FORK} loader.timeout=5", HANGS, typed=True),
    Trap("data stop", f"{FORK} loader.timeout=5", HANGS, typed=True),
    Trap("loss nan", "", ("the loss is nan", "step 6", "optimizer.lr", "trainer.max_grad_norm"), typed=True),
    Trap("loss inf", "trainer.log_every=1", ("the loss is", "step 6", "optimizer.lr")),
    Trap("gradient inf", "", ("step 6", "optimizer.lr", "trainer.max_grad_norm")),
    Trap("gradient nan", "trainer.log_every=50", ("the loss is nan", "epoch 2")),
    Trap("gradient inf", "trainer.log_every=50 trainer.max_grad_norm=1", ("the loss is nan", "epoch 2")),
    Trap("gradient nan", "trainer.log_every=50 checkpoint.every_steps=1", ("step 2 and aren't saved",)),
    Trap("model fill_the_gpu", "", FULL, typed=True),
    Trap("model fill_torchs_memory", "", FULL),
    Trap("model fill_pythons_memory", "", FULL),
    Trap("model fill_numpys_memory", "", FULL),
    Trap("data fill_the_gpu", FORK, FULL),
    Trap("data fill_torchs_memory", FORK, FULL),
    Trap("data fill_numpys_memory", f"{FORK} loader.skip_unreadable=99", FULL),
    Trap("data fill_torchs_memory", f"{FORK} loader.skip_unreadable=99", FULL),
]


def assert_goes_on(run: Path, words: str, trained) -> None:
    """What was saved is whole, and the run comes to the end that it would have come to, however it is loaded."""
    Path("trap").unlink()
    for path in (run / "checkpoints").glob("*.pt"):
        state = checkpoint.load(path)
        assert all(value.isfinite().all() for value in state["model"].values())
    plainloop.train([f"resume={run}", *(FORK.split() if "num_workers" in words else [])])
    assert_same_end(run, trained(*FRAGILE, *(word for word in words.split() if not word.startswith("loader."))))


# What hangs is ended by the command, and other start methods take long: these rows are typed only.
IN_PROCESS = [
    row for row in TRAPS if "timeout" not in row.words and ("num_workers" not in row.words or FORK in row.words)
]


@pytest.mark.parametrize(
    ("fault", "words", "pieces"), [row[:3] for row in IN_PROCESS], ids=lambda value: str(value)[:40]
)
def test_what_goes_wrong_is_told_and_the_run_can_go_on(fault, words, pieces, trained, tmp_path):
    Path("trap").write_text(fault)
    with pytest.raises(MachineError) as caught:
        plainloop.train([*FRAGILE, *words.split()])
    assert multiprocessing.active_children() == []
    (run,) = (tmp_path / "outputs/fragile").iterdir()
    assert_told(str(caught.value), *pieces, f"resume=outputs/fragile/{run.name}")
    assert_goes_on(run, words, trained)


@pytest.mark.parametrize(
    ("fault", "words", "pieces"), [row[:3] for row in TRAPS if row.typed][::2], ids=lambda value: str(value)[:40]
)
def test_typed_what_goes_wrong_is_told_and_the_run_can_go_on(fault, words, pieces, trained, tmp_path):
    """The command ends by itself, with status 1 and all that it has started."""
    Path("trap").write_text(fault)
    done = Typed(tmp_path, *FRAGILE, *words.split(), cold=words == "loader.num_workers=2").ended()
    assert done.status == 1, done.err
    run = done.run
    assert_told(done.err, "error: ", *pieces, f"{ROOT}/train.py resume={run.relative_to(tmp_path)}")
    assert f"failed  {done.err.removeprefix('error: ').splitlines()[0]}" in (run / "train.log").read_text()
    assert_goes_on(run, words, trained)


def test_typed_an_evaluation_that_hangs_ends(tmp_path, copied):
    run = copied(*FRAGILE)
    (tmp_path / "outputs/other/checkpoints").mkdir(parents=True)
    (tmp_path / "outputs/other/checkpoints/step-1.pt").write_text("the trap may spring")
    (tmp_path / "trap").write_text("data compute_for_good")
    before = contents(run)
    words = ["run=run", "split=val", *FORK.split(), "loader.timeout=5", TRUSTED]
    done = Typed(tmp_path, *words, script="evaluate.py").ended()
    assert done.status == 1
    assert_told(done.err, "error: ", *HANGS)
    assert contents(run) == before


def test_how_long_a_worker_is_waited_for():
    """Five minutes where there are workers and nobody says otherwise."""
    options = {"seed": 0, "device": torch.device("cpu")}
    assert make_loader(Samples(), schema.Loader(batch_size=4, num_workers=2), **options).loader.timeout == 300
    assert make_loader(Samples(), schema.Loader(batch_size=4, num_workers=2, timeout=7), **options).loader.timeout == 7
    assert make_loader(Samples(), schema.Loader(batch_size=4, num_workers=0), **options).loader.timeout == 0


def test_a_worker_that_is_killed_while_a_checkpoint_is_written(trained, tmp_path, monkeypatch):
    """What is told is the process that was lost, and not a full disk; the old checkpoint stands."""
    written = torch.save

    def kill_a_worker(state, file):
        if state["position"]["step"] == 10:
            for child in multiprocessing.active_children():
                child.kill()
            time.sleep(30)  # which the handler of SIGCHLD cuts short, wherever the kernel delivers it
        written(state, file)

    words = f"{FORK} trainer.validate_every=0"
    monkeypatch.setattr(torch, "save", kill_a_worker)
    with pytest.raises(MachineError) as caught:
        plainloop.train([*FRAGILE, *words.split()])
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert_told(str(caught.value), *LOST)
    (run,) = (tmp_path / "outputs/fragile").iterdir()
    assert steps(run) == ["step-5.pt"]
    assert [file.name for file in (run / "checkpoints").iterdir()] == ["step-5.pt"]
    plainloop.train([f"resume={run}"])
    assert_same_end(run, trained(*FRAGILE, *words.split()))
