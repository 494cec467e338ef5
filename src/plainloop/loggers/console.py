"""What the terminal shows: a bar per epoch, or one line per epoch on a pipe; the same lines go into train.log."""

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from plainloop.errors import harmless, tell
from plainloop.loggers.logger import Logger
from plainloop.runs.atomic import own

if TYPE_CHECKING:
    from plainloop.runs.directory import RunDir


class Console(Logger):
    """Prints lines and draws the progress bar.

    Args:
        every_epochs: one line every N epochs.
        progress: draw a bar; None for "on a terminal".
        monitor: the validation quantity that is shown.
    """

    def __init__(self, every_epochs: int = 1, progress: bool | None = None, monitor: str = "val/loss"):
        self.every_epochs, self.monitor = every_epochs, monitor
        self.shows_bar = sys.stderr.isatty() if progress is None else progress
        self.file: TextIO | None = None
        self.early: list[str] = []  # lines from before there is a train.log
        self.bar: Any = None
        self.epochs = 0

    def open(self, run: "RunDir", config: Mapping[str, Any], step: int) -> None:
        self.file = open(own(run.log), "a")  # noqa: SIM115
        for line in self.early:
            print(harmless(line), file=self.file, flush=True)
        self.early = []
        self.epochs = config["trainer"]["max_epochs"]

    def say(self, line: str, screen: bool = True) -> None:
        """A line for the terminal and train.log."""
        if screen:
            self._close_bar()
            tell(line, sys.stdout)
        if self.file is None:
            self.early.append(line)
        else:
            print(harmless(line), file=self.file, flush=True)

    def progress(self, windows: Iterable[Any], trainer: Any) -> Iterable[Any]:
        """Wrap an epoch's steps in a bar, where one is wanted."""
        if not self.shows_bar or (trainer.epoch + 1) % self.every_epochs:
            return windows
        return self._with_bar(windows, trainer)

    def _with_bar(self, windows: Iterable[Any], trainer: Any) -> Iterator[Any]:
        from tqdm import tqdm

        self._close_bar()
        loader = trainer.train_batches
        self.bar = tqdm(
            total=loader.num_samples,
            initial=trainer.batch * loader.batch_size,
            desc=f"epoch {trainer.epoch + 1}/{trainer.length.max_epochs}",
            unit=" samples",
            unit_scale=True,
            leave=True,
            **({"dynamic_ncols": True} if shutil.get_terminal_size((0, 0)).columns else {"ncols": 100, "nrows": 24}),
            bar_format="{desc} {percentage:3.0f}%|{bar:16}| {rate_fmt}{postfix}",
        )
        counted = trainer.samples
        for window in windows:
            yield window
            self.bar.update(trainer.samples - counted)
            counted = trainer.samples

    def log(self, record: Mapping[str, Any]) -> None:
        if "train/epoch_loss" not in record:
            if self.bar is not None and "train/loss" in record:
                self.bar.set_postfix_str(f"loss {record['train/loss']:.4f}", refresh=False)
            if any(name.startswith("val/") for name in record):
                self.say(f"step {record['step']}  {self._shown(record)}")
            return
        shown = self._shown(record)
        line = f"epoch {record['epoch']}/{self.epochs}  {shown}  {record['samples_per_second']:,.0f} samples/s"
        if self.bar is not None:
            self.bar.set_postfix_str(harmless(shown), refresh=True)
            self._close_bar()
            self.say(line, screen=False)
        elif record["epoch"] % self.every_epochs == 0 or record["epoch"] == self.epochs:
            self.say(line)

    def _shown(self, record: Mapping[str, Any]) -> str:
        names = {"train/epoch_loss": "loss", "val/loss": "val/loss", self.monitor: self.monitor}
        return "  ".join(f"{label} {short(record[name])}" for name, label in names.items() if name in record)

    def _close_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def close(self) -> None:
        self._close_bar()
        if self.file is not None:
            self.file.close()
            self.file = None


def short(value: float) -> str:
    """Four digits behind the point, or three that count where these would be zeros."""
    return f"{value:.3g}" if 0 < abs(value) < 0.001 else f"{value:.4f}"
