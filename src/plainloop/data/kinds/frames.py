"""Files of rows and columns become polars frames; what is wrong with one is told with its line."""

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plainloop.errors import UserError, counted, did_you_mean, first_line, listed
from plainloop.places import find_path

# What people, spreadsheets, R, NumPy and pandas write where there is no value.
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "null", "NULL", "None", "?")
SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers")


def opened(path: str, words: Sequence[str] = ()) -> tuple[Path, Any]:
    """A user's file, and its rows as a polars frame; there is one at least. Raises UserError.

    Args:
        path: a relative one is looked for in the working directory, then in the checkout.
        words: columns whose values are words, even where they look like numbers.
    """
    file = find_path(path)
    if not file.is_file():
        what = "a folder, and a table is a file" if file.is_dir() else "there is no such file"
        raise UserError(f"data.path={path}: {what}.")
    frame = read_frame(file, words)
    if frame.height == 0:
        raise UserError(f"data.path={path}: there are no rows in it.")
    return file, frame


def check_columns(named: Mapping[str, Sequence[str] | None], frame: Any, path: Path | str) -> None:
    """Every column that is named exists. Raises UserError.

    Args:
        named: the names under the key that the user has typed.
        path: what the file is called.
    """
    for key, names in named.items():
        for name in names or ():
            if name not in frame.columns:
                guess = did_you_mean(str(name), frame.columns)
                raise UserError(f"{key}={name}: {path} has no such column.{guess} It has: {listed(frame.columns)}.")


def column_of(frame: Any, key: str, name: str, file: Path) -> Any:
    """A column without a missing value. Raises UserError with the columns that there are, or with the line."""
    check_columns({key: [name]}, frame, file)
    column = frame[name]
    missing = column.is_null()
    if column.dtype.is_float():
        missing = missing | column.is_nan().fill_null(True)
    if missing.any():
        count = missing.sum()
        raise UserError(
            f"{place(file, missing.arg_max())}: {name} is missing (so in {counted(count, 'row')}): "
            "fill it in, or leave the row out."
        )
    return column


def read_frame(file: Path, words: Sequence[str] = ()) -> Any:
    """A table from a CSV, TSV, Parquet or JSON-lines file, as a polars frame. Raises UserError.

    In text files fields are separated by commas (or by tabs or semicolons, where the header has these and no comma;
    with semicolons a decimal comma is understood), spaces around a field and lines without any value don't count,
    and a column is of numbers only if all of it is.

    Args:
        words: columns whose values are words, even where they look like numbers.
    """
    import polars

    kind = file.suffix.lower()
    if kind in SPREADSHEETS:
        raise UserError(f"{file}: a spreadsheet can't be read; save it as CSV.")
    try:
        if file.stat().st_size == 0:
            raise UserError(f"{file}: the file is empty.")
        if kind == ".parquet":
            return polars.read_parquet(file)
        if kind in (".jsonl", ".ndjson", ".json"):
            return (polars.read_json if _is_json_array(file) else polars.read_ndjson)(file, infer_schema_length=None)
        return _read_csv(file, words)
    except (polars.exceptions.PolarsError, UnicodeDecodeError, OSError) as error:
        if isinstance(error, UnicodeDecodeError) or "utf-8" in str(error).lower():
            where = _first_line_that_is_no_text(file)
            raise UserError(f"{where}: not text in UTF-8. Save the file as UTF-8.") from error
        if kind not in (".parquet", ".jsonl", ".ndjson", ".json"):
            _check_fields(file)
        if kind in (".jsonl", ".ndjson"):
            _check_lines(file)
        raise UserError(f"{file}: can't be read as a table: {first_line(error)}.") from error


def _is_json_array(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(1000).lstrip()[:1] == b"["


def _read_csv(file: Path, words: Sequence[str]) -> Any:
    import polars

    separator = _separator(file)
    frame = polars.read_csv(
        file,
        separator=separator,
        infer_schema_length=None,
        null_values=list(MISSING),
        decimal_comma=separator == ";",
        schema_overrides=dict.fromkeys(words, polars.String),
    )
    if frame.height and frame[frame.columns[-1]].has_nulls():  # polars fills up lines that are too short
        _check_fields(file)
    for name in frame.columns:
        match = re.fullmatch(r"(.*)_duplicated_\d+", name)
        if match and match[1] in frame.columns:
            raise UserError(f"{file}: two columns are called {match[1]!r}: give one of them another name.")
    columns = {}
    for number, column in enumerate(frame, 1):
        name = column.name.strip() or f"column_{number}"
        if column.dtype == polars.String:
            column = column.str.strip_chars()
            column = column.set(column.is_in(MISSING), None)
            for kind in (polars.Int64, polars.Float64) if name not in words else ():
                numbers = column.cast(kind, strict=False)
                if numbers.null_count() == column.null_count() < len(column):
                    column = numbers  # as " 5", or infinity, which polars takes for words
                    break
        columns[name] = column
    if len(columns) < frame.width:
        raise UserError(f"{file}: two columns have one name. It has: {listed(columns)}.")
    return polars.DataFrame(columns).filter(~polars.all_horizontal(polars.all().is_null()))


def _separator(file: Path) -> str:
    if file.suffix.lower() in (".tsv", ".tab"):
        return "\t"
    with file.open("rb") as opened:
        header = opened.readline()
    return next((mark for mark in (",", "\t", ";") if mark.encode() in header), ",")


def _records(file: Path) -> Iterable[tuple[int, list[str]]]:
    """(number of its line, fields) of the header of a CSV file and of each row that has a value."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader, line = csv.reader(lines, delimiter=_separator(file)), 1
        for fields in reader:
            if any(field.strip() not in MISSING for field in fields):
                yield line, fields
            line = reader.line_num + 1


def _check_fields(file: Path) -> None:
    """Raises UserError for the first line that hasn't as many fields as the header."""
    try:
        wanted = 0
        for line, fields in _records(file):
            wanted = wanted or len(fields)
            if len(fields) != wanted:
                raise UserError(f"{file}, line {line}: {counted(len(fields), 'field')}, where the header has {wanted}.")
    except csv.Error:  # polars has said, or will say, what is wrong
        return


def _check_lines(file: Path) -> None:
    """Raises UserError for the first line that is no object in JSON."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                found = json.loads(line) if line.strip() else {}
            except (ValueError, RecursionError) as error:
                why = (
                    f"{error.msg} at character {error.pos + 1}"
                    if isinstance(error, json.JSONDecodeError)
                    else "not text"
                )
                raise UserError(f"{file}, line {number}: it is not JSON: {why}.") from error
            if not isinstance(found, dict):
                raise UserError(f'{file}, line {number}: an object is needed on each line, as {{"a": 1, "b": 2}}.')


def _first_line_that_is_no_text(file: Path) -> str:
    with file.open("rb") as opened:
        for number, line in enumerate(opened, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f"{file}, line {number}"
    return str(file)


def place(file: Path, row: int) -> str:
    """'FILE, line 7': where a row of a frame, counted from 0, stands in its file."""
    if file.suffix.lower() in (".jsonl", ".ndjson"):
        return f"{file}, line {row + 1}"
    if file.suffix.lower() in (".parquet", ".json"):
        return f"{file}, row {row + 1}"
    number = next((line for index, (line, _) in enumerate(_records(file), -1) if index == row), row + 2)
    return f"{file}, line {number}"
