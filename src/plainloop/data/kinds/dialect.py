"""How a text file of rows is written: its encoding, what stands between its fields, how its numbers are written.

Nobody says it in the file. It is told from the file itself, once for the whole of it, by libraries where one is better
than a rule of ours (clevercsv, chardet); what was found is said, and each has a key that says otherwise.
"""

import bz2
import csv
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from plainloop.errors import UserError, first_line
from plainloop.pickled import PHYSICAL
from plainloop.trust import optional

MARKS = (",", ";", "\t", "|", " ")  # what may part fields
NAMES = {"\t": "tab", " ": "blank"}
UNPACK: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
csv.field_size_limit(1 << 30)  # a text may be long
SAMPLE = 1 << 16  # characters that tell how the rest is written


@dataclass(frozen=True)
class Reading:
    """What the user says of a file; None: it is told from the file."""

    separator: str | None = None
    decimal: str | None = None
    thousands: str | None = None
    encoding: str | None = None
    missing: tuple[str, ...] | None = None
    header: bool | None = None

    @classmethod
    def of(
        cls,
        missing: str | Sequence[str] | None = None,
        separator: str | None = None,
        decimal: str | None = None,
        thousands: str | None = None,
        encoding: str | None = None,
        header: bool | None = None,
    ) -> "Reading":
        """Of the arguments of a data set. Raises UserError for one that means nothing."""
        words = (missing,) if isinstance(missing, str) else missing
        if words is not None and not all(isinstance(word, str | int | float) for word in words):
            raise UserError(f"data.missing={missing}: the words that mean a missing value, as in data.missing=[NA,-]")
        for name, mark in (("decimal", decimal), ("thousands", thousands)):
            if mark is not None and len(str(mark)) != 1:
                raise UserError(f"data.{name}={mark}: one character, as in \"data.{name}=','\"")
        if decimal is not None and decimal == thousands:
            raise UserError(f"data.decimal and data.thousands are the same ({decimal}).")
        separator = {"tab": "\t", "\\t": "\t", "blank": " ", "space": " "}.get(str(separator), separator)
        if separator is not None and len(str(separator)) != 1:
            raise UserError(f"data.separator={separator}: one character, or tab or blank.")
        return cls(separator, decimal, thousands, encoding, None if words is None else tuple(map(str, words)), header)

    @classmethod
    def among(cls, arguments: Mapping[str, Any]) -> "Reading":
        """Of a data set's arguments, whatever else there is."""
        return cls.of(**{item.name: arguments.get(item.name) for item in fields(cls)})


@dataclass(frozen=True)
class Dialect:
    """How one file is written.

    Args:
        separator: between fields.
        quote: around fields that hold the separator; "" where quotes are signs as others are.
        escaped: a quote within quotes is written \\", as C writes it, and not "".
        blank: blanks may stand between a separator and a quote.
        skip: lines before the header.
    """

    separator: str = ","
    quote: str = '"'
    escaped: bool = False
    blank: bool = False
    skip: int = 0
    encoding: str = "utf-8"
    newline: str = "\n"

    @property
    def is_plain(self) -> bool:
        """Whether polars reads it as it is."""
        return self.separator != " " and bool(self.quote) and not self.blank

    def reader(self, text: str) -> Any:
        """Python's own, of the csv module."""
        how: dict[str, Any] = {"delimiter": self.separator, "skipinitialspace": self.separator == " " or self.blank}
        how |= {"quotechar": self.quote} if self.quote else {"quoting": csv.QUOTE_NONE}
        return csv.reader(io.StringIO(text, newline=""), **how)

    def records(self, text: str) -> Iterator[tuple[int, list[str]]]:
        """(number of its line, fields) of the header and of each row that isn't empty."""
        reader, line = self.reader(text), 1
        for number, row in enumerate(reader):
            if number >= self.skip and any(field.strip() for field in row):
                yield line, _without_end(row) if self.separator == " " else row
            line = reader.line_num + 1

    def ends_within_quotes(self, text: str) -> bool:
        """Whether a quote is still open where a text ends: then a line behind it is no line of its own."""
        *_, last = self.reader(f"{text}\nendofthetext\n")
        return last != ["endofthetext"]

    def all_alike(self, text: str, width: int) -> bool:
        """Whether every line that isn't empty has so many fields."""
        rows = self.reader(text)
        return all(len(row) == width or not any(row) for number, row in enumerate(rows) if number >= self.skip)


def _without_end(fields: list[str]) -> list[str]:
    """Of blanks at the end of a line no field follows."""
    return fields[:-1] if fields and fields[-1] == "" else fields


# --- bytes become text -----------------------------------------------------------------------------------------------


def unpacked(file: Path) -> bytes:
    """The content of a file, that of a compressed one unpacked. Raises UserError."""
    kind = file.suffix.lower()
    try:
        if kind not in (*UNPACK, ".zst"):
            return file.read_bytes()
        with _opened_zst(file) if kind == ".zst" else UNPACK[kind](file) as opened:
            data = opened.read(PHYSICAL // 4 + 1)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"{file}: it can't be unpacked: {first_line(error)}.") from error
    if len(data) > PHYSICAL // 4:  # it is read as a whole, and becomes words, and numbers
        raise UserError(f"{file}: it unpacks to more than a quarter of this machine's memory.")
    return data


def _opened_zst(file: Path) -> Any:
    try:
        zstandard: Any = optional("zstandard")
    except ModuleNotFoundError:
        raise UserError(f"{file}: .zst files are unpacked by the package zstandard: pip install zstandard") from None
    return io.BufferedReader(_Zst(zstandard.open(file), zstandard.ZstdError))


class _Zst(io.RawIOBase):
    """A file of zstandard's, whose errors are the usual ones."""

    def __init__(self, file: Any, error: type[Exception]):
        self.file, self.error = file, error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.file.read(len(buffer))
        except self.error as error:
            raise EOFError(str(error)) from error
        buffer[: len(data)] = data
        return len(data)


def decoded(data: bytes, file: Path, said: str | None) -> tuple[str, str]:
    """The text in a file's bytes, and its encoding. Raises UserError.

    Args:
        said: by the user; None: UTF-8, or what a byte-order mark says, or what chardet takes it for.
    """
    if said is not None:
        try:
            return data.decode(said).removeprefix("\ufeff"), said
        except (LookupError, AssertionError) as error:  # one that makes no text, as hex
            raise UserError(
                f"data.encoding={said}: Python knows no such encoding (utf-8, utf-16, cp1252, ...)."
            ) from error
        except UnicodeError as error:
            line = data[: getattr(error, "start", 0)].count(b"\n") + 1
            raise UserError(f"{file}, line {line}: not text in {said} (data.encoding={said}).") from error
    marks = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    for mark, name in marks.items():
        if data.startswith(mark):
            try:
                return data.decode(name), name
            except UnicodeDecodeError as error:
                raise UserError(f"{file}: not whole text in {name}, as it begins ({first_line(error)}).") from error
    try:
        if b"\0" not in data[:SAMPLE]:
            return data.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        pass
    text = data.decode("utf-8", errors="surrogateescape")
    others = re.findall("[^\0-\x7f]", text)
    broken = [sign for sign in others if "\udc80" <= sign <= "\udcff"]
    if b"\0" in data[:SAMPLE] or len(broken) > len(others) / 10:  # else it is UTF-8 with a bad byte here and there
        found = _encoding_of(data, len(broken))
        try:
            text = data.decode(found) if found else "\0"
            if not re.search("[\0-\x08]", text[:SAMPLE]) and re.search("[\r\n]", text):
                return text, found.lower().replace("windows-", "cp")
        except (LookupError, UnicodeDecodeError):
            pass
    wrong = next((place for place, byte in enumerate(data) if byte > 127), 0)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        wrong = error.start
    zero = data.find(b"\0")
    if zero >= 0:
        line = data[:zero].count(b"\n") + 1
        raise UserError(
            f"{file}, line {line}: a NUL byte, so not text in UTF-8. Which encoding is it? data.encoding=utf-16, say."
        )
    line = data[:wrong].count(b"\n") + 1
    raise UserError(f"{file}, line {line}: not text in UTF-8. Which encoding is it? data.encoding=cp1252, say.")


def _encoding_of(data: bytes, count: int) -> str:
    """As chardet finds it; of a few letters only (a degree, a euro) that of Windows in the West."""
    if b"\0" not in data[:SAMPLE] and count < 8:
        return "cp1252"
    import chardet

    wrong = next((place for place, byte in enumerate(data) if byte > 127), 0)
    sample = data[:SAMPLE] + data[max(0, wrong - SAMPLE // 2) : wrong + SAMPLE // 2]  # it may come late
    return chardet.detect(sample)["encoding"] or ""


# --- text becomes rows -----------------------------------------------------------------------------------------------


def dialect_of(text: str, file: Path, said: Reading, encoding: str) -> Dialect:
    """How the rows of a text are written."""
    newline = "\r" if "\n" not in text and "\r" in text else "\n"
    sample, whole = text[:SAMPLE], len(text) <= SAMPLE
    if not whole:
        sample = sample[: sample.rfind(newline) + 1] or sample
    first = sample.split(newline, 1)[0].strip("\r")
    told = re.fullmatch(r'"?sep=(.)"?', first)  # Excel's own way to say it
    skip = 1 if told else 0
    mark = said.separator or (told[1] if told else None)
    mark = mark or ("\t" if file.suffix.lower() in (".tsv", ".tab") else _obvious(sample, whole))
    mark = mark or _sniffed(sample, whole)
    blank = mark != " " and re.search(rf'(^|\n|{re.escape(mark)}) +"', sample) is not None
    return Dialect(mark, blank=blank, skip=skip, encoding=encoding, newline=newline)


def _obvious(sample: str, whole: bool) -> str | None:
    """The one mark by which the header and every row have the same number of fields, more than one; where two are, not
    the comma, which stands in numbers and names."""
    fitting = [mark for mark in MARKS[:4] if _share(sample, Dialect(mark), whole) == 1.0]
    others = [mark for mark in fitting if mark != ","]
    return fitting[0] if len(fitting) == 1 else others[0] if len(others) == 1 else None


def _share(sample: str, dialect: Dialect, whole: bool) -> float:
    """The share of rows with as many fields as the header; 0 where that has one only. Where every row has one more, it
    begins with a name, as R writes it.

    Args:
        whole: that is all of the text; else its last record may be cut.
    """
    try:
        counts = [len(fields) for _, fields in dialect.records(sample)]
    except csv.Error:
        return 0.0
    counts = counts if whole or len(counts) < 3 else counts[:-1]
    if not counts or counts[0] < 2:
        return 0.0
    if len(counts) > 1 and all(count == counts[0] + 1 for count in counts[1:]):
        return 1.0
    return sum(count == counts[0] for count in counts) / len(counts)


def _sniffed(sample: str, whole: bool) -> str:
    """The separator as clevercsv finds it (https://clevercsv.readthedocs.io)."""
    import clevercsv

    lines = sample.splitlines(keepends=True)[:200]
    try:
        found = clevercsv.Sniffer().sniff("".join(lines), delimiters="".join(MARKS))
    except clevercsv.Error:
        found = None
    mark = found.delimiter if found is not None else ""
    if mark == " " and _share(sample, Dialect(" "), whole) < 1.0:  # sentences
        mark = ""
    return mark or max(MARKS[:4], key=lambda each: _share(sample, Dialect(each), whole))


def name_of(mark: str) -> str:
    return NAMES.get(mark, mark)
