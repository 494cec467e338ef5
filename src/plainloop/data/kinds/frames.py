"""Files of rows and columns become polars frames; what is wrong with one is told with its line."""

import dataclasses
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from plainloop.data.kinds.dialect import Dialect, Reading, dialect_of
from plainloop.data.kinds.numerals import numbers_as_words, typed, without_numbers
from plainloop.data.kinds.source import AS_TOLD, LINES, SHEETS, Source, place, whole_text
from plainloop.errors import UserError, counted, did_you_mean, first_line, listed
from plainloop.pickled import PHYSICAL
from plainloop.places import find_path
from plainloop.trust import optional

NAMELESS = re.compile(r"\s*(_duplicated_\d+)?")  # of a header, as polars calls a second one


def opened(
    path: str,
    words: Sequence[str] = (),
    reading: Reading = AS_TOLD,
    key: str = "data.path",
    like: Source | None = None,
) -> tuple[Source, Any]:
    """A user's file, and its rows as a polars frame; there is one at least. Raises UserError.

    Args:
        path: a relative one is looked for in the working directory, then in the checkout.
        words: columns whose values are words, even where they look like numbers.
        like: another file of the same data, as which this one is read.
    """
    file = find_path(path)
    if not file.is_file():
        what = "a folder, and a table is a file" if file.is_dir() else "there is no such file"
        raise UserError(f"{key}={path}: {what}.")
    source = Source(file, reading)
    source.like = like
    frame = read_frame(source, words)
    if frame.height == 0:
        raise UserError(f"{key}={path}: there are no rows in it.")
    return source, frame


def check_columns(named: Mapping[str, Sequence[str] | None], frame: Any, path: Source | Path | str) -> None:
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


def column_of(frame: Any, key: str, name: str, file: Source) -> Any:
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


def read_frame(source: Source, words: Sequence[str] = ()) -> Any:
    """A table from a CSV, TSV, Parquet, JSON-lines or Excel file, as a polars frame. Raises UserError.

    How a text file is written is told from itself (dialect.py), or said; spaces around a field and lines without any
    value don't count, and a column is of numbers only if all of it is.

    Args:
        words: columns whose values are words, even where they look like numbers.
    """
    import polars

    file, kind = source.path, source.kind
    try:
        if file.stat().st_size == 0:
            raise UserError(f"{file}: the file is empty.")
        if kind == ".parquet":
            frame = _read_parquet(source)
        elif kind in SHEETS:
            frame = _read_sheet(source)
        elif kind in (*LINES, ".json"):
            frame = _read_json(source)
        else:
            return _read_text(source, words)
        return _with_missing(source, numbers_as_words(source, frame))
    except (polars.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{file}: can't be read as a table: {first_line(error)}.") from error
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # polars' own bug, of no class that Exception has
            raise UserError(f"{file}: can't be read as a table: it is damaged ({first_line(error)}).") from error
        raise


def _with_missing(source: Source, frame: Any) -> Any:
    """A frame of a file that says itself what are numbers, without what the user calls missing. Raises UserError for
    what is said of text files only."""
    import polars

    reading = source.reading
    for name in ("separator", "decimal", "thousands", "encoding"):
        if getattr(reading, name) is not None and not (name == "encoding" and source.kind in (*LINES, ".json")):
            raise UserError(f"data.{name}={getattr(reading, name)}: {source} is no text of separated fields.")
    if reading.missing is None:
        return frame
    words = frame.select(polars.col(polars.String))
    frame = frame.with_columns(
        polars.when(~polars.col(words.columns).is_in(reading.missing)).then(polars.col(words.columns))
    )
    return frame.with_columns(without_numbers(column, reading.missing) for column in frame)


def _read_parquet(source: Source) -> Any:
    """A Parquet file, where memory takes what it unpacks to: a number that is repeated costs nothing in the file."""
    import polars

    lazy = polars.scan_parquet(source.path, glob=False)
    rows, columns = lazy.select(polars.len()).collect().item(), len(lazy.collect_schema())
    if rows * columns * 8 > PHYSICAL // 4:
        raise UserError(
            f"{source}: {rows:,} rows of {columns} columns are more than a quarter of this machine's memory."
        )
    return polars.read_parquet(source.path, glob=False)


def _read_sheet(source: Source) -> Any:
    """The first sheet of a spreadsheet."""
    import polars

    try:
        fastexcel: Any = optional("fastexcel")
    except ModuleNotFoundError:
        raise UserError(
            f'{source}: spreadsheets are read by the package fastexcel: pip install "plainloop[excel]", or save it as '
            "CSV."
        ) from None
    if zipfile.is_zipfile(source.path):
        with zipfile.ZipFile(source.path) as parts:
            if sum(part.file_size for part in parts.infolist()) > PHYSICAL // 4:
                raise UserError(f"{source}: it unpacks to more than a quarter of this machine's memory.")
    try:
        book = fastexcel.read_excel(str(source))
        sheets, header = book.sheet_names, source.reading.header is not False
        first = book.load_sheet(0, header_row=None, n_rows=1).to_polars() if header else None
        frame = polars.read_excel(source.path, has_header=header, infer_schema_length=None, drop_empty_rows=False)
    except Exception as error:  # fastexcel's own, and calamine's
        raise UserError(f"{source}: can't be read as a spreadsheet: {first_line(error)}.") from error
    names = (
        [str(name).strip() for name in first.row(0) if name is not None] if first is not None and first.height else []
    )
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:  # fastexcel would call the second x_1
        raise UserError(f"{source}: two columns are called {twice!r}: give one of them another name.")
    if len(sheets) > 1:
        source.notes.append(f"read: the sheet {sheets[0]}, of {listed(sheets)}")
    if not frame.height:
        raise UserError(f"{source}: there are no rows in its sheet {sheets[0]}, the first of {listed(sheets)}.")
    return _without_empty(source, frame)


# --- JSON ------------------------------------------------------------------------------------------------------------


def _read_json(source: Source) -> Any:
    """JSON lines, or a JSON array of objects. Python's own parser takes NaN and Infinity, which pandas writes."""
    import polars

    text, _ = source.text()
    is_array = text.lstrip()[:1] == "["
    try:
        return (polars.read_json if is_array else polars.read_ndjson)(
            io.BytesIO(text.encode()), infer_schema_length=None
        )
    except polars.exceptions.PolarsError as error:
        try:
            if is_array and source.kind in LINES and text.count("\n") > 1:
                is_array = text.lstrip().split("\n")[0].strip()[-1:] != "]"  # a list on each line
            rows = json.loads(text) if is_array else list(_objects(source, text))
            _check_kinds(source, rows)
            frame = polars.DataFrame(rows, infer_schema_length=None, strict=False)
        except UserError:
            raise
        except (ValueError, RecursionError, TypeError, polars.exceptions.PolarsError):
            raise UserError(f"{source}: can't be read as a table: {first_line(error)}.") from error
        import polars.selectors as cs

        return frame.with_columns(cs.float().fill_nan(None))


def _check_kinds(source: Source, rows: Any) -> None:
    """A column is of lists, of objects or of single values. Raises UserError for the first value of another kind."""
    kinds: dict[str, Any] = {}
    for number, row in enumerate(rows if isinstance(rows, list) else ()):
        for name, value in row.items() if isinstance(row, dict) else ():
            kind = type(value) if isinstance(value, list | dict) else None
            if value is not None and kinds.setdefault(name, kind) is not kind:
                words: dict[Any, str] = {list: "a list", dict: "an object", None: "a single value"}
                raise UserError(f"{place(source, number)}: {name} is {words[kind]}, and {words[kinds[name]]} before.")


def _objects(source: Source, text: str) -> Iterator[dict[str, Any]]:
    """The object on each line. Raises UserError for the first line that is none."""
    for number, line in enumerate(text.split("\n"), 1):  # others, as U+2028, may stand in a text
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except RecursionError as error:
            raise UserError(f"{source}, line {number}: it is nested too deeply.") from error
        except json.JSONDecodeError as error:
            why = f"{error.msg} at character {error.pos + 1}"
            raise UserError(f"{source}, line {number}: it is not JSON: {why}.") from error
        if not isinstance(found, dict):
            raise UserError(f'{source}, line {number}: an object is needed on each line, as {{"a": 1, "b": 2}}.')
        yield found


# --- text ------------------------------------------------------------------------------------------------------------


def _read_text(source: Source, words: Sequence[str]) -> Any:
    import polars

    text, encoding = source.text()
    dialect = source.dialect = dialect_of(text, source.path, source.reading, encoding)
    text = whole_text(source, text)
    frame = _as_words(source, text)
    if source.reading.header is False:
        frame.columns = [f"column_{number}" for number in range(1, frame.width + 1)]
    names = _names(source, frame.columns)
    frame.columns = names
    frame = frame.with_columns(polars.all().str.strip_chars()).with_columns(polars.all().replace("", None))
    frame = _without_empty(source, frame)
    repeated = frame.select(polars.all_horizontal(polars.col(name).eq_missing(name) for name in names)).to_series()
    if dialect and repeated.any():
        source.kept, frame = (~repeated).arg_true(), frame.filter(~repeated)
        source.notes.append(f"{counted(int(repeated.sum()), 'more line')} with the columns' names left out")
    return typed(source, frame, words)


def _names(source: Source, given: Sequence[str]) -> list[str]:
    """The names of the columns; those without one are called by their place. Raises UserError for one that two have."""
    data = [name for name in given if re.fullmatch(r"-?\d*[.,]\d+(_duplicated_\d+)?", name.strip())]
    if len(data) > 1 and source.reading.header is None:
        source.notes.append(
            f"the first line is taken for the columns' names, and looks like data ({listed(data, 2)}): "
            "data.header=false"
        )
    for name in given:
        match = re.fullmatch(r"(.*\S.*)_duplicated_\d+", name)
        if match and match[1] in given:
            why = " Or is the first line data? Then data.header=false" if data else ""
            raise UserError(f"{source}: two columns are called {match[1]!r}: give one of them another name.{why}")
    names = [f"column_{place}" if NAMELESS.fullmatch(name) else name.strip() for place, name in enumerate(given, 1)]
    if len(set(names)) < len(names):
        raise UserError(f"{source}: two columns have one name. It has: {listed(dict.fromkeys(names))}.")
    invented = [new for old, new in zip(given, names, strict=True) if NAMELESS.fullmatch(old)]
    if invented:
        source.notes.append(f"without a name in the file, and called by their place: {listed(invented)}")
    return names


def _without_empty(source: Source, frame: Any) -> Any:
    """The rows that hold anything; it is said where others lie between them."""
    import polars

    empty = frame.select(polars.all_horizontal(polars.all().is_null())).to_series()
    kept = (~empty).arg_true()
    if not len(kept) or len(kept) == frame.height:
        return frame.filter(~empty)
    between = int(kept[-1]) + 1 - len(kept)
    if between:
        source.notes.append(f"{counted(between, 'row')} without any value left out")
    if source.is_sheet:
        source.kept = kept
    return frame.filter(~empty)


def _as_words(source: Source, text: str) -> Any:
    """All fields as words; it is said what stands in the file beside them. Raises UserError for the first line that
    hasn't as many fields as the header."""
    dialect = source.dialect
    assert dialect is not None
    frame = _by_polars(source, text)
    if '"' not in text:
        return _by_hand(source, text) if frame is None else frame
    within = rf'\\"(?![{re.escape(dialect.separator)}\r\n]|$)'  # a quote within quotes, as C writes it, and not CSV
    if '\\"' in text and (frame is None or re.search(within, text)):
        source.dialect = dataclasses.replace(dialect, escaped=True)
        other = _by_polars(source, whole_text(source, text))
        if other is not None and (frame is None or other.shape == frame.shape):
            source.notes.append('quotes within quotes are written \\"')
            return other
        source.dialect = dialect
    lines = [line for line in text.split("\n")[dialect.skip :] if line.strip()]
    width = lines[0].count(dialect.separator)
    merged = frame is None or frame.height < len(lines) - 1
    each = merged and width and all(line.count(dialect.separator) == width for line in lines)
    if each and not (frame is not None and frame.width == width + 1 and _is_well_formed(dialect, text)):
        # Each line is whole by itself: a quote that isn't closed would have swallowed lines.
        source.dialect = dataclasses.replace(dialect, quote="")
        source.notes.append("quotes stand in it as they are")
        return _by_hand(source, text)
    if text.count('"') % 2 and dialect.ends_within_quotes(text):
        _refuse_open_quote(source, text)
    return _by_hand(source, text) if frame is None else frame


def _is_well_formed(dialect: Dialect, text: str) -> bool:
    """Whether every field is either without quotes or in quotes from its beginning to its end: then a line feed within
    quotes belongs to a field."""
    mark = re.escape(dialect.separator)
    return re.fullmatch(rf'(?:(?:"(?:[^"]|"")*"|[^"{mark}\r\n]*)(?:{mark}|\r?\n|$))*', text) is not None


def _refuse_open_quote(source: Source, text: str) -> None:
    """Raises UserError for the record that is still open where the file ends."""
    assert source.dialect is not None
    line = 1
    for line, _ in source.dialect.records(text):  # noqa: B007
        pass
    raise UserError(
        f"{source}, line {line}: a quote (\") is opened in this line and not closed, so that its fields can't be told "
        'apart. Write "" for one within a field, or take it out.'
    )


def _by_polars(source: Source, text: str) -> Any:
    """All fields as words; None where polars can't read it, or lines are too short, which it would fill up."""
    import polars

    dialect = source.dialect
    assert dialect is not None
    if not dialect.is_plain:
        return None
    try:
        frame = polars.read_csv(
            io.BytesIO(text.encode()),
            separator=dialect.separator,
            infer_schema=False,
            skip_lines=dialect.skip,
            has_header=source.reading.header is not False,
        )
    except polars.exceptions.PolarsError:
        return None
    last = frame.columns[-1]
    if NAMELESS.fullmatch(last) or (
        frame.height and frame[last].has_nulls() and not dialect.all_alike(text, frame.width)
    ):
        return None
    return frame


def _by_hand(source: Source, text: str) -> Any:
    """All fields as words, by Python's csv. Raises UserError for the first line that hasn't as many as the header."""
    import csv

    import polars

    dialect = source.dialect
    assert dialect is not None
    try:
        rows = list(dialect.records(text))
    except csv.Error as error:
        raise UserError(f"{source}: can't be read as a table: {first_line(error)}.") from error
    if not rows:
        raise UserError(f"{source}: there are no rows in it.")
    header, lines = rows[0][1], text.split("\n")
    if source.reading.header is False:
        header = [f"column_{number}" for number in range(1, len(header) + 1)]
    else:
        rows = rows[1:]
    header, rows = _without_ends(header, rows)
    one_more = rows and len(header) > 1 and all(len(fields) == len(header) + 1 for _, fields in rows)
    if one_more and all(lines[number - 1].startswith('"') for number, _ in rows):  # names of the rows, as R writes them
        rows = [(line, fields[1:]) for line, fields in rows]
        source.notes.append("the first field of each row, for which the header has no name, is left out")
    for line, fields in rows:
        if len(fields) != len(header):
            _refuse_fields(source, line, len(fields), len(header), text)
    header = [
        f"{name}_duplicated_{place}" if name.strip() and name in header[:place] else name
        for place, name in enumerate(header)
    ]
    header = [name if name.strip() else f"_duplicated_{place}" for place, name in enumerate(header)]
    data = {name: [fields[place] for _, fields in rows] for place, name in enumerate(header)}
    return polars.DataFrame(data, schema=dict.fromkeys(header, polars.String))


def _without_ends(
    header: list[str], rows: list[tuple[int, list[str]]]
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Without the columns at the end that have no name and no value: lines that end in separators."""
    width = len(header)
    while width and not header[width - 1].strip():
        width -= 1
    if not any(field.strip() for _, fields in rows for field in fields[width:]):
        most = max((len(fields) for _, fields in rows), default=0)
        if len(header) > width or all(len(fields) == most for _, fields in rows):
            # A line that is too short, or has fewer of the separators, is told later.
            rows = [(line, fields[:width]) for line, fields in rows]
            return header[:width], rows
    return header, rows


def _refuse_fields(source: Source, line: int, count: int, wanted: int, text: str) -> None:
    """Raises UserError: a line has another number of fields; perhaps because of a quote that isn't closed."""
    if source.dialect and source.dialect.quote and text.split("\n")[line - 1].count('"') % 2:
        raise UserError(
            f"{source}, line {line}: a quote (\") is opened in this line and not closed, so that its fields can't be "
            'told apart. Write "" for one within a field, or take it out.'
        )
    raise UserError(f"{source}, line {line}: {counted(count, 'field')}, where the header has {wanted}.")
