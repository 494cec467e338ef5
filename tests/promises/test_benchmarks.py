"""Every benchmark runs to its end, in its smallest form. What it measures beside other tests means nothing."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SMALLEST = {
    "loop.py": "--rounds 1 --case linear",
    "data.py": "--rounds 1",
    "throughput.py": "--rounds 1 --images 64 --pixels 64 48 --workers 1",
    "digests.py": "record --only points_line",
    "stream.py": "--megabytes 1",
    "startup.py": "--rounds 1 --only 'train.py --help'",
    "resuming.py": "--rounds 1",
    "exporting.py": "--only penguins",
    "predicting.py": "--rounds 1 --files 40 --many 80",
    "overfitting.py": "--seeds 1 --epochs 10 --only dropout SWA --picture picture.svg",
}


def test_none_is_forgotten():
    assert {path.name for path in (ROOT / "benchmarks").glob("*.py")} == {*SMALLEST, "kill.py"}  # see test_kill.py


@pytest.mark.slow
@pytest.mark.parametrize("script", SMALLEST)
def test_a_benchmark_runs(script, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *shlex.split(SMALLEST[script]), "--json", "figures.json"],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "figures.json").exists()
