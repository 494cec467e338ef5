"""All that a config describes, built."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from plainloop.assembly.loaders import evaluation_loader, training_loader
from plainloop.assembly.spec import facts_filled
from plainloop.assembly.summary import Summary
from plainloop.config.schema import Config, record
from plainloop.config.sections import Spec
from plainloop.data import Data, Loader
from plainloop.data.dataset import SPLITS
from plainloop.data.loader import Skipped
from plainloop.errors import (
    UserError,
    listed,
)
from plainloop.tasks.answered import Answered
from plainloop.tasks.task import Task
from plainloop.training import evaluation
from plainloop.training.batches import Preparation


@dataclass
class Session:
    """All that a config describes, built."""

    config: Config
    composed: DictConfig  # the same before its `${...}` were filled in, as it was composed
    data: Data
    model: nn.Module
    task: Task
    prepare: Preparation  # a batch's way to the model
    sample: tuple[Any, ...]  # the first of the training split
    skipped: Skipped  # samples that can't be read
    summary: Summary = field(default_factory=Summary)  # of the model's layers
    notes: list[str] = field(default_factory=list)  # what was decided for the user, and should be said

    @property
    def spec(self) -> Spec:
        """The facts about the data."""
        return self.config.spec

    @property
    def device(self) -> torch.device:
        return self.prepare.device

    @property
    def preprocess(self) -> nn.Module:
        return self.prepare.preprocess

    def filled(self, group: str) -> dict[str, Any]:
        """A group with its `${spec...}` filled in. Raises UserError where the data doesn't have such a fact."""
        return facts_filled(self.config, group)

    def record(self) -> None:
        """Write all that has been decided since into the composed config, which is saved with the run."""
        record(self.config, self.composed)

    def loader(self, split: str) -> Loader | None:
        """The batches of a split in their own order, whole: for validation, test and evaluation."""
        dataset = self.data[split]
        if dataset is None:
            return None
        return evaluation_loader(self.config.loader, dataset, split, **self._of_all_loaders())

    def training_loader(self) -> Loader:
        """The batches to train on."""
        return training_loader(self.config.loader, self.data, **self._of_all_loaders())

    def _of_all_loaders(self) -> dict[str, Any]:
        cfg = self.config
        return {
            "seed": cfg.seed,
            "device": self.device,
            "limit": cfg.trainer.limit_batches,
            "trust": cfg.trust,
            "skipped": self.skipped,
        }

    def measure(
        self,
        split: str,
        stopped: Callable[[], None] = lambda: None,
        also: Sequence[Any] = (),
        each: Callable[[Any, Any], None] | None = None,
    ) -> dict[str, float]:
        """Loss and metrics over a split, as `evaluation.measure`. Raises UserError where the data has no such split."""
        loader = self.loader(split)
        if loader is None:
            raise UserError(f"split={split}: the data has none. It has: {listed(s for s in SPLITS if self.data[s])}.")
        with loader:
            return evaluation.measure(self.model, self.task, loader, self.prepare, stopped, also, each)

    @property
    def names(self) -> list[str]:
        """Of the classes, the labels or the values that it predicts."""
        return list(self.spec.class_names or self.spec.target_names or [])

    def answered(self, **limits: int) -> Answered:
        """What becomes of each sample of a split, in `measure(..., each=this.add)`.

        Args:
            limits: `most` and `work` of `Answered`.
        """
        return Answered(self.task, self.names, self.task.trivial(self.data), **limits)

    def to_device(self) -> None:
        memory_format = torch.channels_last if self.config.trainer.channels_last else torch.preserve_format
        self.model.to(self.device, memory_format=memory_format)  # type: ignore[call-overload]
        self.preprocess.to(self.device)
        self.task.to(self.device)
        for metric in self.task.metrics.values():
            if hasattr(metric, "to"):  # torchmetrics' hold their states on a device
                metric.to(self.device)
