"""What a column of a table holds: numbers, words, times, classes. What can't be used is told with its place."""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy
import torch
from torch import Tensor

from plainloop.data.kinds.frames import check_columns
from plainloop.data.kinds.numerals import DATE, NUMBER, as_missing
from plainloop.data.kinds.source import Source
from plainloop.data.kinds.times import moments_of
from plainloop.errors import UserError, counted, listed

FEW = 20  # so many different values can be classes, or a category, in a table of any length
MANY = 1000  # so many words become no columns of 0 and 1 any more
YEAR_FIRST = r"^\d{4}[-/]\d{1,2}[-/]\d{1,2}"
Where = Callable[[int], str]  # 'FILE, line 7' for the number of a row


class NoFeature(UserError):
    """A column that a model can't learn from as it is.

    Args:
        why: in a few words.
    """

    def __init__(self, message: str, why: str):
        super().__init__(message)
        self.why = why


def is_number(column: Any) -> bool:
    """Whether a column holds numbers, or true and false."""
    import polars

    return column.dtype.is_numeric() or column.dtype == polars.Boolean


def check_numbers(column: Any, where: Where) -> list[str]:
    """Raises UserError for infinite values; a remark where float32 is too coarse."""
    import polars

    wide, narrow = column.cast(polars.Float64), column.cast(polars.Float32)
    infinite = narrow.is_infinite().fill_null(False)
    if infinite.any():
        row = infinite.arg_true()[0]
        what = "infinite" if wide.is_infinite()[row] else "too large for float32"
        raise UserError(
            f"{where(row)}, column {column.name}: {column[row]} is {what} (so in "
            f"{counted(infinite.sum(), 'row')}). Leave the field empty, or the row out."
        )
    error, deviation = (wide - narrow.cast(polars.Float64)).abs().max() or 0.0, wide.std() or 0.0
    if column.dtype.is_integer() and (wide.abs().max() or 0.0) >= 2**53:  # more digits than a double has
        error, deviation = (narrow.cast(polars.Int128) - column).abs().max(), (column - column.min()).std() or 0.0
    if error > 1e-3 * deviation > 0:
        return [f"{column.name} is rounded to the 7 digits of float32: subtract a constant from it"]
    return []


def numbers_of(column: Any, file: Source, where: Where) -> Tensor:
    """A column of numbers without holes (N,) as float32. Raises UserError for another one, with the first line that is
    no number."""
    import polars

    if not is_number(column):
        words = column.cast(polars.String)
        wrong = (~words.str.contains(NUMBER)).arg_true()
        wrong = wrong if len(wrong) else words.cast(polars.Float64, strict=False).is_null().arg_true()
        so = f" (so in {counted(len(wrong), 'row')} of {len(column)})"
        raise UserError(
            f"{where(wrong[0])}: {column.name} is {column[wrong[0]]!r}, where a number is needed{so}."
            if len(wrong)
            else f"{file}, column {column.name}: of type {column.dtype}, where numbers are needed."
        )
    check_numbers(column, where)
    return torch.from_numpy(column.cast(polars.Float64).to_numpy().astype(numpy.float32))


def words_of(column: Any, file: Source, where: Where, declared: bool, embed: bool) -> tuple[list[str], list[str]]:
    """The words of a category in sorted order, and remarks. Raises UserError where it is none.

    Args:
        declared: the user says that it is a category.
        embed: its words won't become columns.
    """
    import polars

    refuse_dates(column, file)
    texts, which = column.cast(polars.String), f"{file}, column {column.name}"
    words = texts.drop_nulls().unique().sort().to_list()
    leave_out = f"data.exclude=[{column.name}] leaves the column out."
    # Numbers with a few words among them are a mistake more often than not.
    wrong = (~texts.str.contains(NUMBER)).fill_null(False).arg_true()
    stray = ""
    if 0 < len(wrong) < texts.count() / 2 and not declared:
        stray = f"{texts[wrong[0]]!r} in {where(wrong[0]).removeprefix(f'{file}, ')}"
    elif column.name in file.misfits and not declared:
        stray = f"{texts[file.misfits[column.name]]!r} in {where(file.misfits[column.name]).removeprefix(f'{file}, ')}"
    if len(words) > FEW and len(words) > texts.count() / 2:
        if stray and not len(wrong):
            raise UserError(f"{which}: numbers, but not all written in one way, as {stray}: mend it; {leave_out}")
        if stray and len(wrong) <= texts.count() / 10:  # of more, it is a code
            raise UserError(
                f"{which}: numbers, but for {counted(len(wrong), 'word')} (the first is {stray}).\nLeave a field empty "
                f"where the number is missing, or write {as_missing([texts[wrong[0]]])}; {leave_out}"
            )
        raise NoFeature(
            f"{which}: {len(words)} different words in {texts.count()} rows, as {words[0]!r}: is it free "
            f"text, a name or an id? Then {leave_out}",
            f"{len(words)} different words in {texts.count()} rows",
        )
    if len(words) > MANY and not embed:
        raise UserError(
            f"{which}: {len(words)} different words would become as many columns.\n"
            f"data.categories=embed model=tabular learns a vector for each; {leave_out}"
        )
    return words, [f"{column.name} is taken as words because of {stray}"] if stray else []


def refuse_dates(column: Any, file: Source, is_target: bool = False) -> None:
    """Raises NoFeature for a column of dates, times, lists, bytes: what is neither number nor word."""
    import polars

    held, where = column.drop_nulls(), f"{file}, column {column.name}"
    without = "" if is_target else f" data.exclude=[{column.name}] leaves it out."
    if column.dtype.is_temporal() or (column.dtype == polars.String and bool(held.str.contains(DATE).all())):
        divide = "" if is_target else f" split.time={column.name} divides by it;"
        raise NoFeature(
            f"{where}: dates or times (as {held[0]}), where numbers or words are needed.\nWhat matters of "
            f"it can be written as a number, of a month or of days.{divide}{without}",
            "dates or times",
        )
    if column.dtype.is_nested() or column.dtype in (polars.Binary, polars.Object):
        kind = f"of type {column.dtype}"
        raise NoFeature(f"{where}: {kind}, where numbers or words are needed.{without}", kind)


def unknown_words(column: Any, words: Sequence[str]) -> str:
    """A remark on words that training doesn't have, as which the model sees nothing."""
    column = whole_ones(column)
    unknown = column.filter((codes_of(column, words) == 0) & column.is_not_null().to_numpy())
    if not len(unknown):
        return ""
    return f"{len(unknown)} of {column.count()} words in {column.name} are in no training row (as {unknown[0]})"


def codes_of(column: Any, words: Sequence[str]) -> numpy.ndarray:
    """The number of each value among the words, from 1, as (N,) int64; 0 for a missing or unknown one."""
    import polars

    known = column.cast(polars.String).cast(polars.Enum(words), strict=False)
    return known.to_physical().cast(polars.Int64).fill_null(-1).to_numpy() + 1


def in_order(column: Any, where: Where) -> Any:
    """A column of times, which can be put in order; dates that are words are read. Raises UserError for what is no
    time, or could be read in two ways."""
    import polars

    if column.dtype.is_numeric() or column.dtype.is_temporal():
        return column
    words, key = column.cast(polars.String), f"split.time={column.name}"
    wrong = (~words.str.contains(YEAR_FIRST)).arg_true()
    if not len(wrong):
        try:
            return words.str.to_datetime(strict=True).alias(column.name)
        except polars.exceptions.PolarsError:
            pass  # not all of one form, perhaps
    row = wrong[0] if len(wrong) else 0
    try:
        times, remark = moments_of(words, "split.time", where)
    except UserError as error:
        raise UserError(
            f"{where(row)}: {key} is {words[row]}, from which before and after can't be told. Write 2024-05-31, "
            "2024-05-31T23:59:00 or a number, all of one form."
        ) from error
    if remark:
        raise UserError(f"{where(row)}: {key} could be read in two ways: write 2024-05-31 for {words[row]}.")
    return times.alias(column.name)


def remarks_on(columns: Sequence[Any]) -> list[str]:
    """What is worth knowing about columns that are features."""
    remarks = []
    filled, without = (
        {column.name: column.null_count() for column in columns if column.has_nulls() and is_number(column) == numbers}
        for numbers in (True, False)
    )
    parts = [
        (filled, f"{counted(sum(filled.values()), 'missing value')} filled by the mean"),
        (without, f"{sum(without.values())} without a word"),
    ]
    told = [
        f"{what} ({listed((f'{count} in {name}' for name, count in found.items()), 6)})"
        for found, what in parts
        if found
    ]
    if told:
        remarks.append("; ".join(told))
    for column in columns:
        if is_number(column) and (mark := _mark_of_missing(column)) is not None:
            count = int((column == mark).sum())
            remarks.append(
                f"{column.name} is {mark:g} in {counted(count, 'row')}, far from all others: if nothing was measured "
                f"there, {as_missing([f'{mark:g}'])}"
            )
    constant = [column.name for column in columns if column.drop_nulls().n_unique() == 1]
    if constant:
        remarks.append(f"constant: {listed(constant)}")
    rows = [column.name for column in columns if column.dtype.is_integer() and _counts_up(column)]
    if rows:
        remarks.append(f"counts the rows, as it seems: {listed(rows)} (data.exclude=[{rows[0]}] leaves it out)")
    return remarks


MARKED = (-1, -9, -99, -200, -999, -9999, -99999, -32768, 99, 999, 9999, 99999)  # in the place of a missing number


def _mark_of_missing(column: Any) -> Any:
    """One of the numbers that people write where there is none: the least or the largest, several times, and farther
    from all others than these are from each other."""
    for mark in (column.min(), column.max()):
        others = column.filter(column != mark)
        if mark not in MARKED or len(others) < 2 or (column == mark).sum() < 2:
            continue
        least, most = others.min(), others.max()
        if min(abs(mark - least), abs(mark - most)) > most - least > 0:
            return mark
    return None


def _counts_up(column: Any) -> bool:
    """Whether a column is 0, 1, 2, ... or the like, as a row's number is."""
    steps = column.diff().drop_nulls()
    return len(column) >= 10 and len(steps) == len(column) - 1 and bool((steps == 1).all())


# --- targets -------------------------------------------------------------------------------------------------------


def refuse_strays(column: Any, key: str, file: Source) -> None:
    """Raises UserError, with the line, for a column of many different numbers that a few words stand among."""
    import polars

    if column.dtype != polars.String:
        return
    if column.name in file.misfits and column.n_unique() > FEW:
        row = file.misfits[column.name]
        raise UserError(
            f"{file.place(row)}: {key}={column.name} is {column[row]!r}, and not written as most of its numbers are "
            f"(as {next(each for each in column if each != column[row])!r}): mend it."
        )
    written = column.str.contains(NUMBER)  # in whatever way
    wrong = (~written).fill_null(False).arg_true()
    count = int(written.sum())
    if len(wrong) and count > column.count() / 2 and column.filter(written.fill_null(False)).n_unique() > FEW:
        word = column[wrong[0]]
        raise UserError(
            f"{file.place(wrong[0])}: {key}={column.name} is {word!r}, where {counted(count, 'row')} of "
            f"{column.count()} hold numbers (words in {counted(len(wrong), 'row')}).\n"
            f"Mend the field, or say that it is a missing value: {as_missing([word])}"
        )


def task_for(columns: Sequence[Any], file: Source) -> tuple[str, str]:
    """The task for target columns without holes, and why. Raises UserError."""
    import polars

    for column in columns:
        refuse_dates(column, file, is_target=True)
    names = listed(column.name for column in columns)
    if len(columns) > 1:
        words = [column.name for column in columns if not is_number(column)]
        if words:
            raise UserError(
                f"data.target=[{names}]: several targets must be numbers, or 0 and 1; {words[0]} holds words."
            )
        if all(bool(column.cast(polars.Float64).is_in([0.0, 1.0]).all()) for column in columns):
            return "multilabel", f"{names} hold 0 and 1"
        return "regression", f"{names} hold numbers"
    (column,) = columns
    different = column.n_unique()
    if different == 1:
        _refuse_one(column, "value" if column.dtype.is_numeric() else "class", file)
    if column.dtype.is_numeric():
        few = different <= min(FEW, len(column) / 5) or set(column) == {0, 1}
        if not (few and is_whole(column)):
            return "regression", f"{names} holds numbers from {column.min():g} to {column.max():g}"
    kind = "whole number" if column.dtype.is_numeric() else "word"
    values = column.unique().sort()
    shown = listed((repr(value) if "," in str(value) else value for value in values), 5)
    return "binary" if different == 2 else "multiclass", f"{names} holds {counted(different, kind)} ({shown})"


def several_labels(
    column: Any, separator: str, file: Source, where: Where, known: Sequence[str] | None = None
) -> tuple[Tensor, list[str]]:
    """Fields that hold several words (`red|big`) as (N, K) float32 of 0 and 1, and the K words in sorted order. Raises
    UserError.

    Args:
        known: the words that there are, of the training rows; None to find them.
    """
    import polars

    parts = column.cast(polars.String).str.split(separator).list.eval(polars.element().str.strip_chars())
    parts = parts.list.eval(polars.element().filter(polars.element() != ""))
    words = sorted(set(parts.explode().drop_nulls().to_list())) if known is None else list(known)
    if known is None and not column.cast(polars.String).str.contains(separator, literal=True).any():
        raise UserError(f"data.labels_separator={separator}: no field of {column.name} in {file} holds one.")
    number = {word: place for place, word in enumerate(words)}
    targets = torch.zeros(len(column), len(words))
    for row, found in enumerate(parts.to_list()):
        for word in found or ():
            if word not in number:
                raise UserError(f"{where(row)}: {column.name} holds {word}, and so does no training row.")
            targets[row, number[word]] = 1.0
    return targets, words


def known_targets(
    columns: Sequence[Any], names: Sequence[str], classes: bool, separator: str | None, file: Source, where: Where
) -> Tensor:
    """Targets from columns without holes, of a model that is there: (N,) classes, or (N, T). Raises UserError for one
    that it doesn't know.

    Args:
        names: of the classes, or of the labels that fields hold.
        classes: whether the targets are classes.
        separator: of several labels in a field.
    """
    if separator is not None:
        return several_labels(columns[0], separator, file, where, known=names)[0]
    if not classes:
        return torch.stack([numbers_of(column, file, where) for column in columns], dim=1)
    codes = codes_of(whole_ones(columns[0]), names) - 1
    unknown = (codes < 0).nonzero()[0]
    if len(unknown):
        row = int(unknown[0])
        raise UserError(f"{where(row)}: {columns[0].name} is {columns[0][row]}, and so in no training row.")
    return torch.from_numpy(codes)


def targets_beside(
    frame: Any, names: Sequence[str], spec: Any, separator: str | None, file: Source, key: str
) -> tuple[Tensor, Tensor]:
    """The targets of new rows, (N, ...), and which of them are there, (N,). Raises UserError.

    Args:
        names: of the columns.
        spec: the facts about the data.
        key: what names them, for the error.
    """
    import polars

    check_columns({key: names}, frame, file)
    holes = frame.select(polars.any_horizontal(polars.col(list(names)).is_null())).to_series()
    rows = (~holes).arg_true().to_list()
    whole = frame[rows]
    known = list(spec.class_names or spec.target_names or [])
    found = known_targets(
        [whole[name] for name in names], known, spec.class_names is not None, separator, file,
        lambda row: file.place(rows[row]),
    )  # fmt: skip
    targets = found.new_zeros(frame.height, *found.shape[1:])
    targets[torch.tensor(rows, dtype=torch.long)] = found
    return targets, torch.from_numpy(~holes.to_numpy())


def read_targets(columns: Sequence[Any], task: str, file: Source, where: Where) -> tuple[Tensor, list[str] | None]:
    """Targets from columns without holes, and the names of the classes where they are classes. Raises UserError."""
    if task not in ("regression", "binary", "multiclass", "multilabel"):
        task, _ = task_for(columns, file)
    if task in ("regression", "multilabel"):
        values = [_values(column, task, file, where) for column in columns]
        return torch.from_numpy(numpy.stack(values, axis=1)), None
    if len(columns) > 1:
        raise UserError(
            f"task={task} takes one target, and data.target names {len(columns)}. For several columns "
            "there are task=regression (numbers) and task=multilabel (0 and 1)."
        )
    return _classes(columns[0], task, file)


def _values(column: Any, task: str, file: Source, where: Where) -> numpy.ndarray:
    """Numbers (N,) float32; of task=multilabel 0 and 1."""
    import polars

    name = column.name
    if not is_number(column):
        raise UserError(
            f"data.target={name}: a column of words ({listed(column.unique().sort(), 4)}), where "
            f"task={task} needs numbers. For classes: task=multiclass (task=binary for two)."
        )
    check_numbers(column, where)
    if task == "multilabel":
        wrong = (~column.cast(polars.Float64).is_in([0.0, 1.0])).arg_true()
        if len(wrong):
            raise UserError(
                f"{where(wrong[0])}: {name} is {column[wrong[0]]}, and task=multilabel needs columns of 0 "
                "and 1. For numbers: task=regression"
            )
    elif column.n_unique() == 1:
        _refuse_one(column, "value", file)
    return column.cast(polars.Float32).to_numpy()


def _classes(column: Any, task: str, file: Source) -> tuple[Tensor, list[str]]:
    """Classes (N,) int64 in sorted order (9 before 10, false before true), and their names."""
    import polars

    name = column.name
    refuse_dates(column, file, is_target=True)
    column = whole_ones(column)
    values = column.unique().sort()
    if column.dtype.is_float() or (column.dtype.is_integer() and len(values) > max(FEW, len(column) / 5)):
        raise UserError(
            f"data.target={name}: {len(values)} different numbers in {counted(len(column), 'row')}, where "
            f"task={task} needs classes. For numbers: task=regression"
        )
    words = [str(value) for value in (values if column.dtype.is_integer() else values.cast(polars.String).sort())]
    if len(words) < 2:
        _refuse_one(column, "class", file)
    if len(words) > FEW and len(words) > len(column) / 2:
        raise UserError(
            f"data.target={name}: {len(words)} different words in {counted(len(column), 'row')}, as "
            f"{words[0]!r}: free text, or numbers with a mark for missing ones?"
        )
    return torch.from_numpy(codes_of(column, words) - 1), words


def whole_ones(column: Any) -> Any:
    """A column of whole numbers that are written with a point, 0.0 and 1.0, as whole numbers; others as they are."""
    import polars

    if not column.dtype.is_float() or not is_whole(column) or not (column.abs() < 2**62).all():
        return column
    return column.cast(polars.Int64)


def _refuse_one(column: Any, what: str, file: Source) -> NoReturn:
    raise UserError(f"data.target={column.name}: {file} has one {what} only ({column[0]}): there is nothing to learn.")


def is_whole(column: Any) -> bool:
    """Whether a column of numbers holds whole ones only."""
    import polars

    return column.dtype.is_integer() or bool((column.cast(polars.Float64).floor() == column).all())
