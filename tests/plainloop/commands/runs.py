"""Quick runs, and what is compared of them."""

import shutil
from pathlib import Path

import plainloop
from plainloop.runs.checkpoint import Checkpoints


def trained(*overrides: str) -> plainloop.Run:
    """A quick run in process."""
    return plainloop.train(["trainer.max_epochs=2", "logger=none", *overrides])


def copy_of(run, folder: Path) -> Path:
    """A run directory that a test may spoil."""
    return Path(shutil.copytree(run.path, folder / "copy"))


def final_state(run) -> dict:
    return Checkpoints(run.path / "checkpoints").last()[1]


def comparable(run) -> list[dict]:
    """The history without what a clock measured."""
    return [{name: v for name, v in record.items() if name != "samples_per_second"} for record in run.history()]
