"""Series: rows of numbers in the order of time, cut into windows whose future, or whose kind, is to be predicted.

They are divided by time and never at random: neighbouring windows overlap, and those that train would give away those
that test.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from plainloop.build import factory
from plainloop.data.dataset import SPLITS, BaseDataset
from plainloop.data.kinds.checks import as_list, check_whole_number, name_in, names_in
from plainloop.data.kinds.columns import check_numbers, is_number, numbers_of, read_targets, task_for
from plainloop.data.kinds.dialect import Reading
from plainloop.data.kinds.frames import check_columns, column_of, opened
from plainloop.data.kinds.new_files import rows_in
from plainloop.data.kinds.numerals import DATE, NUMBER
from plainloop.data.kinds.source import Source, place
from plainloop.data.kinds.times import moments_of
from plainloop.data.preprocess import Standardise, normalisation, statistics
from plainloop.data.raw import Raw, of_arrays
from plainloop.data.reading import New, Reader, Rows
from plainloop.data.splits import by_position
from plainloop.errors import UserError, counted, did_you_mean, listed

Pieces = list[tuple[int, int]]  # where the rows of each series begin and end


class Windows(BaseDataset):
    """Windows of a series, taken out of it a batch at a time: inputs (B, T, F) float32, and targets.

    Args:
        values: the rows (R, F), each series behind the other.
        starts: the first row of every window (N,).
        window: T, its number of rows.
        targets: classes (N,) int64, or values (N, K) float32.
        rows: the rows of `values` that belong to this split (M,), for statistics.
        classes, target_names: names of the classes, or of the values.
    """

    gives_batches = True
    divided = True  # by time; its windows aren't divided once more

    def __init__(
        self,
        values: Tensor,
        starts: Tensor,
        window: int,
        targets: Tensor,
        rows: Tensor,
        classes: Sequence[str] | None = None,
        target_names: Sequence[str] | None = None,
        note: str = "",
    ):
        self.values, self.starts, self.window, self.targets, self.rows = values, starts, window, targets, rows
        self.classes, self.target_names, self.note = classes, target_names, note
        self.facts: dict[str, Any] = {"step_features": values.shape[1]}
        self.target_columns: list[str] | None = None  # that are forecast, where there are several steps of each

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = int(self.starts[index])
        return self.values[start : start + self.window], self.targets[index]

    def __getitems__(self, indices: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
        chosen = torch.as_tensor(indices, device=self.starts.device)
        rows = self.starts[chosen].unsqueeze(1) + torch.arange(self.window, device=chosen.device)
        return self.values[rows], self.targets[chosen]

    def to(self, device: torch.device) -> None:
        """Hold the series on this device: batches are made there, and needn't be copied to it."""
        self.values, self.starts, self.targets = (each.to(device) for each in (self.values, self.starts, self.targets))

    def column(self, name: str) -> list[Any]:
        """For split.group and split.time: there is none, as windows overlap. Raises UserError."""
        raise UserError(
            f"split.group or split.time={name}: a series is divided by its time alone, in the shares of "
            "split.fractions."
        )

    def make_preprocess(self, normalize: Any, batches: Any) -> Standardise:
        """By the mean and deviation of each feature: over this split's rows, each counted once, or as given."""
        count = self.values.shape[1]
        mean, std = normalisation(
            normalize, count, f"the series has {count} features", lambda: statistics([(self.values[self.rows],)])
        )
        return Standardise(mean.expand(count), std.expand(count))


@factory("data", provides=("step_features",))
def series(
    path: str,
    split: str,
    target: str | Sequence[str] | None = None,
    label: str | None = None,
    features: Sequence[str] | None = None,
    window: int | None = None,
    horizon: int = 1,
    stride: int = 1,
    time: str | Sequence[str] | None = None,
    time_format: str | None = None,
    series: str | None = None,
    holes: str = "error",
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    separator: str | None = None,
    decimal: str | None = None,
    thousands: str | None = None,
    encoding: str | None = None,
    missing: str | Sequence[str] | None = None,
    header: bool | None = None,
) -> Windows | None:
    """Windows of a table whose rows follow each other in time.

    With `target` the next values of these columns are predicted, (N, horizon x columns) in their own unit: all columns
    of the first step, then of the second, and so on. With `label` it is a window's class, which stands in its last row.

    Args:
        path: a CSV, TSV, Parquet or JSON-lines file; a relative one is looked for in the working directory, then in
            the checkout.
        split: "train", "val" or "test": the earliest rows, those that follow, and the latest. No window, with what
            is to be predicted from it, reaches from one into another.
        target, label: the column (or list of columns) to forecast, or the column of classes: one of the two.
        features: the columns that the model sees; None for all numbers but `label`, `time` and `series`.
        window: rows in a window; None for 48, or what fits into each split several times.
        horizon: rows behind it to forecast.
        stride: rows from the beginning of one window to that of the next.
        time: a column of dates, times or numbers, by which the rows are sorted; a list of two for a date and a clock;
            None where they are sorted already.
        time_format: how the times are written, in strftime's letters ("%d.%m.%Y"); None to tell it from the column.
        holes: where a number is missing: error; drop leaves the row out; carry takes the last one before it.
        series: a column that tells several series in the file apart; no window holds two of them. All are divided at
            the same moments of `time`; without that, each at the same shares of its rows.
        fractions: the splits' shares of the rows.
        separator, decimal, thousands, encoding, missing, header: how the file is written, where the file itself
            doesn't tell it rightly: what parts its fields, the marks in its numbers, the words that mean a missing
            value, and whether its first line has the columns' names.
    """
    for key, number in (("window", window), ("horizon", horizon), ("stride", stride)):
        check_whole_number(key, number, null=key == "window")
    if holes not in ("error", "drop", "carry"):
        guess = did_you_mean(holes, ("error", "drop", "carry"))
        raise UserError(f"data.holes={holes}: must be error, drop or carry.{guess}")
    _check_goal(target, label)
    reading = Reading.of(missing, separator, decimal, thousands, encoding, header)
    features, label = names_in("features", features), name_in(label)
    file, frame = opened(path, list(filter(None, [series, label])), reading)
    notes, wanted, aside = [file.said], as_list(target), (label, *as_list(time), series)
    if holes == "drop":
        frame, dropped = _without_holes(frame, wanted, features, aside, file)
        notes.append(dropped)
    order, sizes, moments, more = _laid_out(frame, as_list(time), time_format, series, file)
    notes += more
    carried = sizes if holes == "carry" else None
    if holes == "carry":
        notes.append(_counted_holes(frame, wanted, features, aside))
    # First the goals: a stray word there is told.
    goals = [_filled(_numbers(frame, "data.target", name, file, holes), order, carried, name) for name in wanted]
    values, said = _features(frame, features, aside, file, holes)
    used = features if features is not None else [name for name in frame.columns if name not in aside]
    seen = [name for name in dict.fromkeys([*wanted, *used]) if is_number(frame[name])]
    notes += [each for name in seen for each in check_numbers(frame[name], file.place)]
    values, note = _filled(values, order, carried, "data.features"), "\n".join(filter(None, [*notes, said]))

    read = {  # what another table of the same data must have
        "features": [name for name in used if is_number(frame[name])] if features is None else list(features),
        "marks": {name: list(marks) for name, marks in file.marks.items()},
        "units": file.units,
    }

    pieces = _divided(sizes, moments, fractions)
    ahead = horizon if target is not None else 0
    if window is None:
        window, remark = _fitting(pieces, fractions, ahead)
        note = "\n".join(filter(None, [note, remark]))
    starts = {name: _starts(pieces[name], window + ahead, stride) for name in SPLITS}
    longest = {name: max(end - start for start, end in pieces[name]) for name in SPLITS}
    for name, share in zip(SPLITS, fractions, strict=True):
        if share > 0 and len(starts[name]) == 0:
            takes = f"data.window={window}" + (f" and data.horizon={horizon} take" if ahead else " takes")
            fits = min(rows for each, rows in longest.items() if fractions[SPLITS.index(each)] > 0) - ahead
            shorter = f"data.window={fits} fits" if fits > 0 else "Shorten them"
            raise UserError(
                f"{takes} {window + ahead} rows; {name} has {longest[name]}, of {frame.height} in {file}. "
                f"{shorter}; or change split.fractions."
            )
    if fractions[SPLITS.index(split)] == 0:
        return None
    mine = torch.cat([torch.arange(start, end) for start, end in pieces[split]])
    if target is not None:
        following = starts[split].unsqueeze(1) + torch.arange(window, window + horizon)
        targets = torch.stack(goals, dim=1)[following].flatten(1)
        names = wanted if horizon == 1 else [f"{name}+{step + 1}" for step in range(horizon) for name in wanted]
        windows = Windows(values, starts[split], window, targets, mine, None, names, note)
        windows.target_columns = wanted
        windows.facts["reading"] = read
        return windows
    assert label is not None
    last = {name: order[first + window - 1] for name, first in starts.items()}
    labels, classes = _labels(column_of(frame, "data.label", label, file), last, file)
    windows = Windows(values, starts[split], window, labels[split], mine, classes, None, note)
    windows.facts["reading"] = read
    return windows


def _task_of(path: str, target: Any = None, label: str | None = None, **others: Any) -> tuple[str, str]:
    """For task=auto: forecasts are numbers, and a window's label is a class."""
    _check_goal(target, label)
    if label is None:
        names = as_list(target)
        return "regression", f"{listed(names)} {'is' if len(names) == 1 else 'are'} forecast"
    file, frame = opened(path, (), Reading.among(others))
    column = column_of(frame, "data.label", label, file)
    task, why = task_for([column], file)
    return ("multiclass", f"{label} is a label") if task == "regression" else (task, why)


series.task_of = _task_of  # type: ignore[attr-defined]


class SeriesReader(Reader):
    """Rows of another table of the same columns, or of the same table when it has grown: what follows each row that has
    enough before it, up to the last; or the class of the window that ends there."""

    def preprocess(self) -> Standardise:
        count = self.spec.step_features
        return Standardise(torch.zeros(count), torch.ones(count))

    def open(self, given: Any) -> New:
        features, (window, _) = self.reading("features"), self.reading("shape")
        time, name, holes = as_list(self.node.get("time")), self.node.get("series"), self.node.get("holes", "error")
        file, frame = rows_in(self, given, [name] if name else [])
        check_columns({"the model needs column": [*features, *time, *filter(None, [name])]}, frame, file)
        notes = [file.said]
        if holes == "drop":
            frame, dropped = _without_holes(frame, [], features, (), file)
            notes.append(dropped)
        order, sizes, _, more = _laid_out(frame, time, self.node.get("time_format"), name, file)
        notes += more
        if holes == "carry":
            notes.append(_counted_holes(frame, [], features, ()))
        columns = [_numbers(frame, "the model needs column", each, file, holes) for each in features]
        notes += [said for each in features for said in check_numbers(frame[each], file.place)]
        values = _filled(torch.stack(columns, dim=1), order, sizes if holes == "carry" else None, "input")
        starts = _starts(_each(sizes), window, 1)
        if not len(starts):
            raise UserError(f"input: the model looks at {window} rows at a time, and these are {max(sizes)}.")
        short = sum(size < window for size in sizes)
        notes.append(f"{counted(short, 'series')} of fewer than {window} rows left out" if short else "")
        column, names = _ends(frame, order[starts + window - 1], [*filter(None, [name]), *time], file)
        ahead = "" if self.node.get("target") is None else "after "
        notes.append(
            f"each answer is of {window} rows, {'and of what follows' if ahead else 'named by'} the last of them"
        )
        return New(Ending(values, starts, window), ahead + column, names, notes=[note for note in notes if note])

    def raw(self) -> Raw:
        return of_arrays(self.reading("shape"), first="rows")


series.reader = SeriesReader  # type: ignore[attr-defined]


class Ending(Rows):
    """Windows of a series, taken out of it a batch at a time, with their places: (inputs (B, T, F), places (B,))."""

    def __init__(self, values: Tensor, starts: Tensor, window: int):
        self.values, self.starts, self.window = values, starts, window

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        start = int(self.starts[index])
        return self.values[start : start + self.window], index

    def __getitems__(self, indices: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
        places = torch.as_tensor(indices)
        return self.values[self.starts[places].unsqueeze(1) + torch.arange(self.window)], places


def _ends(frame: Any, rows: Tensor, names: Sequence[str], file: Source) -> tuple[str, Sequence[Any]]:
    """What rows of a frame (N,) are called: by their series and their time, else by their numbers in the file."""
    import polars

    if not names:
        numbers = rows if file.kept is None else torch.tensor(file.kept.to_list())[rows]
        return "row", (numbers + 1).tolist()
    chosen = frame.select(polars.concat_str([polars.col(name).cast(polars.String) for name in names], separator=" "))
    return " ".join(names), chosen.to_series().gather(rows.tolist()).to_list()


def _check_goal(target: Any, label: str | None) -> None:
    if (not target) == (label is None):
        raise UserError(
            "data.target or data.label: name the column to forecast, or that of the windows' classes (one of the two)."
        )


def _without_holes(
    frame: Any, targets: Sequence[str], features: Sequence[str] | None, aside: Sequence[str | None], file: Source
) -> tuple[Any, str]:
    """The rows that lack none of the numbers that are used, and a remark on the others."""
    import polars

    used = [name for name in frame.columns if features is None and name not in aside and is_number(frame[name])]
    check_columns({"data.target": targets, "data.features": features}, frame, file)
    names = [*targets, *(features if features is not None else used)]
    holes = [
        polars.col(name).is_null() | (polars.col(name).is_nan() if frame[name].dtype.is_float() else False)
        for name in names
    ]
    lacks = frame.select(polars.any_horizontal(holes).fill_null(True)).to_series()
    if lacks.all():
        raise UserError(f"data.holes=drop: each row of {file} lacks one of {listed(names)}.")
    file.kept = (~lacks).arg_true()
    count = int(lacks.sum())
    return frame.filter(~lacks), f"{counted(count, 'row')} with a hole left out" if count else ""


def _counted_holes(
    frame: Any, targets: Sequence[str], features: Sequence[str] | None, aside: Sequence[str | None]
) -> str:
    """A remark on the holes that are filled: in what is to be predicted, too."""
    used = [name for name in frame.columns if features is None and name not in aside and is_number(frame[name])]
    names = dict.fromkeys([*targets, *(features if features is not None else used)])
    counts = {name: frame[name].null_count() for name in names if name in frame.columns and frame[name].has_nulls()}
    told = listed((f"{count} in {name}" for name, count in counts.items()), 6)
    return f"{counted(sum(counts.values()), 'hole')} filled by the value before ({told})" if counts else ""


def _filled(values: Tensor, order: Tensor, sizes: Sequence[int] | None, name: str) -> Tensor:
    """Values (R,) or (R, F) in order, each hole filled by the last value before it in its series. Raises UserError for
    one without any before it.

    Args:
        sizes: rows of each series; None where there are no holes.
    """
    values = values[order]
    for start, end in _each(sizes) if sizes is not None else ():
        piece = values[start:end]
        known = ~piece.isnan()
        rows = torch.arange(end - start).reshape(-1, *[1] * (piece.ndim - 1)).expand_as(piece)
        last = torch.where(known, rows, -1).cummax(0).values
        if len(last) and bool((last[0] < 0).any()):
            raise UserError(f"{name}: a series begins with a hole, before which there is no value: data.holes=drop")
        values[start:end] = piece.gather(0, last)
    return values


def _sorted(
    moments: numpy.ndarray, sizes: Sequence[int], order: Tensor, name: str
) -> tuple[Tensor, numpy.ndarray, str]:
    """The order by time within each series, the moments in it, and a remark where the rows weren't in it."""
    moments, moved = moments[order], False
    for start, end in _each(sizes):
        places = numpy.argsort(moments[start:end], kind="stable")
        moved = moved or bool((places != numpy.arange(end - start)).any())
        moments[start:end], order[start:end] = moments[start:end][places], order[start:end][torch.from_numpy(places)]
    return order, moments, f"rows sorted by {name}" if moved else ""


def _fitting(pieces: Mapping[str, Pieces], fractions: Sequence[float], ahead: int) -> tuple[int, str]:
    """A window of 48 rows, or of what fits into the shortest split several times; and a remark on it."""
    longest = [
        max(end - start for start, end in pieces[name]) for name, share in zip(SPLITS, fractions, strict=True) if share
    ]
    window = max(1, min(48, (min(longest) - ahead) // 2))
    return window, "" if window == 48 else f"window {window}: of 48 rows none would fit (data.window=...)"


def _moments(frame: Any, names: Sequence[str], form: str | None, file: Source) -> tuple[numpy.ndarray, str]:
    """Columns of dates and times, or one of numbers, as numbers (R,); and a remark on how they were read. Raises
    UserError for others."""
    import polars

    columns = [column_of(frame, "data.time", name, file) for name in names]
    column = columns[0]
    if len(columns) > 1:
        words = [each.cast(polars.String).str.strip_chars() for each in columns]
        column = polars.select(polars.concat_str(words, separator=" ")).to_series().alias(names[0])
    elif column.dtype.is_integer() and form is None and column.is_between(1000_01_01, 9999_12_31).all():
        days = column.cast(polars.String).str.to_datetime("%Y%m%d", strict=False, time_unit="us")
        if not days.has_nulls():
            return days.to_physical().to_numpy(), f"{column.name} is read as %Y%m%d ({column[0]} is {days[0]:%d %B %Y})"
    if len(columns) == 1 and (column.dtype.is_temporal() or (column.dtype.is_numeric() and form is None)):
        return column.to_physical().to_numpy(), ""
    words = column.cast(polars.String)
    stray = words.cast(polars.Float64, strict=False).is_null().arg_true()
    if 0 < len(stray) < len(words) / 2:
        raise UserError(
            f"{file.place(stray[0])}: data.time={names[0]} is {words[stray[0]]!r}, where the others are numbers: leave "
            "the row out."
        )
    times, remark = moments_of(words, "data.time", file.place, form)
    return times.to_physical().to_numpy(), remark


def _laid_out(
    frame: Any, time: Sequence[str], form: str | None, series: str | None, file: Source
) -> tuple[Tensor, list[int], numpy.ndarray | None, list[str]]:
    """The rows' order (R,), each series behind the other and by its time; how many rows each series has; the moments in
    that order; and remarks. Raises UserError where rows of one series have the same time."""
    moments, remark = _moments(frame, time, form, file) if time else (None, "")
    order, sizes = _by_series(None if series is None else column_of(frame, "data.series", series, file), frame.height)
    if moments is None:
        return order, sizes, None, [remark]
    clock = frame[time[0]]
    order, moments, moved = _sorted(moments, sizes, order, clock.name)
    _check_order(moments, sizes, order, clock, file, several=series is not None)
    return order, sizes, moments, [remark, moved, _gaps(moments, sizes, order, clock, file)]


def _by_series(names: Any, count: int) -> tuple[Tensor, list[int]]:
    """The file's rows in such an order that each series lies behind the other, and how many rows each has."""
    if names is None:
        return torch.arange(count), [count]
    number_of: dict[Any, int] = {}
    numbers = torch.tensor([number_of.setdefault(name, len(number_of)) for name in names.to_list()])
    return numbers.argsort(stable=True), numbers.bincount().tolist()


def _each(sizes: Sequence[int]) -> Pieces:
    return list(itertools.pairwise(itertools.accumulate(sizes, initial=0)))


def _check_order(
    moments: numpy.ndarray, sizes: Sequence[int], order: Tensor, column: Any, file: Source, several: bool
) -> None:
    """In each series every row is later than the one before. Raises UserError with the line."""
    for start, end in _each(sizes):
        back = numpy.flatnonzero(numpy.diff(moments[start:end]) <= 0)
        if len(back):
            first = start + int(back[0])
            before, row = int(order[first]), int(order[first + 1])
            how = "the same as" if moments[first] == moments[first + 1] else "earlier than"
            hint = "" if several else " Several series in one file are told apart by data.series=COLUMN."
            raise UserError(
                f"{place(file, row)}: {column.name} is {column[row]}, {how} in the row before it "
                f"({place(file, before)}): sort the rows by time, each with its own.{hint}"
            )


def _gaps(moments: numpy.ndarray, sizes: Sequence[int], order: Tensor, column: Any, file: Source) -> str:
    """A remark on rows that are missing, as it seems: from one to the next it takes longer than usually."""
    found, longest, where = 0, 0.0, 0
    for start, end in _each(sizes):
        steps = numpy.diff(moments[start:end]).astype(float)
        long = steps > 1.5 * numpy.median(steps) if len(steps) else steps > 0
        found += int(long.sum())
        if len(steps) and long.any() and steps.max() > longest:
            longest, where = float(steps.max()), start + int(steps.argmax()) + 1
    if not found or found > len(moments) / 10:
        return f"{column.name} goes on in uneven steps" if found else ""
    row = int(order[where])
    return (
        f"{counted(found, 'gap')} in {column.name}, the longest before {place(file, row)} ({column[row]}): "
        "windows take the rows around it as neighbours"
    )


def _numbers(frame: Any, key: str, name: str, file: Source, holes: str) -> Tensor:
    """A column of numbers as (R,) float32; without holes, unless they are filled later. Raises UserError."""
    if holes == "carry":
        check_columns({key: [name]}, frame, file)
        return numbers_of(frame[name], file, file.place)
    return numbers_of(column_of(frame, key, name, file), file, lambda row: place(file, row))


def _features(
    frame: Any, names: Sequence[str] | None, others: Sequence[str | None], file: Source, holes: str
) -> tuple[Tensor, str]:
    """The columns that the model sees, (R, F) float32, and a remark on those that are no numbers."""
    rest = [name for name in frame.columns if name not in others]
    numbers = [name for name in rest if is_number(frame[name])]
    chosen = numbers if names is None else names
    if not chosen:
        raise UserError(f"data.features: no column of numbers to predict from. {file} has: {listed(frame.columns)}.")
    left_out = [_stray(frame[name], file) for name in rest if name not in numbers] if names is None else []
    note = f"{len(chosen)} features a row: {listed(chosen, 6)}" if len(chosen) > 1 else ""
    dated = [name for name in rest if guess_time(frame[name])] if names is None and len(others) == 2 else []
    if dated:
        note += f"{'; ' * bool(note)}{dated[0]} holds times: data.time={dated[0]} sorts the rows by it"
    if left_out:
        note += f"{'; ' * bool(note)}left out, as they are no numbers: {listed(left_out)}"
    guess = names is None and len(others) == 2 and frame.height > 2  # no time is named
    rising = [
        name for name in chosen if guess and frame[name].dtype.is_numeric() and (frame[name].diff()[1:] > 0).all()
    ]
    if rising:
        note += f"{'; ' * bool(note)}{rising[0]} rises from row to row: is it the time? Then data.time={rising[0]}"
    columns = [_numbers(frame, "data.features", name, file, holes) for name in chosen]
    return torch.stack(columns, dim=1), note


def _stray(column: Any, file: Source) -> str:
    """The name of a column that is left out; of one that holds numbers but for a few words, with the first of these."""
    import polars

    if column.dtype != polars.String:
        return column.name
    stray = (~column.str.contains(NUMBER)).fill_null(False).arg_true()
    if not 0 < len(stray) < column.count() / 2:
        return column.name
    return f"{column.name} ({column[stray[0]]!r} in {file.place(stray[0]).removeprefix(f'{file}, ')})"


def guess_time(column: Any) -> bool:
    """Whether a column of words holds dates or times."""
    held = column.drop_nulls()
    return str(column.dtype) == "String" and bool(held.str.contains(DATE).all())


def _divided(sizes: Sequence[int], moments: numpy.ndarray | None, fractions: Sequence[float]) -> dict[str, Pieces]:
    """For each split, the piece of each series that belongs to it.

    Args:
        sizes: rows of each series.
        moments: of each row (R,), rising within each series; None to divide each series by its rows.
    """
    found: dict[str, Pieces] = {name: [] for name in SPLITS}
    cuts = None if moments is None else _cuts(moments, fractions)
    for start, end in _each(sizes):
        if moments is None or cuts is None:
            ends = [stop for _, stop in by_position(end - start, fractions).values()]
        else:
            ends = [int((moments[start:end] < moment).sum()) for moment in cuts]
        for name, (first, last) in zip(SPLITS, itertools.pairwise([0, *ends]), strict=True):
            found[name].append((start + first, start + last))
    return found


def _cuts(moments: numpy.ndarray, fractions: Sequence[float]) -> list[float]:
    """The moments before which each split's rows lie, when all rows are taken together."""
    ordered = numpy.sort(moments)
    ends = [end for _, end in by_position(len(ordered), fractions).values()]
    return [ordered[end] if end < len(ordered) else numpy.inf for end in ends]


def _starts(pieces: Pieces, rows: int, stride: int) -> Tensor:
    """Where windows of so many rows begin that lie within one piece."""
    return torch.cat([torch.arange(start, max(start, end - rows + 1), stride) for start, end in pieces])


def _labels(column: Any, rows: Mapping[str, Tensor], file: Source) -> tuple[dict[str, Tensor], list[str]]:
    """The classes of the windows of each split (N,), and their names. Raises UserError for one that no training
    window has.

    Args:
        rows: by split, the row of the file in which each window's label stands.
    """
    numbers, names = read_targets([column], "multiclass", file, lambda row: place(file, row))
    assert names is not None
    known = numbers[rows["train"]].unique()
    if len(known) == 1:
        raise UserError(
            f"{file}: {column.name} is {names[int(known[0])]} in every training window, which are the "
            "earliest: one class only. Change split.fractions."
        )
    for name in SPLITS[1:]:
        strange = rows[name][~torch.isin(numbers[rows[name]], known)]
        if len(strange):
            row = int(strange[0])
            raise UserError(
                f"{place(file, row)}: {column.name} is {column[row]}, in {name}, and in no training window "
                "(these are the earliest): it can't be learned. Change split.fractions."
            )
    code = torch.zeros(len(names), dtype=torch.int64)
    code[known] = torch.arange(len(known))
    return {name: code[numbers[each]] for name, each in rows.items()}, [names[number] for number in known.tolist()]
