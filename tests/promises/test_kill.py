"""A run that is killed with `kill -9`, and started again with the same command line, is the run that never was.

The functions are those of benchmarks/kill.py, which does the same 300 times; here it is done a few times, and at some
instants that chance seldom meets.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import plainloop
from plainloop.commands import train
from plainloop.runs import checkpoint
from tests.conftest import ROOT, one_in


def imported(path: Path) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where its dataclasses look for it
    spec.loader.exec_module(module)
    return module


kill = imported(ROOT / "benchmarks/kill.py")
SHORT = [*kill.WORDS, "trainer.max_epochs=2"]  # 30 steps


@pytest.mark.slow
def test_a_kill_at_a_random_instant_leaves_no_trace(tmp_path):
    words = ["--kills", "1", "--epochs", "2", "--json", str(tmp_path / "figures.json")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/kill.py"), *words], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tally = json.loads((tmp_path / "figures.json").read_text())
    assert tally["kills"] == 1
    assert tally["finished"] > 0
    assert not any(tally[what] for what in ("damaged", "differing", "orphans", "refused"))


# --- at an instant of the test's choice ---------------------------------------------------------------------------

HELD = '''
import time
from pathlib import Path

from plainloop.training.callbacks import Callback
from plainloop.loggers import Logger


def stay():
    Path("here").touch()
    while True:
        time.sleep(0.01)


class InSave(Logger):
    """Stays for good in the save of this number, when the loggers before it have been asked for their state."""

    def __init__(self, save):
        self.save, self.saves = save, 0

    def state_dict(self):
        self.saves += 1
        if self.saves == self.save and not Path("go").exists():
            stay()
        return {}


class AtStep(Callback):
    """Stays for good when a step has been logged: the one that the file `until` names."""

    def on_log(self, trainer, record):
        if Path("until").read_text() == str(record["step"]):
            stay()
'''


def killed(folder: Path, words: list[str], workers: int = 0) -> Any:
    """A run that was killed where it stays."""
    (folder / "here").unlink(missing_ok=True)
    life = kill.Life(folder, "run", words, workers, "fork")
    assert life.wait_for((folder / "here").exists), life.errors()
    assert life.kill(group=False)
    return life


@pytest.mark.slow
def test_after_three_kills_the_history_has_every_step_once(tmp_path):
    """Each comes some steps behind a checkpoint, so that there is something to cut off."""
    kill.prepare(tmp_path)
    (tmp_path / "held.py").write_text(HELD)
    words = [
        *kill.WORDS,
        "callbacks.held._target_=held.AtStep",
        "trainer.log_every=1",
        "trainer.max_epochs=4",
        "checkpoint.every_steps=7",
    ]
    for workers, step, saved in ((0, 11, 7), (2, 34, 30), (1, 53, 49)):
        (tmp_path / "until").write_text(str(step))
        life = killed(tmp_path, words, workers)
        assert kill.records(life.run)[-1]["step"] == step
        assert max(map(checkpoint.step_of, (life.run / "checkpoints").glob("step-*.pt"))) == saved
        assert kill.damaged(life.run) == []
    (tmp_path / "until").write_text("nothing")
    last = kill.Life(tmp_path, "run", words, 2, "fork")
    assert last.wait() == 0, last.errors()
    records = kill.records(last.run)
    assert [record["step"] for record in records if "train/loss" in record] == list(range(1, 61))
    assert [record["step"] for record in records if "val/loss" in record] == [15, 30, 45, 60]
    assert kill.wrong_curves(last.run) == []


@pytest.mark.slow
@pytest.mark.parametrize("save", [6, 7], ids=["at an epoch's end", "behind it"])
def test_tensorboard_shows_each_record_once(save, tmp_path):
    """Saved are steps 3, 6, 9, 12, 15, 15 (with the validation) and 18. What TensorBoard was given for a checkpoint
    that never came to be is void, also where it belongs to the very step of the one before."""
    kill.prepare(tmp_path)
    (tmp_path / "held.py").write_text(HELD)
    words = [*SHORT, "logger.held._target_=held.InSave", f"logger.held.save={save}"]
    life = killed(tmp_path, words)
    assert kill.curves(life.run, "train")["loss"][0][0] == 2  # it has been given something
    (tmp_path / "go").touch()
    again = kill.Life(tmp_path, "run", words)
    assert again.wait() == 0, again.errors()
    assert kill.once_each(again.run) == []
    assert kill.wrong_curves(again.run) == []


@pytest.mark.slow
@pytest.mark.parametrize("longer", one_in(2, [True, False]))
def test_a_run_killed_before_its_result_was_written_measures_it_when_resumed(longer, monkeypatch, capsys):
    """Also one that was trained longer, and has the result of its shorter life."""
    words = ["model.dropout=0.3", "logger=none"]
    whole = plainloop.train([*words, "trainer.max_epochs=2"])
    more = ["trainer.max_epochs=2"] if longer else []
    if longer:
        plainloop.train([*words, "trainer.max_epochs=1", "name=killed"])

    def interrupted(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(train, "_measure_result", interrupted)
        first = ["resume=latest", *more] if longer else [*words, "trainer.max_epochs=2", "name=killed"]
        with pytest.raises(KeyboardInterrupt):
            plainloop.train(first)
    resumed = plainloop.train(["resume=latest"])
    assert resumed.path.parent.name == "killed"
    assert {**resumed.metrics, "seconds": 0} == {**whole.metrics, "seconds": 0}


# --- whether the comparison sees anything -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("finished")
    kill.prepare(folder)
    life = kill.Life(folder, "run", SHORT)
    assert life.wait() == 0, life.errors()
    return life.run


def flip(file: str, *place: str | int) -> Callable[[Path], None]:
    """Flip the last bit of a number in a checkpoint, and write it as if it were right."""

    def damage(run: Path) -> None:
        state = checkpoint.load(run / "checkpoints" / file)
        inner: Any = state
        for name in place:
            inner = inner[name]
        inner.view(torch.int32).view(-1)[0] ^= 1
        checkpoint.save(run / "checkpoints" / file, state)

    return damage


def rewrite(file: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        text = (run / file).read_text().splitlines(keepends=True)
        (run / file).write_text("".join(change(text)))

    return damage


def show_twice(run: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run / "tensorboard/val")) as writer:
        writer.add_scalar("loss", 1.0, 15)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a step is missing": (rewrite("history.jsonl", lambda text: text[:3] + text[4:]), "log points are at steps"),
    "a step stands twice": (rewrite("history.jsonl", lambda text: text[:4] + text[3:]), "log points are at steps"),
    "a broken line": (rewrite("history.jsonl", lambda text: [*text[:3], text[3][:9], *text[3:]]), "JSONDecodeError"),
    "another loss": (rewrite("history.jsonl", lambda text: [text[0].replace("loss\": ", "loss\": 1"), *text[1:]]),
                     "history[0].train/loss"),
    "a weight": (flip("step-30.pt", "model", "head.3.weight"), "last checkpoint.model.head.3.weight"),
    "a moment": (flip("step-30.pt", "optimizer", "state", 0, "exp_avg"), "last checkpoint.optimizer.state.0.exp_avg"),
    "an average": (flip("best.pt", "average", "model", "head.3.bias"), "best checkpoint.average.model.head.3.bias"),
    "a checkpoint that can't be read": (lambda run: (run / "checkpoints/step-27.pt").write_bytes(b"no"), "step-27.pt"),
    "a result": (rewrite("metrics.json", lambda text: [line.replace('"epochs": 2', '"epochs": 3') for line in text]),
                 "metrics.json.epochs"),
    "a point is shown twice": (show_twice, "val/loss lacks steps [] and has steps [15] too often"),
    "no curves": (lambda run: shutil.rmtree(run / "tensorboard/val"), "tensorboard/val"),
    "a file is left over": (lambda run: (run / "checkpoints/.step-3.pt.1.tmp").touch(), ".step-3.pt.1.tmp"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("damage", [None, *DAMAGES], ids=lambda damage: damage or "nothing")
def test_the_comparison_sees(damage, finished, tmp_path):
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    if damage is None:
        assert kill.compare(copy, finished) == []
        return
    spoil, told = DAMAGES[damage]
    spoil(copy)
    wrong = kill.compare(copy, finished)
    assert any(told in line for line in wrong), wrong


def test_a_process_that_is_left_is_seen():
    assert os.getpid() in kill.processes(os.getpgid(0))
