"""Each item of the saved state is needed: without it, a resumed run ends with other bits."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from plainloop.assembly.assemble import assemble
from plainloop.assembly.trainer import make_trainer
from plainloop.config.compose import compose
from plainloop.errors import MachineError, UserError
from plainloop.runs import checkpoint
from plainloop.runs.checkpoint import Checkpoints
from tests.promises.resume.runs import RUNS, Tally
from tests.resuming import differences, newest, records, resumed, unequal

# What is dropped from the checkpoint after which step of which run; "end": of a run that has finished but for its
# last measurement.
CONTROLS = {
    "model": ("smooth", 7),
    "average.model": ("smooth", 7),
    "average.count": ("smooth", 7),
    "task": ("smooth", 7),
    "optimizer.state": ("smooth", 7),
    "optimizer.param_groups": ("smooth", 7),
    "schedule.scheduler": ("smooth", 7),
    "schedule.count": ("rough", 4),
    "update.skipped": ("rough", 18),
    "losses.total": ("smooth", 7),
    "losses.count": ("smooth", 7),
    "losses.seen": ("smooth", 7),
    "best.value": ("rough", 8),
    "best.loss": ("rough", 8),
    "best.epoch": ("rough", 8),
    "best.step": ("rough", 8),
    "best.reference": ("rough", 8),
    "best.stale": ("rough", 8),
    "best.others": ("rough", 8),
    "train_batches.unreadable": ("rough", 18),
    "callbacks.tally": ("rough", 8),
    "position.epoch": ("rough", 8),
    "position.batch": ("rough", 8),
    "position.step": ("smooth", 7),
    "position.samples": ("smooth", "end"),
    "carried.epoch_loss": ("smooth", 7),
    "carried.epoch_samples": ("smooth", 7),
    "carried.last_values": ("smooth", "end"),
    "carried.last_train_loss": ("smooth", "end"),
    "carried.validated": ("rough", 4),
    "carried.stopped": ("rough", "end"),
    "loggers.history": ("smooth", 7),
    "loggers.tensorboard": ("logged", 5),
}
NOT_NEEDED = {
    "schedule.full_rates": "the config says them again",
    "preprocess.scale": "fitted to the same data again; needed when that has changed: see below",
    "preprocess.shift": "likewise",
    "train_batches.stream": "saves walking over what was read before: see below",
    "update.in_a_row": "when a run is given up: see below",
    "average.added": "when what belongs to an epoch's end is interrupted: test_averaging.py",
    "carried.over": "of a stream that is interrupted at its last epoch's end: see below",
    "carried.ended": "an end that is repeated adds nothing",
    "loggers.console": "has none",
    "seconds": "a clock's: see below",
    "fingerprint": "says whose checkpoint it is: see below",
}
OPENED = ("schedule", "update", "losses", "best", "train_batches", "loggers", "position", "carried", "callbacks",
          "preprocess", "optimizer", "average")  # fmt: skip


def fresh_state(name: str) -> dict[str, Any]:
    """What a trainer holds that has been given nothing."""
    session = assemble(compose(RUNS[name]))
    return {**make_trainer(session).state_dict(), "loggers": {"history": {"length": 0}, "tensorboard": {}}}


def items(state: dict[str, Any]) -> set[str]:
    """The state's keys, with those within the parts that are ours."""
    inner = {f"{part}.{name}" for part in OPENED for name in state[part] or ()}
    return inner | (set(state) - set(OPENED))


@pytest.mark.slow
def test_every_item_of_the_state_has_its_control(uninterrupted):
    """A new one can't be forgotten: either its loss is shown to matter, or a reason is given here."""
    names = ("smooth", "rough", "logged", "remembering", "means")
    found = set().union(*(items(newest(uninterrupted(name).path)) for name in names))
    assert found - set(NOT_NEEDED) == set(CONTROLS)


def without(state: dict[str, Any], item: str, fresh: dict[str, Any]) -> dict[str, Any]:
    """The state with an item as a fresh trainer would have it."""
    part, _, name = item.partition(".")
    return {**state, part: {**state[part], name: fresh[part][name]} if name else fresh[part]}


@pytest.mark.slow
@pytest.mark.parametrize("item", CONTROLS)
def test_without_any_item_the_bits_are_others(item, uninterrupted, tmp_path):
    name, step = CONTROLS[item]
    run = uninterrupted(name)
    if step == "end":
        path = Path(shutil.copytree(run.copies[-1], tmp_path / "copy"))
    else:
        path = run.interrupted(step, tmp_path)
    state = newest(path)
    dropped = without(state, item, fresh_state(name))
    assert unequal(state, dropped) != []
    checkpoint.save(Checkpoints(path / "checkpoints").all()[0], dropped)
    try:
        found = differences(run.path, resumed(path))
    except (MachineError, UserError):  # told, instead of going on
        return
    if step == "end":  # nothing is saved any more: that the spoiled checkpoint is another is no proof
        found = [place for place in found if not place.startswith("last")]
    assert found != []


def test_what_is_not_needed_is_there_again(uninterrupted):
    """The items with the reason that they are made again: a fresh trainer has the same bits."""
    for name in ("smooth", "rough"):
        saved, fresh = newest(uninterrupted(name).path), fresh_state(name)
        assert unequal(saved["preprocess"], fresh["preprocess"]) == []
        assert unequal(saved["schedule"]["full_rates"], fresh["schedule"]["full_rates"]) == []
        assert saved["loggers"]["console"] == {}


@pytest.mark.slow
def test_the_seconds_go_on(uninterrupted, tmp_path):
    path = uninterrupted("smooth").interrupted(7, tmp_path)
    checkpoint.save(Checkpoints(path / "checkpoints").all()[0], {**newest(path), "seconds": 1000.0})
    resumed(path)
    assert json.loads((path / "metrics.json").read_text())["seconds"] > 1000.0
    assert newest(path)["seconds"] > 1000.0


def test_a_callbacks_state_is_given_back_before_it_starts(uninterrupted, tmp_path, monkeypatch):
    run = uninterrupted("rough")
    seen = []
    monkeypatch.setattr(Tally, "on_start", lambda self, trainer: seen.append(list(self.steps)))
    path = run.interrupted(8, tmp_path)
    saved = newest(path)["callbacks"]["tally"]["steps"]
    resumed(path)
    assert seen == [saved]
    assert saved == [record["step"] for record in records(run.path) if record["step"] <= 8]
    assert newest(path)["callbacks"]["tally"]["steps"] == [record["step"] for record in records(run.path)]
