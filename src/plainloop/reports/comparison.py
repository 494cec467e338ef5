"""A few runs beside each other: the keys by which they differ, their results, and their curves."""

import json
import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from plainloop.config.options import groups
from plainloop.errors import UserError, counted, listed
from plainloop.reports import tables
from plainloop.reports.overview import cut, exactly, for_reading
from plainloop.reports.plot import plot
from plainloop.reports.svg import Point, curves
from plainloop.runs.files import load_json
from plainloop.runs.survey import Entry, Survey, records, settings

MOST = len(string.ascii_uppercase)  # runs, each with a letter
RESULTS = ("status", "error", "started", "seconds", "epochs")
# Of environment.json, what says nothing of what was made, or stands elsewhere.
NO_MATTER = ("time", "command", "working_directory", "seed", "resumed")


def named(found: Survey, names: str) -> list[Entry]:
    """The runs that are named by commas: each by its path, its name below the folder, a part of it that no other has,
    or `latest`. Raises UserError."""
    words = [word.strip().rstrip("/") for word in names.split(",")]
    if not 2 <= len(words) <= MOST:
        raise UserError(f"compare={names}: two to {MOST} runs are compared, named by commas.")
    runs = [_named(found, word) for word in words]
    if len({run.name for run in runs}) < len(runs):
        twice = next(run.name for run in runs if runs.count(run) > 1)
        raise UserError(f"compare={names}: {twice} is named twice.")
    return runs


def _named(found: Survey, word: str) -> Entry:
    newest = [run for run in found.runs if not run.is_debug]
    if word == "latest" and newest:
        return newest[0]
    for run in found.runs:
        if word in (run.name, str(run.run), str(run.run.path)):
            return run
    matches = [run for run in found.runs if word and run.name.endswith(word)]
    matches = matches or [run for run in found.runs if word and word in run.name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(
            f"compare={word}: {len(matches)} runs are called so: {listed((run.name for run in matches), 4)}"
        )
    near = listed((run.name for run in found.runs), 5)
    raise UserError(f"compare={word}: no run in {found.folder} is called so. There are: {near or 'none'}.")


def differences(runs: Sequence[Entry], most: int | None = 40) -> tables.Rows:
    """A line for each key of the config that isn't equal in all runs (what was typed first, then the options that were
    chosen), and for what else they were made with.

    Args:
        most: letters of a value; None: all of them.
    """
    typed, options = {name for run in runs for name in run.typed}, groups()
    configs = [_whole_config(run) for run in runs]
    names = dict.fromkeys(name for config in configs for name in config)
    lines = []
    for name in sorted(names, key=lambda name: (name not in typed, name not in options, name.startswith("spec."))):
        values = [config.get(name, "") for config in configs]
        if any(value != values[0] for value in values):
            lines.append([name, *(values if most is None else [cut(value, most) or "-" for value in values])])
    return lines


def results(runs: Sequence[Entry], most: int | None = 40) -> tables.Rows:
    """A line for each quantity that one of the runs has.

    Args:
        most: letters of a value; None: all, and numbers in full.
    """
    metrics = dict.fromkeys(name for run in runs for name in run.metrics)
    names = [name for name in dict.fromkeys([*RESULTS, *metrics]) if any(exactly(run, name) for run in runs)]
    return [
        [name, *(exactly(run, name) if most is None else cut(for_reading(run, name), most) for run in runs)]
        for name in names
    ]


def _whole_config(run: Entry) -> dict[str, str]:
    """With the facts about the data, which take the place of what refers to them, and what the run was made with."""
    config = {name: value for name, value in settings(run.run, facts=True).items() if not name.startswith("paths.")}
    for name, value in config.items():
        if match := re.fullmatch(r"\$\{([\w.]+)\}", value):
            config[name] = config.get(match[1], value)
    try:
        environment = load_json(run.run.environment, "")
    except UserError:
        return config
    diff = environment.pop("git_diff", None)
    environment["uncommitted changes"] = f"{len(diff.splitlines())} lines" if isinstance(diff, str) and diff else "none"
    return config | {f"environment: {name}": value for name, value in _flat(environment) if name not in NO_MATTER}


def _flat(environment: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """With the versions among the rest."""
    versions = environment.get("versions")
    for name, value in (*environment.items(), *(versions.items() if isinstance(versions, dict) else ())):
        if not isinstance(value, dict):
            yield name, value if isinstance(value, str) else json.dumps(value)


# --- curves -------------------------------------------------------------------------------------------------------


def quantities(runs: Sequence[Entry]) -> tuple[dict[str, dict[int, list[Point]]], str]:
    """The points of each quantity that is measured with an epoch or a validation, by the number of the run and in the
    order of their x; and what that is: epochs, or steps where a run has several points in an epoch."""
    read = [list(records(run.run, containing=(b'"val/', b'"train/epoch_loss"'))) for run in runs]
    by_epoch = all(
        len(points) == len({record.get("epoch") for record in points})
        for each in read
        for name in dict.fromkeys(name for record in each for name in record)
        for points in [[record for record in each if name in record]]
    )
    x = "epoch" if by_epoch else "step"
    first = [*dict.fromkeys(run.monitor for run in runs), "val/loss", "train/epoch_loss"]
    names = dict.fromkeys([*first, *(name for each in read for record in each for name in record)])
    found: dict[str, dict[int, list[Point]]] = {}
    for name in names:
        if name.startswith(("val/", "train/")):
            lines = {}
            for number, made in enumerate(read):
                points = [
                    (each[x], each[name]) for each in made if name in each and math.isfinite(each.get(x, math.nan))
                ]
                if points:
                    lines[number] = sorted(points, key=lambda point: point[0])
            if lines:
                found[name] = lines
    return found, x


def in_letters(runs: Sequence[Entry], width: int, most: int = 2) -> str:
    """The curves of the first few quantities, for a terminal."""
    found, x = quantities(runs)
    parts = []
    for name, lines in list(found.items())[:most]:
        finite = {
            string.ascii_uppercase[number]: [point for point in line if math.isfinite(point[1])]
            for number, line in lines.items()
        }
        lost = sum(map(len, lines.values())) - sum(map(len, finite.values()))
        parts.append(f"{name}  ({counted(lost, 'point')} not drawn: not a finite number)" if lost else name)
        parts.append(plot(finite, x, width))
    return "\n".join(parts)


def drawn(runs: Sequence[Entry]) -> list[str]:
    """All curves, for a page; with the best validation marked."""
    found, x = quantities(runs)
    names = labels(runs)
    figures = []
    for name, lines in found.items():
        marks = {}
        for number, run in enumerate(runs):
            place, value = run.metrics.get(f"best/{x}"), run.metrics.get(name)
            if name == run.monitor and place is not None and value is not None:
                marks[f"best of {string.ascii_uppercase[number]}"] = (place, value)
        series = {label: lines.get(number, []) for number, label in enumerate(names)}
        figures.append(curves(series, name, x, "", marks))
    return figures


def labels(runs: Sequence[Entry]) -> list[str]:
    """'A  digits_mlp/...': a letter, and the run that it stands for."""
    return [f"{letter}  {run.name}" for letter, run in zip(string.ascii_uppercase, runs, strict=False)]
