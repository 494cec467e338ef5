"""Signals to the whole process group, as a terminal's Ctrl-C and a cluster's SIGTERM are sent, with workers loading."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import plainloop
from tests.conftest import ROOT


def ends(group: int, seconds: float) -> bool:
    """Whether every process of a group ends within this time."""
    for _ in range(int(seconds * 10)):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_a_signal_to_the_group_finishes_the_step_and_saves(number, tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "data=mine", "loader.num_workers=2", "trainer.max_epochs=100000",
         "logger=none", "checkpoint.every_epochs=null", "name=signalled"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        for line in process.stdout:
            if line.startswith("epoch 3/"):
                break
        os.killpg(process.pid, number)
        _, err = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + number
    assert "stopped by a signal and saved at step" in err
    assert "resume=outputs/signalled/" in err
    assert "Traceback" not in err
    assert ends(process.pid, seconds=30)  # no orphans
    saved = int(err.split("saved at step ")[1].split(".")[0])
    resumed = plainloop.train(["resume=latest", "trainer.max_epochs=5"])
    assert resumed.history()[-1]["step"] >= saved
