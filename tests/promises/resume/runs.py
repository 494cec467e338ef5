"""Small runs that have everything in them that could be forgotten, and what they are made of.

Whenever one of them saves, its directory is copied just before: this is what a `kill -9` at that moment leaves behind,
a checkpoint and whatever has been written since.
"""

import copy
import functools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

import plainloop
from plainloop.assembly.assemble import assemble
from plainloop.assembly.trainer import make_trainer
from plainloop.config.compose import compose
from plainloop.data import InMemory
from plainloop.training.callbacks import Callback
from plainloop.training.trainer import Trainer
from tests.conftest import path_of
from tests.resuming import unequal

TWO = ["loader.num_workers=2", "loader.multiprocessing_context=fork"]  # quick to start
NONE = ["loader.num_workers=0", "loader.multiprocessing_context=null"]


# --- what the runs are made of ------------------------------------------------------------------------------


class Images(Dataset):
    """Noisy images of a bright line at one of three heights, augmented with numbers from all three libraries.

    Args:
        unreadable: the chance that a sample can't be read this time.
        poisoned: the training sample whose image is full of `poison`.
    """

    classes = ("high", "middle", "low")
    sizes = {"train": 68, "val": 20, "test": 20}

    def __init__(self, split: str, unreadable: float = 0.0, poisoned: int = -1, poison: float = math.nan):
        generator = torch.Generator().manual_seed(sum(map(ord, split)))
        count = self.sizes[split]
        self.targets = torch.randint(0, 3, (count,), generator=generator)
        self.images = 0.5 * torch.randn(count, 1, 8, 8, generator=generator)
        self.images[torch.arange(count), 0, 1 + 2 * self.targets] += 1.0
        self.unreadable, self.poison = unreadable, poison
        self.poisoned = poisoned if split == "train" else -1

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if random.random() < self.unreadable:
            raise OSError("a bad sector")
        image = self.images[index]
        if random.random() < 0.5:
            image = image.flip(-1)
        image = image.roll(int(numpy.random.randint(-1, 2)), -1) + 0.1 * torch.randn(image.shape)
        return torch.full_like(image, self.poison) if index == self.poisoned else image, self.targets[index]


class InMemoryNoise(InMemory):
    """Points in memory, to which noise is added a whole batch at a time."""

    def __init__(self, count: int = 60):
        inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(1))
        super().__init__(inputs, (inputs.sum(1) > 0).long(), classes=["below", "above"])

    def __getitems__(self, indices: Any) -> tuple[Tensor, Tensor]:
        inputs, targets = super().__getitems__(indices)
        return inputs + random.random() * torch.randn(inputs.shape) + float(numpy.random.rand()), targets

    def select(self, indices: Any) -> "InMemoryNoise":
        part = copy.copy(self)
        part.inputs, part.targets = self.inputs[indices], self.targets[indices]
        return part


class Net(nn.Module):
    """Convolution, BatchNorm (if wanted), dropout, and a linear layer."""

    def __init__(self, norm: bool = True, dropout: float = 0.3):
        super().__init__()
        self.convolution = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.head = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(dropout), nn.Linear(96, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.convolution(images)).relu())


class Scaled(nn.Module):
    """Cross-entropy that learns how sharp the logits should be: a task with a state of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.scale * outputs, targets)


class Tally(Callback):
    """Remembers the steps of all records."""

    def __init__(self):
        self.steps: list[int] = []

    def on_log(self, trainer: Trainer, record: dict[str, Any]) -> None:
        self.steps.append(record["step"])

    on_epoch_end = on_log

    def state_dict(self) -> dict[str, Any]:
        return {"steps": list(self.steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = list(state["steps"])


class Shuffling(IterableDataset):
    """A stream of points and their classes, through a shuffle buffer that draws from Python's generator."""

    classes = ("left", "right")
    counts = {"train": 45, "val": 18, "test": 18}

    def __init__(self, split: str = "train", count: int | None = None):
        self.first = sorted(self.counts).index(split) * 1000
        self.count = count or self.counts[split]
        self.at, self.held, self.loaded, self.epoch = 0, [], False, 0

    def __iter__(self) -> Iterator[Any]:
        if not self.loaded:
            self.at, self.held = 0, []
        self.loaded = False
        while self.at < self.count or self.held:
            while self.at < self.count and len(self.held) < 7:
                self.held.append(self.first + self.at)
                self.at += 1
            yield self.given(self.held.pop(random.randrange(len(self.held))))

    def given(self, number: int) -> Any:
        side = number % 2
        return torch.tensor([math.sin(number), math.cos(3 * number)]) + side, side


class Remembering(Shuffling):
    """It knows its own position, what an epoch is, and decodes (with augmentation) where it is asked to."""

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def given(self, number: int) -> int:
        return number

    def decode(self, number: int) -> tuple[Tensor, int]:
        inputs, side = Shuffling.given(self, number)
        noise = [random.gauss(0, 0.1), float(numpy.random.normal(0, 0.1))]
        return inputs + torch.tensor(noise) + 0.1 * torch.randn(2) + 0.01 * self.epoch, side

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at, "held": list(self.held)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at, self.held, self.loaded = state["at"], list(state["held"]), True


class Sized(Shuffling):
    """It knows its length."""

    def __len__(self) -> int:
        return self.count


def own(**slots: type) -> list[str]:
    """Overrides that name classes of these tests, as data=Images."""
    return [word for slot, kind in slots.items() for word in (f"{slot}=custom", f"{slot}._target_={path_of(kind)}")]


SMOOTH = [
    *own(data=Images, model=Net, loss=Scaled), "transforms.normalize=train", "scheduler=one_cycle",
    "optimizer.lr=0.003", "loader.batch_size=8", "trainer.accumulate_steps=2", "trainer.max_epochs=3",
    "trainer.log_every=3", "trainer.ema_decay=0.9", "trainer.max_grad_norm=1", "early_stopping.patience=3",
    "logger=none",
]  # fmt: skip
ROUGH = [  # its first validation stays the "best", as what is looked for is the highest loss
    *own(data=Images, model=Net), "model.norm=false", "data.unreadable=0.03", "data.poisoned=25",
    "loader.skip_unreadable=60", "trainer.nonfinite=skip", "optimizer=sgd", "optimizer.lr=0.05",
    "optimizer.momentum=0.9", "scheduler=plateau", "scheduler.patience=1", "scheduler.factor=0.7",
    "schedule.warmup_steps=6", "loader.batch_size=16", "trainer.max_epochs=9", "trainer.log_every=3",
    "trainer.validate_every=2s", "monitor=val/loss", "monitor_mode=max", "early_stopping.patience=10",
    "checkpoint.keep_best=3",
    f"callbacks.tally._target_={path_of(Tally)}", "logger=none",
]  # fmt: skip
MEANS = [  # two optimizers, and the mean of the weights at the ends of epochs 2 and 3
    *own(data=Images, model=Net), "optimizer=several", "optimizer.rest.lr=0.01", "scheduler=sequential",
    "scheduler.milestones=[1]", "param_groups.no_decay_norm_bias=true", "param_groups.head_lr=0.02",
    "trainer.swa_start=2", "loader.batch_size=16", "trainer.max_epochs=3", "trainer.log_every=3", "logger=none",
]  # fmt: skip
CLOSURES = [
    *own(data=Images, model=Net), "optimizer=lbfgs", "optimizer.max_iter=3", "optimizer.lr=0.5",
    "loader.batch_size=32", "trainer.max_epochs=2", "trainer.log_every=2", "logger=none",
]  # fmt: skip
STREAM = [
    "model=mlp", "model.hidden_sizes=[8]", "model.dropout=0.2", "loader.batch_size=4", "trainer.accumulate_steps=2",
    "trainer.log_every=5", "optimizer.lr=0.01", "logger=none",
]  # fmt: skip
RUNS = {
    "smooth": SMOOTH,  # 68 samples are 9 batches, the last of 4, and 5 steps, the last of one batch
    "rough": ROUGH,
    "means": MEANS,
    "closures": CLOSURES,
    "short": [*SMOOTH, "trainer.max_steps=8"],  # ends within an epoch, and validates then
    "logged": [*SMOOTH, "trainer.max_steps=8", "logger=tensorboard"],
    "shuffling": [*own(data=Shuffling), *STREAM, "trainer.max_epochs=2"],
    "remembering": [*own(data=Remembering), *STREAM, "trainer.max_steps=10", "trainer.validate_every=4s"],
    "in_memory": [*own(data=InMemoryNoise), *STREAM, "trainer.max_epochs=2"],
    "sized": [*own(data=Sized), *STREAM, "trainer.max_epochs=2", "scheduler=one_cycle"],
}


class Killed(BaseException):
    """The process is gone: nothing catches it."""


def killed(words: list[str], step: int) -> None:
    """Train, but at this step (before anything of it is saved) the process is gone."""
    train_step = Trainer.train_step

    def dies(self: Trainer, window: Any, logging: bool) -> Any:
        if self.step == step - 1:
            raise Killed
        return train_step(self, window, logging)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "train_step", dies)
        with pytest.raises(Killed):
            plainloop.train(words)


# --- trainers, interrupted everywhere -----------------------------------------------------------------------


cached_compose = functools.cache(lambda *words: compose(words))


def trainers(*words: str, prepare: Callable[[Any], None] = lambda session: None) -> Callable[..., Trainer]:
    """make(**hooks) is a new trainer over a new session, as the command would build it; `prepare` may change it."""
    mine = [*own(data=Images, model=Net), "loader.batch_size=16", "trainer.log_every=3", "trainer.max_epochs=2"]
    cfg = cached_compose(*mine, *words)

    def make(**hooks: Any) -> Trainer:
        session = assemble(cfg)
        prepare(session)
        return make_trainer(session, **hooks)

    return make


@dataclass
class Fitted:
    """A trainer that has come to its end, and what it has given away."""

    trainer: Trainer
    states: list[tuple[dict[str, Any], int]]  # each with the number of records before it
    records: list[dict[str, Any]]

    def differences(self, other: "Fitted", before: int = 0) -> list[str]:
        ours, theirs = self.records[before:], other.records
        timeless = [[{**record, "samples_per_second": 0} for record in each] for each in (ours, theirs)]
        states = [each.trainer.state_dict() for each in (self, other)]
        return [*unequal(*states, "state"), *unequal(*timeless, "records")]


def fitted(make: Callable[..., Trainer], state: dict[str, Any] | None = None) -> Fitted:
    """Train (from a state), saving whenever it is possible."""
    seen: list[dict[str, Any]] = []
    states: list[tuple[dict[str, Any], int]] = []
    trainer = make(
        log=seen.append,
        save=lambda state, best: states.append((copy.deepcopy(state), len(seen))),
        due=lambda trainer, ended: True,
    )
    if state is not None:
        trainer.load_state_dict(copy.deepcopy(state))
    trainer.fit()
    return Fitted(trainer, states, seen)
