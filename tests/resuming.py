"""Runs that are interrupted, and what two finished runs don't have in common."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import plainloop
from plainloop.runs import checkpoint
from plainloop.runs.checkpoint import Checkpoints


@dataclass
class Watched:
    """A run that was never interrupted, and copies of its directory from just before each save and before the end."""

    run: plainloop.Run
    copies: list[Path]

    @property
    def path(self) -> Path:
        return self.run.path

    def interrupted(self, step: int, folder: Path, ended: bool = False) -> Path:
        """The directory as it was when step N was the last that had been saved; `ended`: and its epoch had ended."""
        for found in self.copies:
            position = newest(found)["position"]
            if position["step"] == step and (position["batch"] == 0) == ended:
                return Path(shutil.copytree(found, folder / f"interrupted-{step}"))
        raise AssertionError(f"nothing was saved at step {step}")


def watched(words: list[str], folder: Path) -> Watched:
    """Train, saving at every step."""
    copies: list[Path] = []
    save = Checkpoints.save

    def copied_before(self: Checkpoints, state: dict[str, Any], best: bool, steps: list[int]) -> None:
        if self.all():
            copies.append(Path(shutil.copytree(self.folder.parent, folder / str(len(copies)))))
        save(self, state, best, steps)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Checkpoints, "save", copied_before)
        run = plainloop.train([*words, "checkpoint.every_steps=1", f"hydra.run.dir={folder}/whole"])
    copies.append(Path(shutil.copytree(run.path, folder / str(len(copies)))))
    (copies[-1] / "metrics.json").unlink()  # it is written last
    return Watched(run, copies)


def resumed(path: Path, *words: str) -> Path:
    return plainloop.train([f"resume={path}", *words]).path


def newest(path: Path) -> dict[str, Any]:
    """The state in the last checkpoint of a run."""
    return Checkpoints(path / "checkpoints").last()[1]


def kept(path: Path) -> dict[str, dict[str, Any]]:
    """The states of the last and the best checkpoints, by their names, without what a clock measured."""
    files = {file.stem: file for file in Checkpoints(path / "checkpoints").all_best()}
    states = {"last": newest(path), **{name: checkpoint.load(file) for name, file in files.items()}}
    return {name: {key: part for key, part in state.items() if key not in CLOCKS} for name, state in states.items()}


def records(path: Path) -> list[dict[str, Any]]:
    """The history without what a clock measured."""
    lines = [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "samples_per_second"} for line in lines]


def unequal(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two nested values differ, in a key, a type or a single bit."""
    if type(one) is not type(other):
        return [f"{place}: {one!r:.40} and {other!r:.40}"]
    if isinstance(one, dict):
        if set(one) != set(other):
            return [f"{place}: keys {sorted(set(one) ^ set(other), key=str)}"]
        return [found for name in one for found in unequal(one[name], other[name], f"{place}.{name}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{place}: {len(one)} and {len(other)}"]
        pairs = enumerate(zip(one, other, strict=True))
        return [found for number, pair in pairs for found in unequal(*pair, f"{place}[{number}]")]
    if isinstance(one, Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and raw(one) == raw(other)
    elif isinstance(one, float):
        same = one.hex() == other.hex()
    else:
        same = one == other
    return [] if same else [f"{place}: {one!r:.40} and {other!r:.40}"]


def raw(tensor: Tensor) -> bytes:
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes()


CLOCKS = ("seconds", "loggers", "fingerprint")  # the loggers remember a file's length, which has rates in it


def curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of all curves, as TensorBoard reads them; nothing where there is none."""
    found = {}
    for folder in (path / "tensorboard").glob("*/"):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder))
        events.Reload()
        for tag in set(events.Tags()["scalars"]) - {"samples_per_second"}:
            found[f"{folder.name}/{tag}"] = [(event.step, event.value) for event in events.Scalars(tag)]
    return found


def differences(one: Path, other: Path) -> list[str]:
    """What two finished runs don't have in common: in their last and best states, their numbers, their history."""
    a, b = kept(one), kept(other)
    metrics = [json.loads((run / "metrics.json").read_text()) | {"seconds": 0} for run in (one, other)]
    files = [sorted(file.name for file in (run / "checkpoints").iterdir()) for run in (one, other)]
    return [
        *(found for name in {**a, **b} for found in unequal(a.get(name), b.get(name), name)),
        *unequal(*metrics, "metrics"),
        *unequal(records(one), records(other), "history"),
        *unequal(curves(one), curves(other), "curves"),
        *unequal(*files, "files"),
    ]
