"""Runs that many tests look at."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import plainloop


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`trained(*QUICK)`: the directory of a finished run, trained once and for all; tests spoil copies of it."""
    made: dict[tuple[str, ...], Path] = {}

    def train(*words: str) -> Path:
        if words not in made:
            made[words] = tmp_path_factory.mktemp("trained")
            plainloop.train([*words, f"hydra.run.dir={made[words]}"])
        return made[words]

    return train


@pytest.fixture
def copied(trained, tmp_path: Path) -> Callable[..., Path]:
    """`copied(*QUICK)`: a copy of such a run, to be spoilt."""
    return lambda *words: Path(shutil.copytree(trained(*words), tmp_path / "run"))
