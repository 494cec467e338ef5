"""Rows of a table, written into a file one by one, so that many take no memory: CSV, JSON lines, Parquet."""

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import Any, TextIO

from plainloop.errors import MachineError, UserError
from plainloop.runs.atomic import own

Row = dict[str, Any]
EACH = 256  # so many rows are written at once


class RowFile:
    """A file that rows are written to, each as a whole line.

    Args:
        path: its name ends in .csv, .jsonl or .parquet. (Parquet can't be appended to: its rows lie in a file beside it
            until all of them are there.)
        resume: go on behind the whole lines that it has; else it is written anew. `done` tells how many there are.
    """

    def __init__(self, path: Path, resume: bool = False):
        self.path, self.kind = path, path.suffix
        self.lines = path.with_name(f".{path.name}.rows") if self.kind == ".parquet" else path
        self.done, self.head, self.last = (
            0,
            "",
            "",
        )  # of the rows that are there: how many, the columns, the last's first
        self.held: list[Row] = []
        self.file: TextIO | None = None
        if resume and self.kind == ".parquet" and path.exists() and not self.lines.exists():
            raise UserError(f"resume=true: {path} is finished.")
        if resume and (self.lines.is_symlink() or (self.lines.exists() and not self.lines.is_file())):
            raise UserError(f"resume=true: {self.lines} is a link, or no file: nothing is written through it.")
        if resume and self.lines.exists():
            self._keep_whole_lines()

    def _keep_whole_lines(self) -> None:
        """Cut off a last line that isn't whole, and count the rows before it."""
        data = own(self.lines).read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if self.kind == ".csv":  # a field in quotes may have lines of its own
            while whole and whole.count(b'"') % 2:
                whole = whole[: whole.rfind(b"\n", 0, -1) + 1]
            records = list(csv.reader(io.StringIO(whole.decode(), newline="")))
            self.done = max(0, len(records) - 1)
            self.head = ",".join(records[0]) if records else ""
            self.last = records[-1][0] if self.done else ""
        else:
            self.done = whole.count(b"\n")
            self.last = str(next(iter(json.loads(whole.splitlines()[-1]).values()))) if self.done else ""
        if len(whole) < len(data):
            os.truncate(self.lines, len(whole))

    def __enter__(self) -> "RowFile":
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | (os.O_APPEND if self.done else os.O_TRUNC)
        try:
            if self.done:
                own(self.lines)
            else:
                self.lines.unlink(missing_ok=True)  # another name may lead to it
            self.file = os.fdopen(
                os.open(self.lines, flags, 0o666), "a", encoding="utf-8", newline="", errors="surrogateescape"
            )
        except OSError as error:
            raise MachineError(f"{self.path} can't be written: {error.strerror}.") from error
        return self

    def __exit__(self, kind: Any, *others: object) -> None:
        assert self.file is not None
        try:
            self._flush()
        finally:
            self.file.close()
        if kind is None and self.kind == ".parquet":
            import polars

            polars.scan_ndjson(self.lines, infer_schema_length=None).sink_parquet(self.path)
            self.lines.unlink()

    def write(self, row: Row) -> None:
        """One row more. All have the same columns."""
        self.held.append(row)
        if len(self.held) >= EACH:
            self._flush()

    def _flush(self) -> None:
        """Whole lines in one piece: a process that is killed leaves none half written, but for the last of a disk that
        is full."""
        assert self.file is not None
        if not self.held:
            return
        text = io.StringIO()
        if self.kind == ".csv":
            writer = csv.DictWriter(text, list(self.held[0]), lineterminator="\n")
            if not self.done:
                writer.writeheader()
            elif self.head and ",".join(self.held[0]) != self.head:
                raise UserError(f"resume=true: {self.path} has other columns ({self.head}).")
            writer.writerows(self.held)
        else:
            text.writelines(json.dumps(_finite(row), ensure_ascii=False) + "\n" for row in self.held)
        self.done, self.head = self.done + len(self.held), ""
        self.held = []
        self.file.write(text.getvalue())
        self.file.flush()


def _finite(row: Row) -> Row:
    """JSON has no NaN and no infinity: null instead."""
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}
