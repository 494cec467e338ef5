"""What every logger is, ours and yours.

A record is a flat dict: {"step": 50, "epoch": 3, "train/loss": 0.41, ...}.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plainloop.runs.directory import RunDir


class Logger:
    """Override what you need."""

    destination: str | None = None  # where it sends to, if the config says so: a stranger's must not be believed

    def open(self, run: "RunDir", config: Mapping[str, Any], step: int) -> None:
        """Before the first record. `step` is above 0 when a run is resumed: what came after it is void."""

    def log(self, record: Mapping[str, Any]) -> None:
        """A record at a log point or after an epoch."""

    def figure(self, name: str, path: Path, step: int) -> None:
        """A picture, already written as a PNG."""

    def result(self, metrics: Mapping[str, float], step: int) -> None:
        """The content of metrics.json."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must remember of this logger."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Called before `open` when a run is resumed."""

    def close(self) -> None:
        """After the last record, also when the run has failed."""
