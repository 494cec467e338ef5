"""All that a config describes, built."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from plainloop.assembly.loaders import evaluation_loader
from plainloop.assembly.summary import Summary
from plainloop.data import Data, Loader
from plainloop.data.dataset import SPLITS
from plainloop.data.loader import Skipped
from plainloop.errors import (
    UserError,
    listed,
)
from plainloop.tasks.task import Task
from plainloop.training import evaluation
from plainloop.training.batches import Preparation


@dataclass
class Session:
    """All that a config describes, built."""

    config: DictConfig  # with `spec` filled in, `${...}` not
    data: Data
    model: nn.Module
    task: Task
    prepare: Preparation  # a batch's way to the model
    sample: tuple[Any, ...]  # the first of the training split
    skipped: Skipped  # samples that can't be read
    summary: Summary = field(default_factory=Summary)  # of the model's layers
    notes: list[str] = field(default_factory=list)  # what was decided for the user, and should be said

    @property
    def device(self) -> torch.device:
        return self.prepare.device

    @property
    def preprocess(self) -> nn.Module:
        return self.prepare.preprocess

    @property
    def workers(self) -> int:
        """Processes that load the training split."""
        return self.config.loader.num_workers

    def loader(self, split: str) -> Loader | None:
        """The batches of a split in their own order, whole: for validation, test and evaluation."""
        dataset = self.data[split]
        if dataset is None:
            return None
        return evaluation_loader(self.config, dataset, self.device, split, self.skipped)

    def measure(
        self, split: str, stopped: Callable[[], None] = lambda: None, also: Sequence[Any] = ()
    ) -> dict[str, float]:
        """Loss and metrics over a split. Raises UserError where the data has no such split."""
        loader = self.loader(split)
        if loader is None:
            raise UserError(f"split={split}: the data has none. It has: {listed(s for s in SPLITS if self.data[s])}.")
        with loader:
            return evaluation.measure(self.model, self.task, loader, self.prepare, stopped, also)

    def to_device(self) -> None:
        memory_format = torch.channels_last if self.config.trainer.channels_last else torch.preserve_format
        self.model.to(self.device, memory_format=memory_format)  # type: ignore[call-overload]
        self.preprocess.to(self.device)
        self.task.to(self.device)
        for metric in self.task.metrics.values():
            if hasattr(metric, "to"):  # torchmetrics' hold their states on a device
                metric.to(self.device)
