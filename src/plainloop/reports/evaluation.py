"""What an evaluation shows: each metric with its interval and that of a trivial model, where the model fails, and its
samples, worst first."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from plainloop.assembly.session import Session
from plainloop.data.dataset import beneath, file_of, place_of, size
from plainloop.errors import counted, tell
from plainloop.reports import tables
from plainloop.reports.rows import Row, RowFile
from plainloop.tasks.answered import Answered, Difference
from plainloop.tasks.breakdown import Table
from plainloop.tasks.intervals import Interval

MOST_ROWS = 12  # of a table on the terminal


@dataclass
class Evaluation:
    """What was measured on a split.

    Args:
        split: "train", "val" or "test".
        values: {"loss": ..., "accuracy": ...}.
        answered: its samples.
        places: their indices in the split.
        column, where: what each is called beside its index, as "file", and that of an index; "" for nothing.
        count: samples.
        intervals: 95 %, of the values that have one.
        baseline: the values of a model that knows nothing of the inputs.
        tables: where the model fails.
    """

    split: str
    values: Mapping[str, float]
    answered: Answered
    places: Sequence[int]
    column: str
    where: Callable[[int], Any]
    count: int = 0
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    baseline: Mapping[str, float] = field(default_factory=dict)
    tables: Sequence[Table] = ()

    @property
    def named(self) -> dict[str, float]:
        """{"test/loss": ..., "test/accuracy": ...}"""
        return {f"{self.split}/{name}": value for name, value in self.values.items()}


def of(session: Session, split: str, values: Mapping[str, float], answered: Answered) -> Evaluation:
    """What was measured on a split of a run's own data, and all that follows from it."""
    column, where = _places(session.data[split], split)
    there = size(session.data[split])
    if there is not None and answered.count > there:  # a collate function of the user's has made more of them
        column, where = "", lambda index: index
    return of_samples(split, values, answered, indices(session, split, answered.count), column, where)


def of_samples(
    split: str,
    values: Mapping[str, float],
    answered: Answered,
    places: Sequence[int],
    column: str,
    where: Callable[[int], Any],
) -> Evaluation:
    """The same of any samples; the arguments are those of `Evaluation`."""
    found = answered.intervals(), answered.baseline(), answered.tables()
    return Evaluation(split, values, answered, places, column, where, answered.count, *found)


def say(found: Evaluation) -> None:
    """The numbers for the terminal."""
    head = ["", found.split, "95 % interval", "baseline"] if found.baseline else ["", found.split, "95 % interval"]
    rows = [head]
    for name, value in found.values.items():
        row = [name, f"{value:.4f}", interval(found.intervals.get(name))]
        rows.append([*row, _number(found.baseline.get(name))] if found.baseline else row)
    _table(tables.table(rows))
    if found.answered.note:
        tell(f"note    {found.answered.note}", sys.stdout)
        return
    tell(f"n       {found.count:,} samples{_meaning(found)}", sys.stdout)
    for shown in found.tables:
        worst = [] if shown.kind == "reliability" else shown.rows
        if len(worst) > MOST_ROWS:
            worst = sorted(worst, key=lambda row: row[-1])[:MOST_ROWS]
        more = f", the lowest {MOST_ROWS} of {len(shown.rows)}" if 0 < len(worst) < len(shown.rows) else ""
        tell(f"        {shown.title}{more}{f': {shown.note}' if shown.note else ''}", sys.stdout)
        if worst:
            _table(tables.table([shown.columns, *([_number(value) for value in row] for row in worst)]))


def say_differences(found: Mapping[str, Difference], first: str, second: str) -> None:
    """Two runs beside each other, for the terminal."""
    tell(f"\nA       {first}\nB       {second}", sys.stdout)
    rows = [["", "A", "B", "B - A", "95 % interval", "McNemar's p", ""]]
    for name, each in found.items():
        low, high = each.interval
        verdict = {1: "B is better", -1: "A is better", 0: "can't be told apart", None: ""}[each.better]
        if each.first == each.second and not math.isfinite(low):
            verdict = "equal"
        test = "-" if each.probability is None else f"{each.probability:.2g}"
        between = f"{low:+.4f} to {high:+.4f}" if math.isfinite(low) else "-"
        apart = f"{each.second - each.first:+.4f}"
        rows.append([name, _number(each.first), _number(each.second), apart, between, test, verdict])
    _table(tables.table(rows))
    tell("        of the same samples, drawn again in pairs", sys.stdout)


def _meaning(found: Evaluation) -> str:
    """What the columns are."""
    if not found.baseline:
        why = (
            "the training targets aren't read for it"
            if found.split == "new"
            else "for this task, or data, none is known"
        )
        return f"; no baseline: {why}"
    return "; baseline: a model that knows how the targets are spread in train, and no inputs"


def _table(lines: str) -> None:
    for line in lines.splitlines():
        tell(f"        {line}", sys.stdout)


def interval(bounds: Interval | None) -> str:
    """'0.93 to 0.97', with the digits that tell the two apart."""
    if bounds is None or not all(map(math.isfinite, bounds)):
        return "-"
    low, high = bounds
    return f"{low:.4f} to {high:.4f}"


def _number(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return str(value) if not isinstance(value, float) else f"{value:.4f}" if abs(value) < 1e4 else f"{value:.6g}"


def details(found: Evaluation) -> dict[str, Any]:
    """The same for a file of JSON, beside the values."""

    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {
        "samples": found.count,
        "intervals": {name: [plain(bound) for bound in bounds] for name, bounds in found.intervals.items()},
        "baseline": {name: plain(value) for name, value in found.baseline.items()},
        "tables": {
            table.title: [
                {name: plain(value) for name, value in zip(table.columns, row, strict=True)} for row in table.rows
            ]
            for table in found.tables
        },
        **{name: plain(value) for table in found.tables for name, value in table.facts.items()},
    }


def write_samples(found: Evaluation, path: Path) -> None:
    """A row for each sample, the largest loss first: index, file or place, loss, target, prediction, probability."""
    with RowFile(path) as file:
        for row in samples(found):
            file.write(row)


def samples(found: Evaluation) -> Iterator[Row]:
    """Each sample's row, the largest loss first."""
    answered, places, column, where = found.answered, found.places, found.column, found.where
    loss = answered.loss()
    losses, columns = loss.tolist(), list(answered.columns.items())
    for number in torch.where(loss.isnan(), -math.inf, loss).argsort(descending=True, stable=True).tolist():
        row: Row = {"index": places[number]}
        if column:
            row[column] = where(places[number])
        row["loss"] = None if math.isnan(losses[number]) else losses[number]
        yield row | {name: values[number] for name, values in columns}


def indices(session: Session, split: str, count: int) -> Sequence[int]:
    """The index in its split of each sample that was measured: those that can't be read are left out."""
    skipped = {int(word.split()[1]) for word in session.skipped.found if word.split()[0] == split}
    if not skipped:
        return range(count)
    return [index for index in range(count + len(skipped)) if index not in skipped]


def _places(dataset: Any, split: str) -> tuple[str, Callable[[int], Any]]:
    """What a sample is called beside its index: its file, or its place in one."""
    inner, chosen = beneath(dataset)
    first = 0 if chosen is None else int(chosen[0])
    if file_of(inner, first) is not None:
        return "file", lambda index: file_of(inner, index if chosen is None else int(chosen[index]))
    if getattr(beneath(dataset, "where")[0], "where", None) is not None:
        return "where", lambda index: place_of(dataset, split, index)
    return "", lambda index: index


def say_where(found: Evaluation, path: Path) -> None:
    """Where the samples stand."""
    tell(f"written {path}: {counted(found.count, 'sample')}, the worst first", sys.stdout)
