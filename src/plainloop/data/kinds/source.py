"""A table's file: how it was read, and where each of its rows stands in it."""

import itertools
from pathlib import Path
from typing import Any

from plainloop.data.kinds.dialect import Dialect, Reading, decoded, unpacked

SHEETS = (".xlsx", ".xls", ".xlsb", ".ods")
LINES = (".jsonl", ".ndjson")
PACKED = (".gz", ".bz2", ".xz", ".zst")
AS_TOLD = Reading()


class Source:
    """A table's file, as it is called in errors, and how it was read.

    Args:
        reading: what the user says of it.

    `notes` are remarks on how it was read, `said` all of them; none where it is as everybody expects.
    """

    def __init__(self, path: Path, reading: Reading = AS_TOLD):
        self.path, self.reading = path, reading
        self.dialect: Dialect | None = None
        self.kept: Any = None  # of its rows, where some were left out: their numbers
        self.like: Source | None = None  # another file of the same data, whose columns say what these hold
        self.marks: dict[str, tuple[str, str]] = {}  # of columns of numbers: decimal mark, mark of thousands
        self.units: dict[str, str] = {}  # of columns of numbers: what stands beside all of them
        self.misfits: dict[str, int] = {}  # of columns of numbers: the row of one that isn't written as the others are
        self.words: list[str] = []  # the columns of words
        self.notes: list[str] = []

    @property
    def said(self) -> str:
        return "\n".join(filter(None, self.notes))

    @property
    def is_sheet(self) -> bool:
        return self.kind in SHEETS

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
        records = self.dialect.records(whole_text(self, self.text()[0]))
        number = next((line for index, (line, _) in enumerate(records, first) if index == row), row + 2)
        return f"{self}, line {number}"


def place(file: Source, row: int) -> str:
    """'FILE, line 7': where a row of a frame, counted from 0, stands in its file."""
    return file.place(row)


def whole_text(source: Source, text: str) -> str:
    """A text with line feeds where it has carriage returns alone, and quotes within quotes as CSV has them."""
    dialect = source.dialect
    text = text.replace("\r", "\n") if dialect is not None and dialect.newline == "\r" else text
    return text.replace('\\"', '""') if dialect is not None and dialect.escaped else text
