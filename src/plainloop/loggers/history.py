"""history.jsonl: one JSON object per log point and per epoch."""

import json
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from plainloop.loggers.logger import Logger
from plainloop.runs.atomic import own

if TYPE_CHECKING:
    from plainloop.runs.directory import RunDir


class History(Logger):
    """Appends records; on resume the file is cut back to where the checkpoint was taken."""

    def __init__(self) -> None:
        self.file: BinaryIO | None = None
        self.length = 0

    def open(self, run: "RunDir", config: Mapping[str, Any], step: int) -> None:
        self.file = open(own(run.history), "ab")  # noqa: SIM115
        if self.file.tell() < self.length:  # after a power cut; or somebody has cut it
            whole = run.history.read_bytes()
            self.length, lines = whole.rfind(b"\n") + 1, whole.count(b"\n")
            print(
                f"warning: {run.history} is shorter than it was: the records behind its line {lines} are lost",
                flush=True,
            )
        self.file.truncate(self.length)

    def log(self, record: Mapping[str, Any]) -> None:
        assert self.file is not None
        values = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in record.items()}
        line = json.dumps(values).encode() + b"\n"
        self.file.write(line)
        self.file.flush()
        self.length += len(line)

    def state_dict(self) -> dict[str, Any]:
        if self.file is not None:
            os.fsync(self.file.fileno())  # the checkpoint that remembers this length is synced too
        return {"length": self.length}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.length = int(state["length"])

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
