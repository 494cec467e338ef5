"""What the directories of runs tell, without building anything."""

import json
import math
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import plainloop
from plainloop.errors import Interrupted, MachineError, UserError
from plainloop.runs.checkpoint import Checkpoints
from plainloop.runs.directory import Busy, RunDir
from plainloop.runs.survey import Entry, records, settings, survey
from plainloop.training.callbacks import Callback
from plainloop.training.selection import Selection
from tests.conftest import path_of

QUICK = ("trainer.max_epochs=2", "logger=none", "console.every_epochs=100")


class Ends(Callback):
    """Raises in the second epoch what it is told to."""

    def __init__(self, how: str):
        self.how = how

    def on_epoch_end(self, trainer, record):
        if record["epoch"] == 2:
            raise {
                "signal": Interrupted("stopped by a signal and saved at step 80.", 15),
                "bug": KeyError("missing"),
                "disk": MachineError("the disk is full.\nmore"),
            }[self.how]


def entry_of(path: Path) -> Entry:
    (found,) = survey(path).runs
    return found


def ending(folder: Path, how: str) -> Path:
    """A run of three epochs that ends in its second one."""
    words = [*QUICK, "trainer.max_epochs=3", f"hydra.run.dir={folder}/run", f"callbacks.end._target_={path_of(Ends)}"]
    with pytest.raises((Interrupted, KeyError, MachineError)):
        plainloop.train([*words, f"callbacks.end.how={how}", f"trust=[{path_of(Ends)}]"])
    return folder / "run"


# --- a run that has finished ----------------------------------------------------------------------------------------


def test_a_finished_run_is_what_it_says(short_run):
    """The metrics to the last bit."""
    entry = entry_of(short_run.path)
    metrics = json.loads((short_run.path / "metrics.json").read_text())
    assert (entry.status, entry.error, entry.notes) == ("finished", "", [])
    assert entry.metrics | {"seconds": entry.seconds} == metrics
    assert entry.epochs == 3
    assert entry.typed == {"model", "trainer.max_epochs", "trainer.log_every", "paths.outputs"}
    assert entry.monitor == "val/accuracy"
    assert not entry.is_debug
    assert entry.started == pytest.approx((short_run.path / "composed.yaml").stat().st_mtime, abs=3)
    assert entry.name == short_run.path.name


@pytest.mark.parametrize("facts", [False, True])
def test_the_settings_are_those_that_omegaconf_reads(short_run, facts):
    """Word by word; numbers as numbers."""

    def flat(node, prefix=""):
        for name, value in node.items():
            if isinstance(value, dict) and value:
                yield from flat(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    whole = OmegaConf.to_container(OmegaConf.load(short_run.path / "composed.yaml"))
    choices = whole.pop("choices")
    if not facts:
        del whole["spec"]
    found = settings(RunDir(short_run.path), facts)
    expected = dict(flat(whole)) | choices
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, float | int) and not isinstance(value, bool):
            assert float(found[name]) == value, name
        elif value is None or isinstance(value, bool):
            assert found[name] == json.dumps(value), name
        elif isinstance(value, str):
            assert found[name] == value, name
        else:
            assert found[name].startswith(("[", "{")), name
    assert found["split.fractions"] == "[0.7,0.1,0.2]"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["model=mlp", "optimizer.lr=1e-3"],
        ["data.path='a b: c'", "name=a:", "model.hidden_sizes=[1,2]"],
        ["data.columns={a: 1}", "data.target='#x'", "trainer.max_epochs=2"],
        [f"data.path={'long ' * 40}end", "name="],
        ["name=größe", "data.path=a#b", "+hydra.x=1"],
    ],
)
def test_the_typed_keys_are_those_of_the_words(words, short_run, tmp_path):
    """However YAML has to write them."""
    path = Path(shutil.copytree(short_run.path, tmp_path / "run"))
    (path / "overrides.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(words)))
    assert entry_of(path).typed == {word.partition("=")[0] for word in words}


def test_a_trial_that_a_sweep_has_tested_has_its_numbers(short_run, tmp_path):
    path = Path(shutil.copytree(short_run.path, tmp_path / "0"))
    metrics = json.loads((path / "metrics.json").read_text())
    tested = {name: value for name, value in metrics.items() if name.startswith("test/")}
    (path / "metrics.json").write_text(json.dumps({n: v for n, v in metrics.items() if n not in tested}))
    assert not any(name.startswith("test/") for name in entry_of(path).metrics)
    (path / "evaluate-test-best.json").write_text(json.dumps(tested))
    assert {name: v for name, v in entry_of(path).metrics.items() if name.startswith("test/")} == tested


# --- one that has not ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "status", "error"),
    [
        ("signal", "interrupted", "stopped by a signal and saved at step 80."),
        ("bug", "failed", "KeyError: 'missing'"),
        ("disk", "failed", "the disk is full."),
    ],
)
def test_a_run_says_how_it_ended(how, status, error, tmp_path):
    begun = time.time()
    path = ending(tmp_path, how)
    entry = entry_of(path)
    assert (entry.status, entry.error, entry.epochs) == (status, error, 2)
    assert 0 < entry.seconds < time.time() - begun
    assert RunDir(path).is_locked() is False


@pytest.mark.slow
def test_a_run_that_is_resumed_says_anew_how_it_ends(tmp_path, monkeypatch):
    """What it took before counts."""
    path = ending(tmp_path, "bug")
    saved = Checkpoints(path / "checkpoints").last()[1]["seconds"]
    trust = f"trust=[{path_of(Ends)}]"
    with pytest.raises(KeyError):
        plainloop.train([f"resume={path}", trust])
    environment = json.loads((path / "environment.json").read_text())
    assert [each["seconds"] for each in environment["resumed"]] == [saved]
    assert entry_of(path).seconds > saved
    monkeypatch.setattr(Ends, "on_epoch_end", Callback.on_epoch_end)
    run = plainloop.train([f"resume={path}", trust])
    entry = entry_of(path)
    assert not (path / "ended.json").exists()
    assert (entry.status, entry.error, entry.epochs) == ("finished", "", 3)
    assert entry.seconds == run.metrics["seconds"]


def test_a_drawn_schedule_is_finished(tmp_path):
    run = plainloop.train(["debug=schedule", "trainer.max_epochs=1"])
    entry = entry_of(run.path)
    assert (entry.status, entry.metrics, entry.is_debug) == ("finished", {}, True)
    assert 0 < entry.seconds < 60


@contextmanager
def unfinished(run: Path, folder: Path) -> Iterator[Path]:
    """A copy of a run as a process leaves it that is killed before its end."""
    path = Path(shutil.copytree(run, folder / "killed"))
    (path / "metrics.json").unlink()
    yield path


def test_a_run_that_was_killed_is_interrupted_and_tells_its_best_so_far(short_run, tmp_path):
    """The same as the run itself has found."""
    with unfinished(short_run.path, tmp_path) as path:
        entry = entry_of(path)
    metrics = json.loads((short_run.path / "metrics.json").read_text())
    best = {name: value for name, value in metrics.items() if name.startswith(("val/", "best/"))}
    assert (entry.status, entry.epochs) == ("interrupted", 3)
    assert entry.metrics == best


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([(0.5, 1.0), (0.7, 0.9), (0.7, 0.8), (0.6, 0.1)], 3),  # of equal ones that of the lower loss
        ([(0.5, 1.0), (None, 0.1), (0.4, None)], 1),  # NaN is none
        ([(0.5, 1.0), (0.9, None), (0.6, 2.0)], 3),  # nor is what has no loss
    ],
)
def test_the_best_is_what_selection_takes(values, best, short_run, tmp_path):
    selection = Selection("val/accuracy", "max")
    for epoch, pair in enumerate(values, 1):
        value, loss = (math.nan if each is None else each for each in pair)
        selection.better(value, loss, epoch, epoch)
    with unfinished(short_run.path, tmp_path) as path:
        lines = [
            json.dumps({"step": n, "epoch": n, "train/epoch_loss": 1, "val/accuracy": value, "val/loss": loss})
            for n, (value, loss) in enumerate(values, 1)
        ]
        (path / "history.jsonl").write_text("\n".join(lines) + '\n{"step": 9, "val/accu')
        entry = entry_of(path)
    assert entry.metrics["best/epoch"] == selection.epoch == best


def test_a_run_whose_lock_is_held_is_running(short_run, tmp_path):
    with unfinished(short_run.path, tmp_path) as path:
        os.utime(path / "environment.json")
        began = entry_of(path).started
        lock = RunDir(path).lock()
        entry = entry_of(path)
        assert entry.status == "running"
        assert entry.seconds == pytest.approx(time.time() - began, abs=2)
        RunDir.unlock(lock)
        assert entry_of(path).status == "interrupted"


def test_a_killed_run_took_until_its_last_record(short_run, tmp_path):
    """After what it had taken when it was last continued."""
    with unfinished(short_run.path, tmp_path) as path:
        environment = json.loads((path / "environment.json").read_text())
        environment["time"] = "2026-11-21T12:00:00+0000"
        began = 1795262400  # by `date -d 2026-11-21T12:00:00Z +%s`
        for name in ("history.jsonl", "train.log"):
            os.utime(path / name, (began + 90, began + 90))
        (path / "environment.json").write_text(json.dumps(environment))
        assert entry_of(path).started == began
        assert entry_of(path).seconds == pytest.approx(90)
        environment["resumed"] = [{"time": "2026-11-21T12:01:00+0000", "seconds": 45.5}]
        (path / "environment.json").write_text(json.dumps(environment))
        assert entry_of(path).seconds == pytest.approx(45.5 + 30)
        del environment["resumed"][0]["seconds"]  # of an older plainloop's: nobody knows
        (path / "environment.json").write_text(json.dumps(environment))
        assert entry_of(path).seconds is None


def test_without_locks_nobody_says_that_it_was_interrupted(short_run, tmp_path, monkeypatch):
    import fcntl

    def refuse(*arguments):
        raise OSError("no locks here")

    with unfinished(short_run.path, tmp_path) as path:
        monkeypatch.setattr(fcntl, "flock", refuse)
        assert RunDir(path).is_locked() is None
        assert entry_of(path).status == "unfinished"


def test_whoever_asks_keeps_nobody_from_training(tmp_path):
    """Asking takes the lock for an instant; a run that starts in it waits. For one that trains it waits in vain."""
    import fcntl

    run, asking = RunDir(tmp_path), os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)
    threading.Timer(0.03, os.close, [asking]).start()
    held = run.lock()
    assert run.is_locked() is True
    begun = time.monotonic()
    with pytest.raises(Busy):
        run.lock()
    assert time.monotonic() - begun < 1
    RunDir.unlock(held)


# --- what else lies there -----------------------------------------------------------------------------------------


def test_what_is_no_run_is_passed_over_and_counted(short_run, tmp_path):
    """The largest folder without a run in it counts once."""
    shutil.copytree(short_run.path, tmp_path / "outputs/a/first")
    shutil.copytree(short_run.path, tmp_path / "outputs/a/sweep/0")
    for place in ("outputs/foreign/version_0/checkpoints", "outputs/a/notes", "outputs/.hydra"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.yaml").write_text("a: 1\n")
    (tmp_path / "outputs/empty/inside").mkdir(parents=True)
    (tmp_path / "outputs/a/linked").symlink_to(tmp_path / "outputs/a/first")
    (tmp_path / "outputs/readme.txt").write_text("hello")
    found = survey(tmp_path / "outputs")
    assert sorted(run.name for run in found.runs) == ["a/first", "a/sweep/0"]
    assert sorted(os.path.relpath(other, tmp_path) for other in found.others) == [
        "outputs/.hydra",
        "outputs/a/notes",
        "outputs/empty",
        "outputs/foreign",
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: [", "it isn't YAML"),
        ("model: {lr: 1}\n", "an older plainloop's"),
        ("- 1\n", "it is no mapping"),
        ("a: &x 1\nb: *x\n", "anchors or aliases"),
        ("a: " + "[" * 400 + "]" * 400, "can't be read"),
        ("a: \xff".encode("latin-1"), "it is no text"),
        ("#" * (5 << 20), "may have 4,194,304"),
        (None, "can't be read"),
    ],
)
def test_a_config_that_cannot_be_read_is_passed_over_with_the_reason(text, why, short_run, tmp_path):
    """A pipe isn't waited for."""
    path = Path(shutil.copytree(short_run.path, tmp_path / "run"))
    (path / "composed.yaml").unlink()
    if text is None:
        os.mkfifo(path / "composed.yaml")
    else:
        (path / "composed.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    found = survey(tmp_path)
    assert found.runs == []
    (other,) = found.others
    assert other.startswith(str(path / "composed.yaml"))
    assert why in other


@pytest.mark.parametrize("name", ["metrics.json", "ended.json", "environment.json", "overrides.yaml", "history.jsonl"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"time": "0001-01-01T00:00:00+14:00", "seconds": 1e999, "epochs": 1e999, "status": 5, "resumed": [3]}',
        b'{"val/accuracy": 1' + b"0" * 400 + b', "val/loss": [1], "epoch": NaN, "train/epoch_loss": 1, "error": {}}',
        b"[" * 100_000,
    ],
    ids=range(7),
)
def test_a_damaged_file_costs_no_more_than_itself(name, content, short_run, tmp_path):
    """The run is there all the same."""
    with unfinished(short_run.path, tmp_path) as path:
        (path / name).write_bytes(content)
        entry = entry_of(path)
    assert entry.settings["model"] == "mlp"
    assert len(entry.notes) <= 1
    if name == "metrics.json" and b"1e999" not in content and b"val" not in content:
        assert "metrics.json" in entry.notes[0]


def test_a_folder_that_is_not_there_is_answered():
    with pytest.raises(UserError, match="there is no such folder"):
        survey(Path("nowhere"))


def test_runs_stand_the_newest_first(short_run, tmp_path):
    for number in (2, 10, 9):
        path = Path(shutil.copytree(short_run.path, tmp_path / f"sweep/{number}"))
        environment = json.loads((path / "environment.json").read_text())
        (path / "environment.json").write_text(json.dumps(environment | {"time": "2026-01-01T00:00:00+0000"}))
    newer = Path(shutil.copytree(short_run.path, tmp_path / "a"))
    (newer / "environment.json").write_text('{"time": "2026-01-02T00:00:00+0000"}')
    without = Path(shutil.copytree(short_run.path, tmp_path / "z"))
    (without / "environment.json").unlink()
    found = survey(tmp_path)
    assert [run.name for run in found.runs] == ["a", "sweep/10", "sweep/9", "sweep/2", "z"]
    assert "environment.json is missing" in found.runs[-1].notes[0]


def test_records_are_the_history(short_run):
    """Line by line, and those that are asked for."""
    whole = list(records(RunDir(short_run.path)))
    assert whole == short_run.history()
    some = list(records(RunDir(short_run.path), containing=(b'"val/loss"',)))
    assert some == [record for record in whole if "val/loss" in record]
    assert len(some) == 3 < len(whole)
    assert torch.isfinite(torch.tensor([record["val/loss"] for record in some])).all()
