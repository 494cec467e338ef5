"""TensorBoard: train, validation and test curves share a tag and an axis, from one writer each."""

import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plainloop.loggers.logger import Logger
from plainloop.runs.atomic import own
from plainloop.runs.files import everything_in

if TYPE_CHECKING:
    from plainloop.runs.directory import RunDir

SPLITS = ("train", "val", "test")


class TensorBoard(Logger):
    """Event files under tensorboard/{train,val,test}; config, pictures and HParams under tensorboard/ itself."""

    def __init__(self) -> None:
        self.writers: dict[str, Any] = {}
        self.held: list[Mapping[str, Any]] = []
        self.lengths: Mapping[str, int] | None = None  # of the event files, when a checkpoint was taken
        self.written = time.monotonic()

    def open(self, run: "RunDir", config: Mapping[str, Any], step: int) -> None:
        self.folder, self.config, self.purge = run.tensorboard, config, step + 1 if step else None
        # What came after the checkpoint is cut off. purge_step says the same to a TensorBoard that looks on, but can't
        # tell before from after at one and the same step.
        if self.lengths is not None:
            for path in self._files():
                length = self.lengths.get(str(path.relative_to(self.folder)), 0)
                if path.stat().st_size > length:
                    os.truncate(own(path), length)
        if step == 0:
            text = run.config.read_text("utf-8")
            self._writer("").add_text("config", "".join(f"    {line}\n" for line in text.splitlines()))

    def _writer(self, name: str) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if name not in self.writers:
            self.writers[name] = SummaryWriter(str(self.folder / name), purge_step=self.purge)
        return self.writers[name]

    def log(self, record: Mapping[str, Any]) -> None:
        """Records are held back for a few seconds (TensorBoard looks no more often) and written together."""
        self.held.append(record)
        if time.monotonic() - self.written > 5:
            self._write()

    def state_dict(self) -> dict[str, Any]:
        self._flush()  # what came before a checkpoint is not lost with the process
        return {"lengths": {str(path.relative_to(self.folder)): path.stat().st_size for path in self._files()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.lengths = state.get("lengths")
        known = isinstance(self.lengths, dict) and all(
            type(each) is int and each >= 0 for each in self.lengths.values()
        )
        if self.lengths is not None and not known:
            raise ValueError("the lengths of TensorBoard's files are no numbers")

    def _files(self) -> list[Path]:
        return [path for path, mode in everything_in(self.folder) if "tfevents" in path.name and stat.S_ISREG(mode)]

    def _flush(self) -> None:
        self._write()
        for writer in self.writers.values():
            writer.flush()

    def _write(self) -> None:
        for record in self.held:
            self._write_record(record)
        self.held, self.written = [], time.monotonic()

    def _write_record(self, record: Mapping[str, Any]) -> None:
        by_split: dict[str, dict[str, float]] = {}
        for key, value in record.items():
            if key in ("step", "epoch"):
                continue
            split, _, tag = key.partition("/")
            split, tag = (split, tag) if split in SPLITS else ("train", key)
            by_split.setdefault(split, {})[tag] = value
        for split, values in by_split.items():
            self._scalars(split, values, record["step"])

    def _scalars(self, split: str, values: Mapping[str, float], step: int) -> None:
        """All values in one event: a fifth of the time of one event each."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._writer(split).file_writer.add_summary(summary, step)

    def figure(self, name: str, path: Path, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        image = Summary.Image(encoded_image_string=path.read_bytes())  # the PNG as it is
        self._writer("").file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def result(self, metrics: Mapping[str, float], step: int) -> None:
        """The test curve's one point, and the HParams page: the config against the final metrics."""
        from torch.utils.tensorboard.summary import hparams

        self._write()
        test = {name.removeprefix("test/"): value for name, value in metrics.items() if name.startswith("test/")}
        if test:
            self._scalars("test", test, step)
        shown = {
            name: value for name, value in metrics.items() if name.startswith(("val/", "test/")) and value == value
        }
        writer = self._writer("")
        for summary in hparams(hyperparameters(self.config), shown):
            writer.file_writer.add_summary(summary)
        self._scalars("", shown, step)
        self._flush()

    def close(self) -> None:
        self._write()
        for writer in self.writers.values():
            writer.close()


# What a table of runs is compared by: which options were taken, and the values in some sections.
OPTIONS = ("data", "task", "model", "loss", "optimizer", "scheduler")
SECTIONS = ("seed", "transforms", "model", "loss", "optimizer", "schedule", "scheduler", "trainer")


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as HParams takes it, {"model": "mlp", "optimizer.lr": 0.001, ...}: numbers, truth values, words."""
    values = {group: config["choices"][group] for group in OPTIONS if config["choices"].get(group)}
    values["loader.batch_size"] = config["loader"]["batch_size"]

    def add(section: Mapping[str, Any], prefix: str) -> None:
        for name, value in section.items():
            if isinstance(value, Mapping):
                add(value, f"{prefix}{name}.")
            elif value is not None and name != "_target_":
                values[prefix + name] = value if isinstance(value, bool | int | float | str) else str(value)

    add({name: config[name] for name in SECTIONS}, "")
    return values
