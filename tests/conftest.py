"""Shared by all tests: one thread, the real commands in a folder of their own, and runs that many tests look at.

A process that imports torch and takes a step costs several seconds, so the runs here are made once a session.
"""

import functools
import gc
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

import plainloop
from plainloop.config import options
from tests import composing
from tests.warm import start

composing.remember()
ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_finish() -> None:
    """The million objects of torch stay for good: the collector needn't look through them again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # triton complains of leaks when Python ends and objects are still frozen


def one_in(number: int, rows: Iterable[Any]) -> list[Any]:
    """Rows for `parametrize` of which plain `pytest` tries one in so many; the others are slow tests."""
    return [row if place % number == 0 else slow(row) for place, row in enumerate(rows)]


def slow(row: Any) -> Any:
    """A row for `parametrize` that is a slow test."""
    values, name = (row.values, row.id) if hasattr(row, "marks") else (row if isinstance(row, tuple) else (row,), None)
    return pytest.param(*values, id=name, marks=pytest.mark.slow)


LONG = ("test_kill.py", "test_docs.py", "test_recipes.py", "test_fork.py", "test_benchmarks.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes comes first, so that no process is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name not in LONG)


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


class Typed:
    """`python SCRIPT words...`, typed in a folder as a user would; outputs/ comes to lie there.

    Args:
        cold: start Python anew, and don't fork a process that has the libraries: see warm.py.
    """

    def __init__(
        self, script: str, *words: str, folder: Path, env: dict[str, str] | None = None, cold: bool = False
    ) -> None:
        self.folder = folder
        self.out, self.err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        env = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        self.process = start([str(ROOT / script), *words], folder, env, self.out, self.err, cold)

    def said(self) -> str:
        """What stands on stderr by now."""
        return content(self.err)

    def ended(self, timeout: float = 300) -> Done:
        """Wait for its end; if it takes longer than so many seconds, end it with all that it has started."""
        try:
            status = self.process.wait(timeout)
        except BaseException:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        return Done(status, content(self.out), self.said(), self.folder)


def content(file: IO[bytes]) -> str:
    """All that stands in a file, whose position is left alone: a process that writes into it shares that."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode()


def command(script: str, *words: str, folder: Path, env: dict[str, str] | None = None, cold: bool = False) -> Done:
    """A command that is typed, and has ended."""
    return Typed(script, *words, folder=folder, env=env, cold=cold).ended()


@pytest.fixture
def type_command(tmp_path: Path) -> Callable[..., Done]:
    """`type_command("train.py", "model=mlp")` in an empty folder."""
    return functools.partial(command, folder=tmp_path)


def path_of(kind: type) -> str:
    """What `_target_` calls a class of the tests."""
    return f"{kind.__module__}.{kind.__qualname__}"


def copy_configs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of configs/ in a folder, which the engine takes for its own."""
    copy = Path(shutil.copytree(options.CONFIGS, folder / "configs"))
    for name, module in list(sys.modules.items()):
        if name.startswith("plainloop.") and hasattr(module, "CONFIGS"):
            monkeypatch.setattr(module, "CONFIGS", copy)
    return copy


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In-process runs write their outputs/ into the test's own folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session", autouse=True)
def no_power_cut() -> Iterator[None]:
    """Runs in this process needn't wait for the disk, which each does 25 times. (What must be synced before what is
    renamed is tested in runs/test_checkpoint.py.)"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A test that sets threads or determinism leaves nothing behind."""
    import torch  # not above: what starts pytest's processes needn't wait for it

    torch.set_num_threads(1)
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
