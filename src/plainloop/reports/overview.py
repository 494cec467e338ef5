"""The table of all runs: which are shown, in which order, and with which columns."""

import fnmatch
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from plainloop.config.options import groups
from plainloop.errors import UserError, counted, did_you_mean, listed
from plainloop.loggers.console import short
from plainloop.reports import tables
from plainloop.runs.survey import Entry, Survey, natural

# What is known of every run, beside its metrics and its settings.
KNOWN: dict[str, Callable[[Entry], str | float | None]] = {
    "run": lambda entry: entry.name,
    "status": lambda entry: entry.status,
    "started": lambda entry: entry.started,
    "seconds": lambda entry: entry.seconds,
    "epochs": lambda entry: entry.epochs,
    "error": lambda entry: entry.error,
}
# Settings by which runs differ without having been made differently; shown where somebody has typed them.
ASIDE = re.compile(r"(paths|console|logger|hydra)\.|(name|test|trust|resume|resume_inexact|monitor_mode|debug)$")
# Where the highest isn't the best: of what isn't monitored, as far as a name tells.
LOWEST = re.compile(r"loss|error|deviation|perplexity|(^|[/_])(mae|mape|mse|rmse|nll|ece|wer|cer)$")


def value_of(entry: Entry, key: str) -> str | float | None:
    """What a run has under a key; None where it has nothing."""
    if key in KNOWN:
        return KNOWN[key](entry)
    value = entry.metrics.get(key)
    return entry.settings.get(key) if value is None else None if math.isnan(value) else value


# --- which, and in which order ------------------------------------------------------------------------------------

COMPARED: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip


def filtered(runs: Sequence[Entry], conditions: str) -> tuple[list[Entry], str]:
    """The runs that meet all conditions, `model=cnn,optimizer.lr<1e-2,status!=failed`; a run that lacks the key meets
    none but `!=`. And where none is left, what there is instead. Raises UserError."""
    everyone = runs
    for condition in _split(conditions):
        match = re.fullmatch(r"\s*([^\s=!<>]+)\s*(!=|<=|>=|==|=|<|>)\s*(.*?)\s*", condition, re.DOTALL)
        if match is None:
            raise UserError(f"filter={condition}: a condition is written KEY=VALUE, or with !=, <, <=, >, >=.")
        key, sign, wanted = match.groups()
        _check_known(everyone, key, f"filter={condition}")
        if key == "started":
            wanted = str(_time(wanted, condition))
        if sign in COMPARED and _number(wanted) is None:
            raise UserError(f"filter={condition}: {sign} compares numbers, and {wanted or 'nothing'} is none.")
        before, runs = runs, [entry for entry in runs if _meets(value_of(entry, key), sign, wanted)]
        if before and not runs:
            there = Counter(str(value_of(entry, key)) for entry in before).most_common()
            return [], f"no run has {condition}; {key} is {listed(f'{value} ({count})' for value, count in there)}"
    return list(runs), ""


def _time(text: str, condition: str) -> float:
    """2026-11-21 or 2026-11-21T13:00, as seconds since 1970."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError) as error:
        raise UserError(f"filter={condition}: a time is written 2026-11-21 or 2026-11-21T13:00.") from error


def _split(conditions: str) -> list[str]:
    """At commas, but not at those in brackets: model.hidden_sizes=[128,64]."""
    parts, depth = [""], 0
    for sign in conditions:
        depth += (sign in "[{(") - (sign in "]})")
        if sign == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def _meets(value: str | float | None, sign: str, wanted: str) -> bool:
    if value is None:
        return sign == "!="
    number, other = _number(value), _number(wanted)
    if sign in COMPARED:
        return number is not None and other is not None and COMPARED[sign](number, other)
    equal = number == other if None not in (number, other) else _same_word(str(value), wanted)
    return equal != (sign == "!=")


def _same_word(value: str, wanted: str) -> bool:
    """Or one that a pattern fits: model=res*. The brackets of a list are no pattern's."""
    return value == wanted or fnmatch.fnmatchcase(value, wanted.replace("[", "[[]"))


def _number(value: str | float) -> float | None:
    """None for a word, and for NaN, which is neither more nor less than anything."""
    try:
        number = float(value)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def _check_known(runs: Sequence[Entry], key: str, typed: str) -> None:
    """Raises UserError for a key that no run has, with those that may have been meant."""
    names = {**dict.fromkeys(KNOWN), **{name: None for run in runs for name in (*run.metrics, *run.settings)}}
    if key in names or not runs:
        return
    same_end = [name for name in names if re.search(rf"[./]{re.escape(key)}$", name)]
    hint = f" Did you mean {listed(same_end, 4).replace(', ', ' or ')}?" if same_end else did_you_mean(key, names)
    metrics = sorted({name for run in runs for name in run.metrics if name.startswith(("val/", "test/"))})
    raise UserError(f"{typed}: no run has {key}.{hint or f' Metrics: {listed(metrics)}.'}")


def ordered(runs: Sequence[Entry], word: str, everyone: Sequence[Entry]) -> tuple[list[Entry], str]:
    """The runs by a metric (the best first), or by something else (the least first); `-KEY` turns it round. Those that
    lack it come last. And the order in words. Raises UserError for a key that nobody has, be it shown or not."""
    key = word.removeprefix("-")
    _check_known(everyone, key, f"sort={word}")
    is_metric = key not in KNOWN and any(key in run.metrics for run in runs)
    downwards = (is_metric and _is_best_when_high(runs, key)) != word.startswith("-")
    values = [(value, run) for run in runs if (value := value_of(run, key)) is not None]
    numbers = [(_number(value), value, run) for value, run in values]
    if any(number is None for number, _, _ in numbers):
        numbers.sort(key=lambda row: natural(str(row[1])), reverse=downwards)
    else:
        numbers.sort(key=lambda row: row[0], reverse=downwards)  # type: ignore[arg-type, return-value]
    found = [run for _, _, run in numbers]
    rest = [run for run in runs if value_of(run, key) is None]
    return [*found, *rest], f"the {'highest' if downwards else 'lowest'} {key} first"


def _is_best_when_high(runs: Iterable[Entry], key: str) -> bool:
    """As the runs say that monitor this quantity, of whatever split."""
    for run in runs:
        if run.monitor.rpartition("/")[2] == key.rpartition("/")[2] and run.settings.get("monitor_mode") != "auto":
            return run.settings.get("monitor_mode") == "max"
    return not LOWEST.search(key) and not key.startswith("best/")


# --- what differs -------------------------------------------------------------------------------------------------


def differing(runs: Sequence[Entry]) -> tuple[list[str], list[str]]:
    """The settings that aren't equal in all runs: those to look at, and those that follow from them.

    What somebody has typed comes first, and is never said to follow. The rest follows where the option of a group that
    was chosen tells it: the task of data=penguins, the layers of model=cnn.
    """
    typed = {name for run in runs for name in run.typed}
    options = {*groups()}
    values: dict[str, list[str | None]] = {}
    for name in {name: None for run in runs for name in run.settings}:
        if name not in typed and ASIDE.match(name):
            continue
        column = [run.settings.get(name) for run in runs]
        if any(value != column[0] for value in column):
            values[name] = column
    shown = sorted((name for name in values if name in typed), key=lambda name: name not in options)
    chosen = [name for name in shown if name in options]
    follow = []
    for name in sorted(values.keys() - typed, key=list(values).index):
        if any(_follows(values[name], values[option]) for option in chosen):
            follow.append(name)
        else:
            shown.append(name)
    return shown, follow


def _follows(column: Sequence[str | None], option: Sequence[str | None]) -> bool:
    return len({*zip(option, column, strict=True)}) == len({*option})


# --- the table ----------------------------------------------------------------------------------------------------

IN_OTHERS = ("debug", "name", "trainer.max_epochs")  # of the settings, those that stand in other columns
STAMP = re.compile(r"(sweep-)?\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-(?=[0-9a-f]{4}(/|$))")


def for_people(
    runs: Sequence[Entry], width: int = 0, sorted_by: str | None = None
) -> tuple[tables.Rows, int, list[str]]:
    """The lines of the table, the number of its columns of words, and what is left out, in words.

    Args:
        sorted_by: has a column, whatever it is.
        width: of the terminal. Where the table is wider, names are shortened, and if need be the least important
            columns are left out. 0: any.
    """
    differ, follow = differing(runs)
    settings = [name for name in differ if name not in IN_OTHERS]
    metrics = _metrics_shown(runs)
    columns = ["run", "status", *settings, "epochs", "best/epoch", *metrics, "seconds"]
    if sorted_by is not None and sorted_by not in columns:
        columns.append(sorted_by)
    columns = [
        name for name in columns if name in ("run", "status") or any(for_reading(run, name) != "-" for run in runs)
    ]
    cells = {name: [_head(name), *(cut(for_reading(run, name), 200) for run in runs)] for name in columns}
    kept, notes = columns, []
    if width and _widths(cells, columns) > width:
        cells = {name: _shortened(name, column, columns) for name, column in cells.items()}
        first = [sorted_by] if sorted_by not in (None, "run", "status") else []
        kept = _fitting(cells, dict.fromkeys([*first, *_by_weight(runs, settings, metrics)]), width)
    if len(kept) < len(columns):
        wide = [name for name in columns if name not in kept]
        notes.append(f"too wide for this terminal: {listed(wide, 8)} (format=csv has all)")
    if follow:
        chosen = [name for name in differ if name in groups()]
        notes.append(f"also differ, by the choice of {listed(chosen)}: {listed(follow, 5)}")
    words = [name for name in kept if name in ("run", "status", *settings)]
    return list(zip(*(cells[name] for name in kept), strict=True)), len(words), notes


def _metrics_shown(runs: Sequence[Entry]) -> list[str]:
    """What is monitored, and the same of the test split."""
    monitors = [name for name, _ in Counter(run.monitor for run in runs).most_common()]
    both = [each for name in monitors for each in (name, name.replace("val/", "test/", 1))]
    return [name for name in dict.fromkeys(both) if any(name in run.metrics for run in runs)]


def _by_weight(runs: Sequence[Entry], settings: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """The columns after the first two, what is most important first: of the settings, what divides the runs most."""

    def apart(name: str) -> int:
        return len(runs) - Counter(run.settings.get(name) for run in runs).most_common(1)[0][1]

    settings = sorted(settings, key=apart, reverse=True)
    few = [*metrics[:1], *settings[:3], *metrics[1:2], "seconds", "best/epoch"]
    return [*few, *settings[3:], "epochs", *metrics[2:]]


def _widths(cells: Mapping[str, Sequence[str]], names: Iterable[str]) -> int:
    return sum(2 + max(map(tables.places, cells[name])) for name in names) - 2


def _shortened(name: str, column: Sequence[str], columns: Sequence[str]) -> list[str]:
    """`digits_mlp/...297f`, by whose end a run can be named; `lr` for optimizer.lr, where no other column ends so."""
    head, *cells = column
    end = head.rpartition(".")[2]
    if name == "run":
        return [head, *(STAMP.sub("...", cell) for cell in cells)]
    unique = [other.rpartition(".")[2] for other in columns].count(end) == 1
    return [end if unique else head, *(cut(cell, 24) for cell in cells)]


def _fitting(cells: dict[str, list[str]], by_weight: Iterable[str], width: int) -> list[str]:
    """The columns that have room. The first two, of each run its name and status, always have: the name is cut."""
    kept = ["run", "status"]
    for name in (name for name in by_weight if name in cells):
        if _widths(cells, [*kept, name]) <= width:
            kept.append(name)
    room = max(12, width - _widths(cells, ["status"]) - 2)
    cells["run"] = [cell if len(cell) <= room else f"...{cell[len(cell) - room + 3 :]}" for cell in cells["run"]]
    return [name for name in cells if name in kept]


def _head(name: str) -> str:
    return {"seconds": "time", "best/epoch": "best"}.get(name, name)


def for_reading(run: Entry, name: str) -> str:
    """A cell; '-' where there is nothing."""
    value = value_of(run, name)
    if value in (None, "", "null"):
        return "-"
    if name == "status" and run.is_debug:
        return f"{value}, debug"
    if name == "epochs":
        steps = run.settings.get("trainer.max_steps", "null") != "null"
        return f"{value}" if steps else f"{value}/{run.settings.get('trainer.max_epochs', '?')}"
    if name == "seconds":
        return lasted(float(value))
    if name == "started":
        return datetime.fromtimestamp(float(value)).strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return short(value)
    text = tables.in_one_line(str(value))
    return f"{float(text):.6g}" if len(text) > 10 and re.fullmatch(r"-?\d*\.\d+(e-?\d+)?", text) else text


def cut(text: str, most: int) -> str:
    """With its middle left out, where it is long."""
    return text if len(text) <= most else f"{text[: most // 2 - 2]}...{text[len(text) - (most - most // 2 - 1) :]}"


def lasted(seconds: float) -> str:
    """'0.5 s', '12 min', '3.2 h', '2.5 d'."""
    units = (("s", 1, 100), ("min", 60, 100), ("h", 3600, 48), ("d", 86400, math.inf))
    unit, number = next((unit, seconds / size) for unit, size, most in units if seconds / size < most)
    return f"{number:.{0 if number >= 9.95 else 1}f} {unit}"


def for_programs(runs: Sequence[Entry]) -> tables.Rows:
    """Every column, in full precision; nothing stands where there is nothing."""
    settings, follow = differing(runs)
    metrics = {name: None for run in runs for name in run.metrics}
    columns = ["run", "status", "started", "seconds", "epochs", "debug", *settings, *follow, *metrics, "error"]
    columns = list(dict.fromkeys(columns))
    return [columns, *([exactly(run, name) for name in columns] for run in runs)]


def exactly(run: Entry, name: str) -> str:
    value = run.metrics.get(name, value_of(run, name))
    if name == "run":
        return str(run.run)
    if name == "started" and isinstance(value, float):
        return datetime.fromtimestamp(value, UTC).isoformat()
    return "" if value is None else str(value)


# --- in words -----------------------------------------------------------------------------------------------------


def failures(runs: Sequence[Entry], most: int = 3) -> list[str]:
    """Why runs have failed, of the first few."""
    failed = [run for run in runs if run.status == "failed" and run.error]
    lines = [f"failed: {run.name}: {cut(run.error.splitlines()[0], 200)}" for run in failed[:most]]
    return [
        *lines,
        *([f"and {len(failed) - most} more have failed (format=csv has all)"] if len(failed) > most else []),
    ]


def summed_up(found: Survey, runs: Sequence[Entry], order: str, conditions: str | None) -> str:
    """The last line: how many there are, in which state, and what was passed over."""
    states = ", ".join(f"{count:,} {status}" for status, count in Counter(run.status for run in runs).most_common())
    total = counted(len(found.runs), "run")
    count = f"{len(runs):,} of {total}" if conditions else total
    line = f"{count} in {found.folder}{f' ({states})' if states else ''}"
    line += f", {order}" if len(runs) > 1 else ""
    if found.others:
        line += f"; {len(found.others):,} passed over (no runs, or none that can be read): {listed(found.others, 3)}"
    return line
