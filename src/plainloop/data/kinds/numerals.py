"""Words in a file become numbers: 1.234,5 and 1,234.5, 12 %, $5, (3) are told from the columns that they stand in, and
what isn't as everybody expects is said."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plainloop.data.kinds.dialect import Dialect, Reading, name_of
from plainloop.data.kinds.source import Source
from plainloop.errors import UserError, counted, listed
from plainloop.places import grammar, quoted

# What people, spreadsheets, databases, SAS, R, NumPy and pandas write where there is no number.
MISSING = ("", "NA", "N/A", "n/a", "na", "#N/A", "<NA>", "NaN", "nan", "null", "NULL", "None", "none", "?", "-", "--",
           ".", "\\N", "#DIV/0!", "#VALUE!", "#REF!", "#NUM!")  # fmt: skip
# A date (2024-05-31, 31.5.2024, 5/31/24), with or without a time behind it, or a time alone.
DATE = r"^(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{2}|\d{4}))([T ].*)?$|^\d{1,2}:\d{2}(:\d{2}.*)?$"
SPACES = " \u00a0\u2009\u202f"
MINUS = "\u2212\u2012\u2013\ufe63\uff0d"
CURRENCIES = r"(?:[$€£¥₹₽₩]|USD|EUR|GBP|CHF|JPY)"
APOSTROPHES = "'\u2019"
NUMBER = rf"^[+-]?(?:\d[\d.,{APOSTROPHES} ]*|[.,]\d+)(?:[eE][+-]?\d+)?$"
BRACKETS = r"^\(([^()]*\d[^()]*)\)$"  # -5, as bookkeepers write it; standard errors, where all are so
ADDRESS = r"^\d{1,3}(\.\d{1,3}){3}$"  # of the internet


@dataclass(frozen=True)
class Dressed:
    """Words of a column that may be numbers: without what stands around them.

    Args:
        values: a polars Series of words, marks still in them; those that mean a missing value are null.
        unit: "%", "€", ...: what was taken off all of them.
        turned: the first that is negative by what stands around it: (5), 5-.
    """

    values: Any
    unit: str = ""
    turned: str = ""


def undressed(column: Any) -> Dressed | None:
    """A column of words (stripped, missing ones null) as `Dressed`; None where they aren't numbers."""
    import polars

    values = column.str.replace_all(f"[{MINUS}]", "-").str.replace_all(f"[{SPACES}]", " ")
    held, unit, turned = values.drop_nulls(), "", ""
    if not len(held) or held.str.contains(ADDRESS).all() or held.str.contains(r"^\d.*-$").all():
        return None
    if held.str.contains(BRACKETS).all():
        values, unit = values.str.replace(BRACKETS, "$1"), "brackets"
    else:
        around = held.filter(held.str.contains(rf"{BRACKETS}|^\d.*-$"))
        turned = around[0] if len(around) else ""
        values = values.str.replace(BRACKETS, "-$1").str.replace(r"^(\d.*)-$", "-$1")
    held = values.drop_nulls()
    for pattern in (r"\s*(%)$", rf"\s*({CURRENCIES})$", rf"^[+-]?({CURRENCIES})\s*"):
        units = held.str.extract(pattern, 1)
        if not units.has_nulls() and units.n_unique() == 1:
            unit = f"{units[0]} and {unit}" if unit else units[0]
            off = rf"^([+-]?){CURRENCIES}\s*" if pattern.startswith("^") else pattern
            values = values.str.replace(off, "${1}" if pattern.startswith("^") else "")
            held = values.drop_nulls()
            break
    if not held.str.contains(NUMBER).all():
        return None
    assert values.dtype == polars.String
    return Dressed(values, unit, turned)


@dataclass
class Marks:
    """What the points and commas of a file's numbers mean, as far as its numbers tell."""

    decimals: set[str]
    thousands: set[str]
    unclear: set[str]  # 1,234 alone may be either

    @classmethod
    def of(cls, values: Any) -> "Marks":
        found = cls(set(), set(), set())
        held = values.drop_nulls()
        for mark, other in ((".", ","), (",", ".")):
            m, o = re.escape(mark), re.escape(other)
            certain = (  # 0,5 or 0,1234; 1234,567; 1.234,5; 1 234,567
                rf"(?i)^[+-]?\d*{m}(\d{{1,2}}|\d{{4,}})?(e.*)?$|^[+-]?0?{m}\d+|^[+-]?(\d{{4,}}|0\d+){m}\d+|{o}.*{m}|"
                rf"^[+-]?\d+{m}\d+e|"
                rf"[{APOSTROPHES} ].*{m}"
            )
            if held.str.contains(certain).any():
                found.decimals.add(mark)
            if held.str.contains(rf"{m}\d{{2,3}}{m}|{m}.*{o}").any():
                found.thousands.add(mark)
            if held.str.contains(rf"^[+-]?[1-9]\d{{0,2}}{m}\d{{3}}$").any():
                found.unclear.add(mark)
        return found

    def only_unclear(self, mark: str) -> bool:
        """Whether a mark stands before three digits only, so that it may be either."""
        return mark in self.unclear and mark not in self.decimals | self.thousands

    def add(self, other: "Marks") -> None:
        self.decimals |= other.decimals
        self.thousands |= other.thousands


def meaning(own: Marks, file: Marks, said: Reading, separator: str) -> tuple[str, str]:
    """The decimal mark of a column and its mark for thousands ("" for none): as the user says, as its own numbers tell,
    as the file's do; else a point is a decimal one, and a comma too where semicolons part the fields."""
    if said.decimal is not None:
        other = {".": ",", ",": "."}.get(said.decimal, "")
        return said.decimal, said.thousands if said.thousands is not None else other
    decimals, thousands = own.decimals - own.thousands, own.thousands | set(said.thousands or "")
    if {".", ","} <= own.unclear and not decimals | thousands:
        return ".", ""  # 1.500 and 1,234 in one column: no numbers
    for mark in sorted(own.unclear - decimals - thousands):
        other = "," if mark == "." else "."
        as_elsewhere = mark in file.thousands or (mark not in file.decimals and other in file.decimals)
        if other in decimals or as_elsewhere or (mark == "," and separator != ";" and mark not in file.decimals):
            thousands = thousands | {mark}
        else:
            decimals = decimals | {mark}
    decimal = min(decimals - thousands, default="." if "." not in thousands else ",")
    return decimal, min(thousands - {decimal}, default="")


def numbers_in(words: Dressed, decimal: str, thousands: str) -> Any:
    """The numbers (a polars Series of Int64 or Float64), or None where they aren't all written so."""
    if not _written_so(words, decimal, thousands).all():
        return None
    plain = words.values.str.replace_all(f"[{re.escape(APOSTROPHES + ' ' + thousands)}]", "")
    if decimal != ".":
        plain = plain.str.replace(decimal, ".", literal=True)
    return plain_numbers(plain)


def _written_so(words: Dressed, decimal: str, thousands: str) -> Any:
    """Which of the words are numbers with these marks; those that are missing are null."""
    d, groups = re.escape(decimal), re.escape(APOSTROPHES + " " + thousands)
    grouped = rf"^[+-]?[1-9]\d{{0,2}}([{groups}]\d{{2,3}})*[{groups}]\d{{3}}({d}\d*)?$"  # and 1,00,000
    single = rf"^[+-]?(\d+({d}\d*)?|{d}\d+)([eE][+-]?\d+)?$"
    return words.values.str.contains(f"{grouped}|{single}")


def _misfit(words: Dressed) -> int | None:
    """The first row whose number isn't written as most are; None where there is no such way."""
    masks = [_written_so(words, *marks) for marks in ((".", ","), (",", "."))]
    most = max(masks, key=lambda mask: mask.sum())
    few = int((~most).sum())
    return int((~most).fill_null(False).arg_true()[0]) if 0 < few < most.count() / 2 else None


def plain_numbers(column: Any) -> Any:
    """Words as Int64 or Float64, as Python reads them; None where they aren't all numbers, or ids of more digits than
    such a number has."""
    import polars

    for kind in (polars.Int64, polars.Float64):
        numbers = column.cast(kind, strict=False)
        if numbers.null_count() == column.null_count():
            too_long = kind == polars.Float64 and column.str.contains(r"^[+-]?\d{19,}$").any()
            return None if too_long else numbers
    return None


# --- the columns of a file ----------------------------------------------------------------------------------------


def typed(source: Source, frame: Any, words: Sequence[str]) -> Any:
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
    told = Told()
    for name, column in held.items():
        if name in as_words or not column.count():
            continue
        numbers = None if reading.decimal == "," else plain_numbers(column)
        if numbers is not None:
            columns[name] = numbers
            zeros = column.filter(column.str.contains(r"^0\d+$"))
            told.codes |= {name: zeros[0]} if len(zeros) else {}
        elif found := undressed(column):
            dressed[name] = found
    # Where commas are decimal marks somewhere, 23.162 may have thousands, however plain it looks.
    found_marks = {name: Marks.of(found.values) for name, found in dressed.items()}
    for name in [name for name in found_marks if not _is_number(dressed[name])]:
        row = _misfit(dressed[name])
        if row is not None:
            source.misfits[name] = row
        found_marks.pop(name)
    plain = {name: Marks.of(held[name]) for name, column in columns.items() if column.dtype.is_float()}
    points = any("," in marks.decimals or "." in marks.thousands for marks in found_marks.values())
    if points or reading.thousands == "." or like is not None:
        dressed |= {name: Dressed(held[name]) for name in plain}
        found_marks |= plain
    file_marks = Marks(set(), set(), set())
    for each in found_marks.values():
        file_marks.add(each)
    file_marks.decimals |= {mark for marks in plain.values() for mark in marks.decimals}  # 5.5 tells that of 1,234
    if like is None and not file_marks.decimals | file_marks.thousands and dialect.separator != ",":
        unclear = {name: marks for name, marks in plain.items() if marks.only_unclear(".")}  # may be thousands
        dressed |= {name: Dressed(held[name]) for name in unclear}
        found_marks |= unclear
    kept: dict[str, dict[str, int]] = {}
    sure = bool(reading.decimal or reading.thousands or file_marks.decimals or file_marks.thousands)
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
    source.units = told.units
    if like is not None:
        _check_units(source, like, [name for name, column in columns.items() if column.dtype.is_numeric()])
    source.words = [name for name, column in columns.items() if column.dtype == polars.String]
    source.notes = [told.remark(dialect, kept), *source.notes]
    return polars.DataFrame(columns)


def _check_units(source: Source, like: Source, numbers: Sequence[str]) -> None:
    """12 % in one file and 0.12 in another of the same data are no numbers of one kind. Raises UserError."""
    for name in numbers:
        here, there = source.units.get(name), like.units.get(name)
        if here != there:
            raise UserError(
                f"{source}: {name} holds numbers {f'in {here}' if here else 'alone'}, and in {like} "
                f"{f'in {there}' if there else 'alone'}: write them in one unit."
            )


def numbers_as_words(source: Source, frame: Any) -> Any:
    """A frame of a file that says itself what are numbers: without blanks around names and words. A spreadsheet's cells
    that hold a number as text are numbers all the same; in other files they are meant as words, and it is said."""
    import polars

    names = [name.strip() for name in frame.columns]
    if len(set(names)) == len(names):
        frame.columns = names
    frame = frame.with_columns(polars.col(polars.String).str.strip_chars())
    read: dict[str, Any] = {}
    for column in frame.select(polars.col(polars.String)):
        held = where(~column.is_in(MISSING), column)
        numbers = plain_numbers(held) if held.count() else None
        if numbers is not None:
            read[column.name] = numbers
    if not read:
        return frame
    if source.is_sheet:
        source.notes.append(f"numbers that are written as text: {listed(read)}")
        return frame.with_columns(**read)
    source.notes.append(f"numbers that are written as text are taken as words: {listed(read)}")
    return frame


def _is_number(words: Dressed) -> bool:
    """Whether the marks can be those of numbers, in one way or another: dates and addresses have some too."""
    return any(numbers_in(words, *marks) is not None for marks in ((".", ","), (",", ".")))


def without_numbers(column: Any, missing: Sequence[str]) -> Any:
    """A column of numbers without those that mean a missing value, as -999."""
    import polars

    values = []
    for word in missing:
        with contextlib.suppress(ValueError):
            values.append(float(word))
    if not values or not column.dtype.is_numeric():
        return column
    return where(~column.cast(polars.Float64).is_in(values), column)


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
        self.turned: list[str] = []
        self.codes: dict[str, str] = {}  # by column, the first that begins with 0

    def add(self, name: str, words: Dressed, marks: Marks, decimal: str, groups: str, numbers: Any, sure: bool) -> None:
        held = words.values.drop_nulls()
        if words.unit:
            self.units[name] = words.unit
        if words.turned:
            row = (words.values.is_not_null() & (words.values.str.contains("^-"))).arg_true()
            first = next(each for each in numbers.gather(row) if each is not None)
            self.turned.append(f"{words.turned} in {name} is read as {first:g}")
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
        lines += [listed(each, 3) for each in (self.unsure, self.turned) if each]
        if self.codes:
            codes = listed((f"{word} in {name} is the number {int(word)}" for name, word in self.codes.items()), 3)
            lines.append(f"{codes} (in a table, data.categorical=[{','.join(self.codes)}] keeps such words)")
        if self.units:
            lines.append(f"numbers in {listed((f'{unit} ({name})' for name, unit in self.units.items()), 6)}")
        if kept:
            each = [(word, name, count) for name, words in kept.items() for word, count in words.items()]
            told = listed((f"{word} in {name} ({counted(count, 'row')})" for word, name, count in each), 4)
            some = as_missing(sorted({word for words in kept.values() for word in words}))
            lines.append(f"taken as a word: {told}; {some} makes it a missing value")
        return "\n".join(lines)


def as_missing(words: Sequence[str]) -> str:
    """The word of a command that makes words missing values."""
    typed = f"data.missing=[{','.join(map(grammar, words))}]"
    return typed if all(re.fullmatch(r"[\w/.-]+", word) for word in words) else quoted(typed)


def where(mask: Any, values: Any) -> Any:
    """A column, null where a mask isn't true."""
    import polars

    return polars.select(polars.when(mask).then(values)).to_series().alias(values.name)
