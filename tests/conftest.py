"""Shared by all tests: one thread, the real commands in a folder of their own, and runs that many tests look at.

A process that imports torch and takes a step costs several seconds, so the runs here are made once a session.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import plainloop

ROOT = Path(__file__).resolve().parents[1]
torch.set_num_threads(1)


@dataclass
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str
    folder: Path

    @property
    def run(self) -> Path:
        """The run directory that it printed."""
        lines = [line for line in self.out.splitlines() if line.startswith("run     ")]
        return self.folder / lines[-1].removeprefix("run     ").strip()

    def metrics(self) -> dict[str, float]:
        return json.loads((self.run / "metrics.json").read_text())


def command(script: str, *words: str, folder: Path, env: dict[str, str] | None = None) -> Done:
    """Type `python SCRIPT words...` in a folder, as a user would; outputs/ comes to lie there."""
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *words],
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )
    return Done(done.returncode, done.stdout, done.stderr, folder)


@pytest.fixture
def type_command(tmp_path: Path) -> Callable[..., Done]:
    """`type_command("train.py", "model=mlp")` in an empty folder."""

    def typed(script: str, *words: str, env: dict[str, str] | None = None) -> Done:
        return command(script, *words, folder=tmp_path, env=env)

    return typed


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In-process runs write their outputs/ into the test's own folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def one_thread():
    """A test that sets threads or determinism leaves nothing behind."""
    yield
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def digits_command(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """`python train.py model=mlp`, typed once for all tests."""
    return command("train.py", "model=mlp", folder=tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory):
    """A run of three epochs on digits, trained in process, with TensorBoard."""
    folder = tmp_path_factory.mktemp("short")
    return plainloop.train(
        ["model=mlp", "trainer.max_epochs=3", "trainer.log_every=10", f"paths.outputs={folder}/outputs"]
    )
