"""Files of rows and columns become polars frames; what is wrong with one is told with its line."""

import contextlib
import dataclasses
import io
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from plainloop.data.kinds.dialect import (
    APOSTROPHES,
    DATE,
    MISSING,
    Dialect,
    Dressed,
    Marks,
    Reading,
    decoded,
    dialect_of,
    meaning,
    name_of,
    numbers_in,
    plain_numbers,
    undressed,
    unpacked,
)
from plainloop.errors import UserError, counted, did_you_mean, first_line, listed
from plainloop.places import find_path
from plainloop.trust import optional

SHEETS = (".xlsx", ".xls", ".xlsb", ".ods")
LINES = (".jsonl", ".ndjson")
PACKED = (".gz", ".bz2", ".xz", ".zst")
AS_TOLD = Reading()


class Source:
    """A table's file, as it is called in errors, and how it was read.

    Args:
        said: a remark on how it was read; empty where it is as everybody expects.
    """

    def __init__(self, path: Path, reading: Reading = AS_TOLD):
        self.path, self.reading = path, reading
        self.dialect: Dialect | None = None
        self.kept: Any = None  # of its rows, where some were left out: their numbers
        self.like: Source | None = None  # another file of the same data, whose columns say what these hold
        self.marks: dict[str, tuple[str, str]] = {}  # of columns of numbers: decimal mark, mark of thousands
        self.words: list[str] = []  # the columns of words
        self.said = ""

    def __str__(self) -> str:
        return str(self.path)

    @property
    def parent(self) -> Path:
        return self.path.parent

    @property
    def kind(self) -> str:
        """ ".csv", also of table.csv.gz."""
        name = self.path.with_suffix("") if self.path.suffix.lower() in PACKED else self.path
        return name.suffix.lower()

    def text(self) -> tuple[str, str]:
        """Its text, and the encoding of that. Raises UserError."""
        return decoded(unpacked(self.path), self.path, self.reading.encoding)

    def place(self, row: int) -> str:
        """'FILE, line 7': where a row of its frame, counted from 0, stands."""
        row = row if self.kept is None else int(self.kept[row])
        if self.kind in LINES:
            lines = (number for number, line in enumerate(self.text()[0].split("\n"), 1) if line.strip())
            return f"{self}, line {next(itertools.islice(lines, row, None), row + 1)}"
        if self.dialect is None:
            return f"{self}, row {row + 1 + (self.kind in SHEETS)}"
        first = 0 if self.reading.header is False else -1
        records = self.dialect.records(_whole(self, self.text()[0]))
        number = next((line for index, (line, _) in enumerate(records, first) if index == row), row + 2)
        return f"{self}, line {number}"


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


def place(file: Source, row: int) -> str:
    """'FILE, line 7': where a row of a frame, counted from 0, stands in its file."""
    return file.place(row)


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
            return _with_missing(source, polars.read_parquet(file))
        if kind in SHEETS:
            return _with_missing(source, _read_sheet(source))
        if kind in (*LINES, ".json"):
            return _with_missing(source, _read_json(source))
        return _read_text(source, words)
    except (polars.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{file}: can't be read as a table: {first_line(error)}.") from error


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
    try:
        sheets = fastexcel.read_excel(str(source)).sheet_names
        frame = polars.read_excel(source.path, has_header=source.reading.header is not False, infer_schema_length=None)
    except Exception as error:  # fastexcel's own, and calamine's
        raise UserError(f"{source}: can't be read as a spreadsheet: {first_line(error)}.") from error
    if len(sheets) > 1:
        source.said = f"read: the sheet {sheets[0]}, of {len(sheets)}"
    return frame


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
            rows = json.loads(text) if is_array else list(_objects(source, text))
            frame = polars.DataFrame(rows, infer_schema_length=None, strict=False)
        except UserError:
            raise
        except (ValueError, RecursionError, TypeError, polars.exceptions.PolarsError):
            raise UserError(f"{source}: can't be read as a table: {first_line(error)}.") from error
        import polars.selectors as cs

        return frame.with_columns(cs.float().fill_nan(None))


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


def _whole(source: Source, text: str) -> str:
    """A text with line feeds where it has carriage returns alone, and quotes within quotes as CSV has them."""
    dialect = source.dialect
    text = text.replace("\r", "\n") if dialect is not None and dialect.newline == "\r" else text
    return text.replace('\\"', '""') if dialect is not None and dialect.escaped else text


def _read_text(source: Source, words: Sequence[str]) -> Any:
    import polars

    text, encoding = source.text()
    dialect = source.dialect = dialect_of(text, source.path, source.reading, encoding)
    text = _whole(source, text)
    frame, remarks = _as_words(source, text)
    if source.reading.header is False:
        frame.columns = [f"column_{number}" for number in range(1, frame.width + 1)]
    for name in frame.columns:
        match = re.fullmatch(r"(.*)_duplicated_\d+", name)
        if match and match[1] in frame.columns:
            raise UserError(f"{source}: two columns are called {match[1]!r}: give one of them another name.")
    names = [name.strip() or f"column_{number}" for number, name in enumerate(frame.columns, 1)]
    if len(set(names)) < len(names):
        raise UserError(f"{source}: two columns have one name. It has: {listed(dict.fromkeys(names))}.")
    frame.columns = names
    frame = frame.with_columns(polars.all().str.strip_chars()).with_columns(polars.all().replace("", None))
    frame = frame.filter(~polars.all_horizontal(polars.all().is_null()))
    repeated = frame.select(polars.all_horizontal(polars.col(name).eq_missing(name) for name in names)).to_series()
    if dialect and repeated.any():
        source.kept, frame = (~repeated).arg_true(), frame.filter(~repeated)
        remarks.append(f"{counted(int(repeated.sum()), 'more line')} with the columns' names left out")
    frame = _typed(source, frame, words)
    source.said = "\n".join(filter(None, [source.said, *remarks]))
    return frame


def _as_words(source: Source, text: str) -> tuple[Any, list[str]]:
    """All fields as words, and remarks on what stands in the file beside them. Raises UserError for the first line that
    hasn't as many fields as the header."""
    dialect = source.dialect
    assert dialect is not None
    frame = _by_polars(source, text)
    if '"' not in text:
        return (_by_hand(source, text) if frame is None else frame), []
    if frame is None and '\\"' in text:  # a quote within quotes, as C writes it, and not CSV
        source.dialect = dataclasses.replace(dialect, escaped=True)
        frame = _by_polars(source, _whole(source, text))
        if frame is None:
            source.dialect = dialect
        else:
            return frame, ['quotes within quotes are written \\"']
    lines = [line for line in text.split("\n")[dialect.skip :] if line.strip()]
    width = lines[0].count(dialect.separator)
    merged = frame is None or frame.height < len(lines) - 1
    if merged and width and all(line.count(dialect.separator) == width for line in lines):
        # Each line is whole by itself: a quote that isn't closed would have swallowed lines.
        source.dialect = dataclasses.replace(dialect, quote="")
        return _by_hand(source, text), ["quotes stand in it as they are"]
    if text.count('"') % 2 and dialect.ends_within_quotes(text):
        _refuse_open_quote(source, text)
    return (_by_hand(source, text) if frame is None else frame), []


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
    if not last.strip() or (frame.height and frame[last].has_nulls() and not dialect.all_alike(text, frame.width)):
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
    header = rows[0][1]
    if source.reading.header is False:
        header = [f"column_{number}" for number in range(1, len(header) + 1)]
    else:
        rows = rows[1:]
    if header and not header[-1].strip():  # a line that ends in a separator, or all of them do
        ends = [fields for _, fields in rows if len(fields) == len(header)]
        if not any(fields[-1].strip() for fields in ends):
            header = header[:-1]
            rows = [
                (line, fields[: len(header)] if len(fields) == len(header) + 1 else fields) for line, fields in rows
            ]
    elif rows and all(len(fields) == len(header) + 1 and not fields[-1].strip() for _, fields in rows):
        rows = [(line, fields[:-1]) for line, fields in rows]
    for line, fields in rows:
        if len(fields) != len(header):
            _refuse_fields(source, line, len(fields), len(header), text)
    header = [f"{name}_duplicated_{place}" if name in header[:place] else name for place, name in enumerate(header)]
    data = {name: [fields[place] for _, fields in rows] for place, name in enumerate(header)}
    return polars.DataFrame(data, schema=dict.fromkeys(header, polars.String))


def _refuse_fields(source: Source, line: int, count: int, wanted: int, text: str) -> None:
    """Raises UserError: a line has another number of fields; perhaps because of a quote that isn't closed."""
    if source.dialect and source.dialect.quote and text.split("\n")[line - 1].count('"') % 2:
        raise UserError(
            f"{source}, line {line}: a quote (\") is opened in this line and not closed, so that its fields can't be "
            'told apart. Write "" for one within a field, or take it out.'
        )
    raise UserError(f"{source}, line {line}: {counted(count, 'field')}, where the header has {wanted}.")


# --- words become numbers --------------------------------------------------------------------------------------------


def _typed(source: Source, frame: Any, words: Sequence[str]) -> Any:
    """The columns that are numbers as numbers, true and false as such, and what was found as a remark."""
    import polars

    reading, dialect, like = source.reading, source.dialect, source.like
    assert dialect is not None
    if reading.missing is not None:
        frame = frame.with_columns(polars.when(~polars.all().is_in(reading.missing)).then(polars.all()))
    columns = {column.name: column for column in frame}
    held = {name: _without_missing(column, reading) for name, column in columns.items()}
    as_words = {*words, *(like.words if like is not None else ())}
    dressed: dict[str, Dressed] = {}
    for name, column in held.items():
        if name in as_words or not column.count():
            continue
        numbers = None if reading.decimal == "," else plain_numbers(column)
        if numbers is not None:
            columns[name] = numbers
        elif found := undressed(column):
            dressed[name] = found
    # Where commas are decimal marks somewhere, 23.162 may have thousands, however plain it looks.
    found_marks = {name: Marks.of(found.values) for name, found in dressed.items()}
    found_marks = {name: marks for name, marks in found_marks.items() if _is_number(dressed[name])}
    if any("," in marks.decimals for marks in found_marks.values()) or reading.thousands == "." or like is not None:
        for name, column in columns.items():
            if column.dtype.is_float() and name not in dressed and name not in as_words:
                dressed[name] = Dressed(held[name], "")
                found_marks[name] = Marks.of(held[name])
    file_marks = Marks(set(), set(), set())
    for each in found_marks.values():
        file_marks.add(each)
    if like is None and not found_marks:  # points alone: are there some that may be thousands?
        for name, column in columns.items():
            if column.dtype.is_float() and dialect.separator != "," and Marks.of(held[name]).only_unclear("."):
                found_marks[name], dressed[name] = Marks.of(held[name]), Dressed(held[name], "")
    kept: dict[str, dict[str, int]] = {}
    told, sure = Told(), bool(reading.decimal or reading.thousands or file_marks.decimals or file_marks.thousands)
    for name, column in columns.items():
        marks = found_marks.get(name)
        if column.dtype != polars.String and marks is None:
            continue
        decimal, groups = meaning(marks, file_marks, reading, dialect.separator) if marks else (".", "")
        if like is not None and name in like.marks:
            decimal, groups = like.marks[name]
        numbers = numbers_in(dressed[name], decimal, groups) if marks else None
        if numbers is None:
            columns[name] = _words_or_truths(frame[name], held[name], name in as_words, kept)
            continue
        assert marks is not None
        columns[name] = numbers
        source.marks[name] = decimal, groups
        told.add(name, dressed[name], marks, decimal, groups, numbers, sure=sure)
    if reading.missing is not None:
        columns = {name: without_numbers(column, reading.missing) for name, column in columns.items()}
    source.words = [name for name, column in columns.items() if column.dtype == polars.String]
    source.said = told.remark(dialect, kept)
    return polars.DataFrame(columns)


def _is_number(words: Dressed) -> bool:
    """Whether the marks can be those of numbers, in one way or another: dates and addresses have some too."""
    return any(numbers_in(words, *marks) is not None for marks in ((".", ","), (",", ".")))


def without_numbers(column: Any, missing: Sequence[str]) -> Any:
    """A column of numbers without those that mean a missing value, as -999."""
    values = []
    for word in missing:
        with contextlib.suppress(ValueError):
            values.append(float(word))
    return where(~column.is_in(values), column) if values and column.dtype.is_numeric() else column


def _without_missing(column: Any, reading: Reading) -> Any:
    """A column without the words that stand where a number is missing."""
    return column if reading.missing is not None else where(~column.is_in(MISSING), column)


def _words_or_truths(column: Any, held: Any, is_words: bool, kept: dict[str, dict[str, int]]) -> Any:
    """A column that holds no numbers (alone). NA, None and null are words in a column of words, and mean a missing
    value among numbers, truths and dates."""
    import polars

    values = held.drop_nulls()
    if not len(values):
        return held
    lowered = values.str.to_lowercase()
    if not is_words and (plain := plain_numbers(held)) is not None:
        return plain  # infinity among them
    numbers = values.cast(polars.Float64, strict=False).count()
    if lowered.is_in(["true", "false"]).all() and not is_words:
        return (held.str.to_lowercase() == "true").alias(column.name)
    if numbers > len(values) / 2 or values.str.contains(DATE).all():
        return held
    found = {word: int((column == word).sum()) for word in MISSING if word and (column == word).any()}
    if found and values.n_unique() <= max(1000, len(values) // 2):
        kept[column.name] = found
    return column


class Told:
    """What was found of the numbers of a file, as far as it isn't as everybody expects."""

    def __init__(self) -> None:
        self.decimals: set[str] = set()
        self.thousands: dict[str, list[str]] = {}
        self.units: dict[str, str] = {}
        self.unsure: list[str] = []

    def add(self, name: str, words: Dressed, marks: Marks, decimal: str, groups: str, numbers: Any, sure: bool) -> None:
        held = words.values.drop_nulls()
        if words.unit:
            self.units[name] = words.unit
        if numbers.dtype.is_float() and decimal in marks.decimals | marks.unclear:
            self.decimals.add(decimal)
        for mark in (groups, " ", *APOSTROPHES):
            if mark and held.str.contains(rf"\d{re.escape(mark)}\d").any():
                self.thousands.setdefault(mark, []).append(name)
        mark = next(iter(sorted(marks.unclear)), "")
        if mark and not sure and not (marks.decimals | marks.thousands):
            first = held.filter(held.str.contains(mark, literal=True))[0]
            read = float((first.replace(groups, "") if groups else first).replace(decimal, "."))
            other = f"data.decimal={mark}" if groups == mark else f"data.thousands={mark}"
            self.unsure.append(f"{first} in {name} is read as {read:g} (else {other})")

    def remark(self, dialect: Dialect, kept: Mapping[str, Mapping[str, int]]) -> str:
        """The lines that are printed."""
        parts = [] if dialect.separator == "," else [f"separator {name_of(dialect.separator)}"]
        if "," in self.decimals:
            parts.append(f"decimals {' and '.join(sorted(self.decimals))}")
        for mark, names in sorted(self.thousands.items()):
            parts.append(f"thousands {name_of(mark)} ({listed(names, 4)})")
        if dialect.encoding.lower() not in ("utf-8", "utf8", "utf-8-sig"):
            parts.append(dialect.encoding)
        lines = [f"read as {'  '.join(parts)}"] if parts else []
        if self.unsure:
            lines.append(listed(self.unsure, 3))
        if self.units:
            lines.append(f"numbers in {listed((f'{unit} ({name})' for name, unit in self.units.items()), 6)}")
        if kept:
            each = [(word, name, count) for name, words in kept.items() for word, count in words.items()]
            told = listed((f"{word} in {name} ({counted(count, 'row')})" for word, name, count in each), 4)
            some = sorted({word for words in kept.values() for word in words})
            lines.append(f"taken as a word: {told}; data.missing=[{','.join(some)}] makes it a missing value")
        return "\n".join(lines)


def where(mask: Any, values: Any) -> Any:
    """A column, null where a mask isn't true."""
    import polars

    return polars.select(polars.when(mask).then(values)).to_series().alias(values.name)
