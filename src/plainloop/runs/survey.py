"""Every run below a folder, as its files tell: nothing is built, and torch isn't imported.

YAML is slow to read, and most of a run's config stands in another's to the letter: so a top-level part of it is read
once for all runs that have it.
"""

import functools
import json
import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from plainloop.errors import UserError, first_line
from plainloop.runs.directory import RunDir
from plainloop.runs.files import MOST_YAML, load_json, read_regular

MOST_HISTORY = 1 << 30  # bytes


@dataclass
class Entry:
    """A run, as its directory tells.

    Args:
        name: its path below the folder that was looked through.
        status: finished, running, interrupted (by a signal, or killed), failed; unfinished, where there are no locks to
            tell one that runs from one that was killed.
        settings: composed.yaml without the facts about the data, as it would be typed: {"model": "mlp",
            "model.dropout": "0", "optimizer.lr": "0.001", ...}; of a group, the option that was taken.
        typed: the keys that were set when it was started, or continued.
        metrics: the content of metrics.json; of a run that hasn't finished, its best validation so far. A number that
            isn't finite is NaN.
        epochs: whole ones, that are done.
        started: seconds since 1970; None where it isn't known.
        seconds: how long it took, or has taken by now; of a run that was killed, until its last record.
        error: why it failed.
        notes: what can't be read.
    """

    run: RunDir
    name: str
    status: str = "finished"
    settings: dict[str, str] = field(default_factory=dict)
    typed: frozenset[str] = frozenset()
    metrics: dict[str, float] = field(default_factory=dict)
    epochs: int | None = None
    started: float | None = None
    seconds: float | None = None
    error: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def monitor(self) -> str:
        """The validation quantity that selects its weights."""
        return self.settings.get("monitor", "val/loss")

    @property
    def is_debug(self) -> bool:
        return self.settings.get("debug", "null") != "null"


@dataclass
class Survey:
    """The runs below a folder, newest first; and what else lies there: the folders without a run in them, and the runs
    that can't be read, with the reason."""

    folder: Path
    runs: list[Entry]
    others: list[str]


def survey(folder: Path) -> Survey:
    """Look through a folder. Raises UserError where there is none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder. Runs are looked for in outputs/, or where you say.")
    paths, others = _run_directories(folder)
    runs = []
    for path in paths:
        try:
            runs.append(
                _entry(RunDir(path), str(path.relative_to(folder)) if path != folder else folder.resolve().name)
            )
        except UserError as error:
            others.append(str(error).rstrip("."))
    runs.sort(key=lambda entry: natural(entry.name), reverse=True)
    runs.sort(key=lambda entry: -math.inf if entry.started is None else entry.started, reverse=True)
    return Survey(folder, runs, others)


def natural(text: str) -> list[tuple[bool, int, str]]:
    """A key to sort by: trial 10 comes after trial 9."""
    pieces = re.findall(r"([0-9]{1,18})|([^0-9]+)", text)
    return [(not digits, int(digits or 0), word) for digits, word in pieces]


def _run_directories(folder: Path) -> tuple[list[Path], list[str]]:
    """The run directories below a folder; and the largest folders without one, but for empty ones. Links aren't
    followed."""
    runs: list[Path] = []
    filled: list[Path] = []
    for place, folders, files in os.walk(folder):
        if {"config.yaml", "composed.yaml"} <= {*files}:
            runs.append(Path(place))
            folders.clear()
        elif folders or files:
            filled.append(Path(place))
    around = {folder, *(parent for run in runs for parent in run.parents)}
    return runs, [f"{path}/" for path in filled if path not in around and path.parent in around]


def _entry(run: RunDir, name: str) -> Entry:
    """Raises UserError where its config can't be read; what else can't is a note."""
    entry = Entry(run, name, settings=settings(run))
    times: list[dict[str, Any]] = []
    for read in (_read_typed, _read_metrics, _read_end):
        try:
            read(entry)
        except UserError as error:
            entry.notes.append(str(error).rstrip("."))
    try:
        environment = load_json(run.environment, "")
        resumed = environment.get("resumed")
        times = [environment, *(resumed if isinstance(resumed, list) else [])]
        entry.started = _seconds_since_1970(environment.get("time"))
    except UserError as error:
        entry.notes.append(str(error).rstrip(". "))
    if entry.status != "finished":
        _read_history(entry)
        if entry.seconds is None and times:
            entry.seconds = _seconds_until_now(entry, times[-1], continued=len(times) > 1)
    return entry


# --- the config ---------------------------------------------------------------------------------------------------


def settings(run: RunDir, facts: bool = False) -> dict[str, str]:
    """What composed.yaml holds, as it would be typed. Raises UserError.

    Args:
        facts: with the section `spec`, the facts about the data; a vocabulary in it may be long.
    """
    found: dict[str, str] = {}
    choices: dict[str, str] = {}
    try:
        text = read_regular(run.composed, MOST_YAML).decode()
        for part in re.split(r"^(?=[A-Za-z_])", text, flags=re.MULTILINE):
            if part.startswith("choices:"):
                choices = _part(part.removeprefix("choices:"))
            elif facts or not part.startswith("spec:"):
                found |= _part(part)
    except yaml.YAMLError as error:
        raise UserError(f"{run.composed} can't be read: it isn't YAML") from error
    except (OSError, ValueError, RecursionError) as error:
        why = "it is no text" if isinstance(error, UnicodeDecodeError) else first_line(error)[:200]
        raise UserError(f"{run.composed} can't be read: {getattr(error, 'strerror', None) or why}") from error
    if "model" not in choices or "monitor" not in found:
        raise UserError(f"{run.composed} is no run's, or one of an older plainloop's: it doesn't say what was chosen")
    return found | choices


@functools.cache
def _part(text: str) -> dict[str, str]:
    """A part of a config, with all below it. Raises YAMLError, and ValueError for what isn't one."""
    node = _plain_yaml(text)
    if node is None or node == "":
        return {}  # a comment
    if not isinstance(node, dict):
        raise ValueError("it is no mapping")
    return dict(_flat(node, ""))


def _plain_yaml(text: str) -> Any:
    """Lists, dicts and words: no tag means anything. Raises YAMLError, and ValueError for anchors, of which plainloop
    writes none, and which can make much of little."""
    if "&" in text or "*" in text:
        for event in yaml.parse(text, Loader=LOADER):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise ValueError("it has anchors or aliases, and plainloop writes none")
    return yaml.load(text, Loader=LOADER)


LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def _flat(node: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in node.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _as_typed(value)


def _as_typed(value: Any) -> str:
    """Lists without spaces, and 0.5 for 5.0e-1."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{_as_typed(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(_as_typed, value))}]"
    if re.fullmatch(r"[+-]?\d+\.\d*(e[+-]?\d+)?", value):
        return repr(float(value)).removesuffix(".0")
    return str(value)


def _read_typed(entry: Entry) -> None:
    try:
        words = _words(read_regular(entry.run.overrides, MOST_YAML).decode())
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{entry.run.overrides} can't be read") from error
    entry.typed = words


SIMPLE = re.compile(r"(- [A-Za-z_][\w.]*=(\S*[^\s:])?\n)*")  # a list of words in which nothing means anything to YAML


@functools.cache
def _words(text: str) -> frozenset[str]:
    """The keys of a list of overrides."""
    if SIMPLE.fullmatch(text):
        return frozenset(line[2:].partition("=")[0] for line in text.splitlines())
    node = _plain_yaml(text)
    if not isinstance(node, list):
        raise ValueError("it is no list")
    return frozenset(str(word).partition("=")[0] for word in node)


def status_of(run: RunDir) -> str:
    """'finished', 'running', 'interrupted: ...', 'failed: ...' or 'unfinished', as of `Entry`."""
    entry = Entry(run, "")
    try:
        _read_metrics(entry)
        _read_end(entry)
    except UserError as error:
        return f"{entry.status} ({error})"
    return f"{entry.status}: {entry.error}" if entry.error else entry.status


# --- how it ended -------------------------------------------------------------------------------------------------


def _read_metrics(entry: Entry) -> None:
    """metrics.json: what says that a run is finished."""
    if not entry.run.metrics.is_file():
        locked = entry.run.is_locked()
        entry.status = {True: "running", False: "interrupted", None: "unfinished"}[locked]
        return
    found = entry.run.read_metrics()
    entry.metrics = {name: math.nan if value is None else value for name, value in found.items()}
    entry.seconds = entry.metrics.pop("seconds", None)
    entry.epochs = _whole(found.get("epochs"))
    measured = entry.run.path / "evaluate-test-best.json"  # of a trial: a sweep tests its winner alone
    if not any(name.startswith("test/") for name in entry.metrics) and measured.is_file():
        values = load_json(measured, "")
        entry.metrics |= {name: float(v) for name, v in values.items() if name.startswith("test/") and _is_number(v)}


def _read_end(entry: Entry) -> None:
    """ended.json: how a run without a result has ended, where it wasn't killed."""
    if entry.status in ("finished", "running") or not entry.run.ended.is_file():
        return
    found = load_json(entry.run.ended, "")
    if found.get("status") in ("finished", "failed", "interrupted"):
        entry.status = found["status"]
    entry.error = str(found.get("error", ""))[:1000]
    if _is_number(found.get("seconds")):
        entry.seconds = float(found["seconds"])


def _is_number(value: Any) -> bool:
    """Whether it is a finite one, of a size with which can be calculated."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _whole(value: Any) -> int | None:
    return int(value) if _is_number(value) else None


def _seconds_since_1970(text: Any) -> float | None:
    """Of the time that environment.json has."""
    try:
        found = datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError):
        return None
    return found if 0 < found < 1e11 else None


def _seconds_until_now(entry: Entry, newest: Any, continued: bool) -> float | None:
    """Of a run that isn't finished and doesn't say how long it took: what it had taken when it was last continued, and
    from then on until now, or its last record."""
    began = _seconds_since_1970(newest.get("time")) if isinstance(newest, dict) else None
    before: Any = newest.get("seconds") if continued and isinstance(newest, dict) else 0.0
    end = time.time()
    if entry.status != "running":
        end = max((file.stat().st_mtime for file in (entry.run.history, entry.run.log) if file.is_file()), default=0.0)
    if began is None or not _is_number(before) or end < began - 1:
        return None
    return before + max(0.0, end - began)


# --- its history --------------------------------------------------------------------------------------------------


def records(run: RunDir, containing: tuple[bytes, ...] = ()) -> Iterator[dict[str, float]]:
    """The numbers of history.jsonl, line by line; NaN where there is none. A line that isn't whole, as a process that
    was killed leaves it, is passed over. Raises UserError.

    Args:
        containing: lines without any of these needn't be read.
    """
    try:
        data = read_regular(run.history, MOST_HISTORY) if run.history.exists() else b""
    except (OSError, ValueError) as error:
        raise UserError(f"{run.history} can't be read: {first_line(error)[:200]}") from error
    for line in data.splitlines():
        if containing and not any(word in line for word in containing):
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield {name: float(value) if _is_number(value) else math.nan for name, value in record.items()}


def _read_history(entry: Entry) -> None:
    """Of a run that isn't finished: its best validation so far, and how far it has come."""
    sign = -1.0 if entry.settings.get("monitor_mode") == "max" else 1.0
    best: tuple[float, float] = (math.inf, math.inf)
    try:
        for record in records(entry.run, containing=(b'"val/', b'"train/epoch_loss"')):
            if "train/epoch_loss" in record and "epoch" in record:
                entry.epochs = _whole(record["epoch"])
            value, loss = sign * record.get(entry.monitor, math.nan), record.get("val/loss", math.nan)
            if not math.isnan(loss) and (value, loss) < best:
                best = (value, loss)
                entry.metrics = {name: value for name, value in record.items() if name.startswith("val/")}
                for name in ("epoch", "step"):
                    if (place := _whole(record.get(name))) is not None:
                        entry.metrics[f"best/{name}"] = place
    except UserError as error:
        entry.notes.append(str(error).rstrip("."))
