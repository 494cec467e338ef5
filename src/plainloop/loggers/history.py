"""history.jsonl: one JSON object per log point and per epoch."""

import json
import math
import os
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from plainloop.errors import tell
from plainloop.loggers.logger import Logger
from plainloop.runs.atomic import own

if TYPE_CHECKING:
    from plainloop.runs.directory import RunDir


class History(Logger):
    """Appends records; on resume the file is cut back to where the checkpoint was taken."""

    def __init__(self) -> None:
        self.file: BinaryIO | None = None
        self.length = 0
        self.digest: int | None = 0  # CRC-32 of what was written; None in checkpoints that are older than it

    def open(self, run: "RunDir", config: Mapping[str, Any], step: int) -> None:
        self.file = open(own(run.history), "ab")  # noqa: SIM115
        self._check(run.history)
        self.file.truncate(self.length)

    def _check(self, path: Path) -> None:
        """After a power cut the file may be shorter than the checkpoint remembers, or somebody has changed it."""
        kept = path.read_bytes()[: self.length]
        if len(kept) == self.length and self.digest in (None, zlib.crc32(kept)):
            return
        short, lines = len(kept) < self.length, kept.count(b"\n")
        self.length = kept.rfind(b"\n") + 1
        self.digest = zlib.crc32(kept[: self.length])
        cut = f"is shorter than it was: the records behind its line {lines} are lost"
        why = cut if short else f"has changed: its {lines} lines stay, and may be of another run"
        tell(f"warning: {path} {why}", sys.stdout)

    def log(self, record: Mapping[str, Any]) -> None:
        assert self.file is not None
        values = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in record.items()}
        line = json.dumps(values).encode() + b"\n"
        self.file.write(line)
        self.file.flush()
        self.length += len(line)
        self.digest = None if self.digest is None else zlib.crc32(line, self.digest)

    def state_dict(self) -> dict[str, Any]:
        if self.file is not None:
            os.fsync(self.file.fileno())  # the checkpoint that remembers this length is synced too
        return {"length": self.length, "digest": self.digest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.length, self.digest = state["length"], state.get("digest")
        if type(self.length) is not int or self.length < 0:
            raise ValueError(f"history.jsonl can't have {self.length} bytes")

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
