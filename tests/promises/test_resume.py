"""A run that was interrupted anywhere and resumed ends with exactly the bits of one that was never interrupted.

The runs here are small, and have everything in them that could be forgotten. Whenever one of them saves, its
directory is copied just before: this is what a `kill -9` at that moment leaves behind, a checkpoint and whatever has
been written since.
"""

import copy
import functools
import itertools
import json
import math
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, get_worker_info

import plainloop
from plainloop.assembly.assemble import assemble
from plainloop.assembly.trainer import make_trainer
from plainloop.config import schema
from plainloop.config.compose import compose
from plainloop.data import InMemory, make_loader
from plainloop.errors import MachineError, UserError
from plainloop.runs import checkpoint
from plainloop.runs.checkpoint import Checkpoints
from plainloop.training.callbacks import Callback
from plainloop.training.trainer import Trainer
from tests.conftest import ROOT, command
from tests.resuming import Watched, curves, differences, newest, records, resumed, unequal, watched

TWO = ["loader.num_workers=2", "loader.multiprocessing_context=fork"]  # quick to start
NONE = ["loader.num_workers=0", "loader.multiprocessing_context=null"]

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more processes than there are cores


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


def own(**names: str) -> list[str]:
    """Overrides that name classes of this file, as data="Images"."""
    return [word for slot, name in names.items() for word in (f"{slot}=custom", f"{slot}._target_={__name__}.{name}")]


SMOOTH = [
    *own(data="Images", model="Net", loss="Scaled"), "transforms.normalize=train", "scheduler=one_cycle",
    "optimizer.lr=0.003", "loader.batch_size=8", "trainer.accumulate_steps=2", "trainer.max_epochs=3",
    "trainer.log_every=3", "trainer.ema_decay=0.9", "trainer.max_grad_norm=1", "early_stopping.patience=3",
    "logger=none",
]  # fmt: skip
ROUGH = [  # its first validation stays the "best", as what is looked for is the highest loss
    *own(data="Images", model="Net"), "model.norm=false", "data.unreadable=0.03", "data.poisoned=25",
    "loader.skip_unreadable=60", "trainer.nonfinite=skip", "optimizer=sgd", "optimizer.lr=0.05",
    "optimizer.momentum=0.9", "scheduler=plateau", "scheduler.patience=1", "scheduler.factor=0.7",
    "schedule.warmup_steps=6", "loader.batch_size=16", "trainer.max_epochs=9", "trainer.log_every=3",
    "trainer.validate_every=2s", "monitor=val/loss", "monitor_mode=max", "early_stopping.patience=10",
    f"callbacks.tally._target_={__name__}.Tally", "logger=none",
]  # fmt: skip
MEANS = [  # two optimizers, and the mean of the weights at the ends of epochs 2 and 3
    *own(data="Images", model="Net"), "optimizer=several", "optimizer.rest.lr=0.01", "scheduler=sequential",
    "scheduler.milestones=[1]", "param_groups.no_decay_norm_bias=true", "param_groups.head_lr=0.02",
    "trainer.swa_start=2", "loader.batch_size=16", "trainer.max_epochs=3", "trainer.log_every=3", "logger=none",
]  # fmt: skip
CLOSURES = [
    *own(data="Images", model="Net"), "optimizer=lbfgs", "optimizer.max_iter=3", "optimizer.lr=0.5",
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
    "shuffling": [*own(data="Shuffling"), *STREAM, "trainer.max_epochs=2"],
    "remembering": [*own(data="Remembering"), *STREAM, "trainer.max_steps=10", "trainer.validate_every=4s"],
    "in_memory": [*own(data="InMemoryNoise"), *STREAM, "trainer.max_epochs=2"],
    "sized": [*own(data="Sized"), *STREAM, "trainer.max_epochs=2", "scheduler=one_cycle"],
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Watched]:
    """uninterrupted("smooth"): each of RUNS, trained once."""
    return functools.cache(lambda name: watched(RUNS[name], tmp_path_factory.mktemp(name)))


# --- interrupted everywhere ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "step", "ended"),
    [
        ("smooth", 7, False),  # within an epoch, within a log window
        ("smooth", 10, False),  # the epoch's batches are done, its validation isn't
        ("smooth", 10, True),
        ("smooth", 15, True),  # finished, but for the last measurement
        ("rough", 4, False),  # in the warm-up, validated
        ("rough", 18, False),
        ("means", 5, True),  # before the first average
        ("means", 12, False),  # within the third epoch, two means
        ("means", 15, False),
        ("closures", 3, False),
        ("short", 8, False),  # its last step is done, the validation isn't
        ("shuffling", 3, False),
        ("remembering", 9, False),
        ("sized", 7, False),
        ("in_memory", 3, False),
    ],
)
def test_a_resumed_run_equals_one_that_was_never_interrupted(name, step, ended, uninterrupted, tmp_path):
    run = uninterrupted(name)
    assert differences(run.path, resumed(run.interrupted(step, tmp_path, ended))) == []


def test_the_runs_are_what_they_are_meant_to_be(uninterrupted):
    """Else the comparisons would show less than they claim."""
    smooth, rough = uninterrupted("smooth").path, uninterrupted("rough").path
    steps = [record["step"] for record in records(smooth)]
    assert steps == [3, 5, 6, 9, 10, 12, 15, 15]
    assert newest(smooth)["losses"]["seen"] == 3 * 68
    assert newest(smooth)["task"]["loss.scale"] != 1.0
    metrics = json.loads((rough / "metrics.json").read_text())
    assert metrics["best/step"] == 2
    assert metrics["steps"] == 22  # stopped early, within the fifth epoch
    assert newest(rough)["scaler"]["skipped"] >= 4
    assert len({record["lr"] for record in records(rough) if "lr" in record}) > 4
    assert 3 < len(newest(rough)["train_batches"]["unreadable"]) < 60
    rates = [record["lr"] for record in records(smooth)]
    assert max(rates) > 10 * rates[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_interrupted_at_every_boundary(name, uninterrupted, tmp_path):
    run = uninterrupted(name)
    saved = [newest(path)["position"] for path in run.copies]
    assert {position["step"] for position in saved} == set(range(1, saved[-1]["step"] + 1))
    wrong = {}
    for number, (path, position) in enumerate(zip(run.copies, saved, strict=True)):
        again = resumed(Path(shutil.copytree(path, tmp_path / str(number))))
        wrong[f"copy {number}, {position}"] = differences(run.path, again)
    assert {where: found for where, found in wrong.items() if found} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smooth", "remembering"])
def test_interrupted_at_every_boundary_with_workers(name, uninterrupted, tmp_path):
    """Two processes load, and as many or others when it goes on; the truth is the run without any."""
    run = watched([*RUNS[name], *TWO], tmp_path)
    assert differences(uninterrupted(name).path, run.path) == []
    wrong = {}
    for number, (path, workers) in enumerate(zip(run.copies, itertools.cycle([2, 2, 3, 1]), strict=False)):
        again = resumed(path, f"loader.num_workers={workers}")
        wrong[f"copy {number}, {workers} workers"] = differences(run.path, again)
    assert {where: found for where, found in wrong.items() if found} == {}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "step"), [("smooth", 7), ("rough", 18), ("remembering", 3)])
def test_workers_of_the_default_start_method(name, step, uninterrupted, tmp_path):
    run = uninterrupted(name)
    assert differences(run.path, resumed(run.interrupted(step, tmp_path), "loader.num_workers=2")) == []


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


@pytest.mark.slow
def test_after_five_kills_everything_is_there_once(uninterrupted, tmp_path):
    """The same command line every time, as a cluster types it, with other workers; killed twice before anything was
    saved, and then three times between two saves."""
    words = [*RUNS["smooth"], "logger=tensorboard", "checkpoint.every_steps=2"]
    words = [*words, "resume=auto", f"hydra.run.dir={tmp_path}/run"]
    for step, workers in ((1, NONE), (2, TWO), (8, NONE), (10, TWO), (14, NONE)):
        killed([*words, *workers], step)
    again = plainloop.train([*words, *TWO])
    whole = uninterrupted("smooth").path
    assert [found for found in differences(whole, again.path) if not found.startswith("curves")] == []
    found = curves(again.path)
    assert [step for step, _ in found["train/lr"]] == [3, 5, 6, 9, 10, 12, 15, 15]
    assert [step for step, _ in found["val/loss"]] == [5, 10, 15]
    assert len(json.loads((again.path / "environment.json").read_text())["resumed"]) == 3


# --- each item of the saved state ---------------------------------------------------------------------------

# What is dropped from the checkpoint after which step of which run; "end": of a run that has finished but for its
# last measurement.
CONTROLS = {
    "model": ("smooth", 7),
    "average.model": ("smooth", 7),
    "average.count": ("smooth", 7),
    "task": ("smooth", 7),
    "optimizer.state": ("smooth", 7),
    "optimizer.param_groups": ("smooth", 7),
    "schedule.scheduler": ("smooth", 7),
    "schedule.count": ("rough", 4),
    "scaler.skipped": ("rough", 18),
    "losses.total": ("smooth", 7),
    "losses.count": ("smooth", 7),
    "losses.seen": ("smooth", 7),
    "best.value": ("rough", 8),
    "best.loss": ("rough", 8),
    "best.epoch": ("rough", 8),
    "best.step": ("rough", 8),
    "best.reference": ("rough", 8),
    "best.stale": ("rough", 8),
    "train_batches.unreadable": ("rough", 18),
    "callbacks.tally": ("rough", 8),
    "position.epoch": ("rough", 8),
    "position.batch": ("rough", 8),
    "position.step": ("smooth", 7),
    "position.samples": ("smooth", "end"),
    "carried.epoch_loss": ("smooth", 7),
    "carried.epoch_samples": ("smooth", 7),
    "carried.last_values": ("smooth", "end"),
    "carried.last_train_loss": ("smooth", "end"),
    "carried.validated": ("rough", 4),
    "carried.stopped": ("rough", "end"),
    "loggers.history": ("smooth", 7),
    "loggers.tensorboard": ("logged", 5),
}
NOT_NEEDED = {
    "schedule.full_rates": "the config says them again",
    "preprocess.scale": "fitted to the same data again; needed when that has changed: see below",
    "preprocess.shift": "likewise",
    "train_batches.stream": "saves walking over what was read before: see below",
    "scaler.in_a_row": "when a run is given up: see below",
    "average.added": "when what belongs to an epoch's end is interrupted: test_averaging.py",
    "carried.over": "of a stream that is interrupted at its last epoch's end: see below",
    "carried.ended": "an end that is repeated adds nothing",
    "loggers.console": "has none",
    "seconds": "a clock's: see below",
    "fingerprint": "says whose checkpoint it is: see below",
}
OPENED = ("schedule", "scaler", "losses", "best", "train_batches", "loggers", "position", "carried", "callbacks",
          "preprocess", "optimizer", "average")  # fmt: skip


def fresh_state(name: str) -> dict[str, Any]:
    """What a trainer holds that has been given nothing."""
    session = assemble(compose(RUNS[name]))
    return {**make_trainer(session).state_dict(), "loggers": {"history": {"length": 0}, "tensorboard": {}}}


def items(state: dict[str, Any]) -> set[str]:
    """The state's keys, with those within the parts that are ours."""
    inner = {f"{part}.{name}" for part in OPENED for name in state[part] or ()}
    return inner | (set(state) - set(OPENED))


def test_every_item_of_the_state_has_its_control(uninterrupted):
    """A new one can't be forgotten: either its loss is shown to matter, or a reason is given here."""
    names = ("smooth", "rough", "logged", "remembering", "means")
    found = set().union(*(items(newest(uninterrupted(name).path)) for name in names))
    assert found - set(NOT_NEEDED) == set(CONTROLS)


def without(state: dict[str, Any], item: str, fresh: dict[str, Any]) -> dict[str, Any]:
    """The state with an item as a fresh trainer would have it."""
    part, _, name = item.partition(".")
    return {**state, part: {**state[part], name: fresh[part][name]} if name else fresh[part]}


@pytest.mark.slow
@pytest.mark.parametrize("item", CONTROLS)
def test_without_any_item_the_bits_are_others(item, uninterrupted, tmp_path):
    name, step = CONTROLS[item]
    run = uninterrupted(name)
    if step == "end":
        path = Path(shutil.copytree(run.copies[-1], tmp_path / "copy"))
    else:
        path = run.interrupted(step, tmp_path)
    state = newest(path)
    dropped = without(state, item, fresh_state(name))
    assert unequal(state, dropped) != []
    checkpoint.save(Checkpoints(path / "checkpoints").all()[0], dropped)
    try:
        found = differences(run.path, resumed(path))
    except MachineError:
        return
    if step == "end":  # nothing is saved any more: that the spoiled checkpoint is another is no proof
        found = [place for place in found if not place.startswith("last")]
    assert found != []


def test_what_is_not_needed_is_there_again(uninterrupted):
    """The items with the reason that they are made again: a fresh trainer has the same bits."""
    for name in ("smooth", "rough"):
        saved, fresh = newest(uninterrupted(name).path), fresh_state(name)
        assert unequal(saved["preprocess"], fresh["preprocess"]) == []
        assert unequal(saved["schedule"]["full_rates"], fresh["schedule"]["full_rates"]) == []
        assert saved["loggers"]["console"] == {}


def test_the_seconds_go_on(uninterrupted, tmp_path):
    path = uninterrupted("smooth").interrupted(7, tmp_path)
    checkpoint.save(Checkpoints(path / "checkpoints").all()[0], {**newest(path), "seconds": 1000.0})
    resumed(path)
    assert json.loads((path / "metrics.json").read_text())["seconds"] > 1000.0
    assert newest(path)["seconds"] > 1000.0


# --- trainers, interrupted everywhere -----------------------------------------------------------------------


cached_compose = functools.cache(lambda *words: compose(words))


def trainers(*words: str, prepare: Callable[[Any], None] = lambda session: None) -> Callable[..., Trainer]:
    """make(**hooks) is a new trainer over a new session, as the command would build it; `prepare` may change it."""
    mine = [*own(data="Images", model="Net"), "loader.batch_size=16", "trainer.log_every=3", "trainer.max_epochs=2"]
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


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "words",
    [
        ["scheduler=step", "scheduler.step_size=1", "optimizer=sgd", "optimizer.momentum=0.9"],
        ["scheduler=cosine", "schedule.warmup_steps=3", "optimizer=adamw", "optimizer.amsgrad=true"],
        ["scheduler=plateau", "scheduler.patience=0", "early_stopping.patience=2", "early_stopping.min_delta=9"],
        ["trainer.validate_every=3s", "trainer.ema_decay=0.5", "trainer.max_steps=8"],
        ["trainer.validate_every=0", "trainer.stop_below=0.9"],
        ["trainer.accumulate_steps=3", "loader.drop_last=true", "loader.batch_size=7", "trainer.precision=bf16"],
        ["trainer.nonfinite=skip", "data.poisoned=9", "model.norm=false", "trainer.log_every=1"],
        ["trainer.limit_batches=2", "loader.shuffle=false", "loss=custom", f"loss._target_={__name__}.Scaled"],
    ],
    ids=" ".join,
)
def test_a_trainer_goes_on_from_its_states(words, every):
    make = trainers(*words)
    whole = fitted(make)
    wrong = {}
    for number, (state, before) in list(enumerate(whole.states))[2::every] if every > 1 else enumerate(whole.states):
        wrong[number] = whole.differences(fitted(make, state), before)
    assert {number: found for number, found in wrong.items() if found} == {}
    assert len(whole.states) > whole.trainer.step


def test_a_gradient_scaler_goes_on():
    """Half precision on the CPU, which is refused on the command line (it is slow), has one too."""

    def half(session: Any) -> None:
        session.config.trainer.precision = "fp16"

    make = trainers(prepare=half)
    whole = fitted(make)
    state, before = next(saved for saved in whole.states if saved[0]["position"]["step"] == 9)
    assert whole.differences(fitted(make, state), before) == []
    fresh = {**state, "scaler": make().scaler.state_dict()}
    assert whole.differences(fitted(make, fresh), before) != []


class Centred(nn.Module):
    """A preprocessing with a state that moves: the running mean of what it has seen in training."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.mean.lerp_(inputs.mean(), 0.3)
        return inputs - self.mean


def test_a_preprocessing_with_a_state_goes_on():
    def centred(session: Any) -> None:
        session.preprocess = Centred()

    make = trainers(prepare=centred)
    whole = fitted(make)
    state, before = whole.states[4]
    assert whole.differences(fitted(make, state), before) == []
    fresh = {**state, "preprocess": make().preprocess.state_dict()}
    assert whole.differences(fitted(make, fresh), before) != []


def test_the_statistics_of_the_old_data_stay(uninterrupted, tmp_path, monkeypatch):
    """Where the data has changed and the user goes on all the same, the inputs are still measured by the old."""
    run = uninterrupted("smooth").interrupted(7, tmp_path)
    getitem = Images.__getitem__
    monkeypatch.setattr(Images, "__getitem__", lambda self, index: (3 * getitem(self, index)[0], self.targets[index]))
    with pytest.raises(UserError, match=r"the content of split train has changed.*\n.*resume_inexact=true"):
        resumed(run)
    before = newest(run)["preprocess"]
    resumed(run, "resume_inexact=true")
    assert unequal(newest(run)["preprocess"], before) == []
    assert plainloop.load_run(run).preprocess.scale.equal(before["scale"])


def test_what_was_accepted_is_not_asked_again(uninterrupted, tmp_path, monkeypatch, capsys):
    """The content of the data is compared with what the checkpoint was trained on, which is the new one by now."""
    words = [word for word in RUNS["short"] if not word.startswith("scheduler")]
    run = plainloop.train([*words, f"hydra.run.dir={tmp_path}/run"]).path
    getitem = Images.__getitem__
    monkeypatch.setattr(Images, "__getitem__", lambda self, index: (3 * getitem(self, index)[0], self.targets[index]))
    longer = "trainer.max_steps=10"
    with pytest.raises(UserError, match="the content of split train has changed"):
        resumed(run, longer)
    resumed(run, longer, "resume_inexact=true")
    resumed(run, "trainer.max_steps=12")
    assert newest(run)["position"]["step"] == 12
    monkeypatch.undo()
    with pytest.raises(UserError, match="the content of split train has changed"):
        resumed(run, "trainer.max_steps=14")
    capsys.readouterr()
    plainloop.train([f"extend={run}", "trainer.max_steps=1", f"hydra.run.dir={tmp_path}/extended"])
    assert f"the content of split train isn't what {run} was trained on" in capsys.readouterr().out


class TwoOptimizers(Trainer):
    """A trainer with something of its own that learns: it says what must be remembered of it."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.other = nn.Linear(64, 1)
        self.other_optimizer = torch.optim.Adam(self.other.parameters(), lr=0.01)

    def train_step(self, window: Any, logging: bool) -> Any:
        loss = (self.other(window[0][0].flatten(1)) - window[0][1]).square().mean()
        self.other_optimizer.zero_grad()
        loss.backward()
        self.other_optimizer.step()
        return super().train_step(window, logging)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "other": [self.other.state_dict(), self.other_optimizer.state_dict()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.other.load_state_dict(state["other"][0])
        self.other_optimizer.load_state_dict(state["other"][1])


def test_a_trainer_of_ones_own_adds_to_the_state():
    make = trainers(f"trainer._target_={__name__}.TwoOptimizers", "trainer.max_epochs=1")
    whole = fitted(make)
    state, before = whole.states[2]
    assert whole.differences(fitted(make, state), before) == []


class Mixing(Trainer):
    """A step that draws from NumPy's and Python's generators."""

    def train_step(self, window: Any, logging: bool) -> Any:
        share = float(numpy.random.beta(1, 1)) * random.random()
        return super().train_step([(share * images, targets) for images, targets in window], logging)


def test_a_step_of_ones_own_may_draw_from_any_library():
    make = trainers(f"trainer._target_={__name__}.Mixing")
    whole = fitted(make)
    numpy.random.seed(5), random.seed(5)
    assert whole.differences(fitted(make)) == []
    for state, before in whole.states[1::6]:
        numpy.random.seed(6), random.seed(6)
        assert whole.differences(fitted(make, state), before) == []


class Sampling(Net):
    """It draws in eval mode too, as a variational autoencoder does."""

    def forward(self, images: Tensor) -> Tensor:
        outputs = super().forward(images)
        return outputs + torch.randn_like(outputs)


def test_what_a_model_draws_when_it_is_measured_is_the_same_every_time(tmp_path):
    make = trainers(f"model._target_={__name__}.Sampling")
    whole = fitted(make)
    torch.manual_seed(5)
    assert whole.differences(fitted(make)) == []
    for state, before in whole.states[1::6]:
        assert whole.differences(fitted(make, state), before) == []
    words = [
        *own(data="Images", model="Sampling"),
        "logger=none",
        "trainer.max_epochs=1",
        f"hydra.run.dir={tmp_path}/run",
    ]
    run = plainloop.train(words)
    assert plainloop.evaluate(run.path, split="val")["val/loss"] == run.metrics["val/loss"]


@pytest.mark.parametrize(
    ("words", "step"),
    [
        (["trainer.max_steps=7"], 7),  # the one at the run's end, within an epoch
        (["trainer.validate_every=3s"], 3),
        (["trainer.validate_every=3s", "early_stopping.patience=1", "early_stopping.min_delta=9"], 6),  # it stops here
        (["trainer.validate_every=1"], 5),
        (["trainer.validate_every=1"], 10),
        (["trainer.validate_every=5s"], 5),
    ],
    ids=str,
)
def test_a_validation_that_a_signal_interrupts_is_made_again(words, step):
    """At every place where there can be one."""
    make = trainers(*words)
    whole = fitted(make)
    states: list[tuple[dict[str, Any], int]] = []
    seen: list[dict[str, Any]] = []
    trainer = make(log=seen.append, save=lambda state, best: states.append((copy.deepcopy(state), len(seen))))
    validate = trainer.validate

    def interrupted() -> dict[str, float]:
        trainer.signal = 15 if trainer.step == step else None
        return validate()

    trainer.validate = interrupted
    with pytest.raises(KeyboardInterrupt, match=f"saved at step {step}"):
        trainer.fit()
    state, before = states[-1]
    assert whole.differences(fitted(make, state), before) == []


# --- what doesn't matter, and what does ---------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits(uninterrupted, tmp_path):
    random.seed(5)  # nor does what was drawn before matter
    torch.rand(7)
    again = plainloop.train([*SMOOTH, "checkpoint.every_steps=1", f"hydra.run.dir={tmp_path}/again"])
    assert differences(uninterrupted("smooth").path, again.path) == []


def test_another_seed_gives_others():
    """Other first weights, another order, other augmentation, other dropout."""
    one, other = (trainers(f"seed={seed}")() for seed in (0, 1))
    assert not torch.equal(one.parameters[0], other.parameters[0])
    assert one.train_batches.source.order(0).tolist() != other.train_batches.source.order(0).tolist()
    plain, fixed = (trainers(f"seed={seed}", "loader.shuffle=false")() for seed in (0, 1))
    for (images, targets), (others, same) in zip(
        plain.train_batches.epoch(0), fixed.train_batches.epoch(0), strict=True
    ):
        assert torch.equal(targets, same)
        assert not any(torch.equal(image, other) for image, other in zip(images, others, strict=True))
    masks = []
    for trainer in (one, other):
        trainer.seed_step(3)
        masks.append(torch.dropout(torch.ones(100), 0.5, train=True))
    assert not torch.equal(*masks)


LOADING = [
    TWO,
    [*TWO, "loader.prefetch_factor=5"],
    [*TWO, "loader.persistent_workers=false"],
    ["loader.num_workers=1", TWO[1]],
    ["loader.num_workers=4", TWO[1], "loader.prefetch_factor=1"],
]


@pytest.mark.parametrize("words", [["console.progress=true"], *LOADING[:1]], ids=" ".join)
def test_what_shows_and_what_loads_does_not_matter(words, uninterrupted, tmp_path):
    run = plainloop.train([*SMOOTH, "checkpoint.every_steps=1", f"hydra.run.dir={tmp_path}/run", *words])
    assert differences(uninterrupted("smooth").path, run.path) == []


@pytest.mark.slow
@pytest.mark.parametrize("words", LOADING[1:], ids=" ".join)
@pytest.mark.parametrize("name", ["smooth", "rough", "shuffling", "remembering", "in_memory"])
def test_however_it_is_loaded_the_bits_are_the_same(name, words, uninterrupted, tmp_path):
    run = plainloop.train([*RUNS[name], "checkpoint.every_steps=1", f"hydra.run.dir={tmp_path}/run", *words])
    assert differences(uninterrupted(name).path, run.path) == []


class Averaged(Dataset):
    """Samples that are sums over many numbers, whose last bits depend on how many threads add them up."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Tensor:
        return torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(index)).sum()


def test_threads_do_not_matter_to_what_is_loaded():
    """torch's loading processes have one thread; the main process may have more."""
    try:
        torch.set_num_threads(2)
        by_two = torch.stack([Averaged()[index] for index in range(24)])
        options = {"seed": 1, "device": torch.device("cpu")}
        section = schema.Loader(batch_size=8, shuffle=False, num_workers=0)
        alone = torch.cat(list(make_loader(Averaged(), section, **options).epoch(0)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    by_one = torch.stack([Averaged()[index] for index in range(24)])
    section = schema.Loader(batch_size=8, shuffle=False, num_workers=2, multiprocessing_context="fork")
    with make_loader(Averaged(), section, **options) as loader:
        loaded = torch.cat(list(loader.epoch(0)))
    assert unequal(alone, by_one) == unequal(alone, loaded) == []
    assert unequal(by_two, by_one) != []  # it would have mattered


def test_validation_and_logging_leave_the_training_alone(uninterrupted, tmp_path):
    """However often: weights, buffers, averages, moments and rates are the same."""
    whole = newest(uninterrupted("smooth").path)
    for number, word in enumerate(("trainer.validate_every=0", "trainer.validate_every=4s", "trainer.log_every=1")):
        patience = ["early_stopping.patience=null"] if word.endswith("=0") else ["early_stopping.patience=99"]
        run = plainloop.train([*SMOOTH, word, *patience, f"hydra.run.dir={tmp_path}/{number}"])
        state = newest(run.path)
        for part in ("model", "average", "task", "optimizer", "schedule"):
            assert unequal(whole[part], state[part], part) == []


# --- streams ------------------------------------------------------------------------------------------------


def test_a_stream_that_is_interrupted_at_the_runs_end_ends_its_epoch(tmp_path, monkeypatch):
    """It has no length by which to know that the epoch's batches are used up."""
    words = [*own(data="Shuffling"), *STREAM, "trainer.stop_below=100"]
    whole = plainloop.train([*words, f"hydra.run.dir={tmp_path}/whole"])
    assert records(whole.path)[-1]["train/epoch_loss"] < 100
    validate = Trainer.validate

    def interrupted(self: Trainer) -> dict[str, float]:
        self.signal = signal.SIGTERM
        return validate(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "validate", interrupted)
        with pytest.raises(KeyboardInterrupt, match="saved"):
            plainloop.train([*words, f"hydra.run.dir={tmp_path}/stopped"])
    assert [found for found in differences(whole.path, resumed(tmp_path / "stopped")) if "files" not in found] == []


class Raw(IterableDataset):
    """0, 1, 2, ...: decoded to itself, the epoch, the process that decoded it, and a random number of each library."""

    def __init__(self, count: int = 23):
        self.count, self.epoch = count, 0
        self.read = 0
        self.decoded = torch.zeros(4, dtype=torch.int64).share_memory_()  # by each process

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        for number in range(self.count):
            self.read += 1
            yield number

    def decode(self, number: int) -> Tensor:
        self.decoded[me()] += 1
        drawn = [random.random(), float(numpy.random.rand()), float(torch.rand(()))]
        return torch.tensor([number, self.epoch, me(), *drawn], dtype=torch.float64)


def me() -> int:
    worker = get_worker_info()
    return worker.id if worker else 0


class Mixed(Raw):
    """In an order that is drawn while it is read, from all three libraries, and told apart by epoch."""

    def __iter__(self) -> Iterator[Any]:
        held = list(range(self.count))
        while held:
            drawn = random.random() + numpy.random.rand() + float(torch.rand(()))
            yield held.pop(int(drawn / 3 * len(held)))


class Kept(Mixed):
    """The same, and it knows where it stands."""

    def __init__(self, count: int = 23):
        super().__init__(count)
        self.held: list[int] = []
        self.loaded = False

    def __iter__(self) -> Iterator[Any]:
        if not self.loaded:
            self.held = list(range(self.count))
        self.loaded = False
        while self.held:
            self.read += 1
            drawn = random.random() + numpy.random.rand() + float(torch.rand(()))
            yield self.held.pop(int(drawn / 3 * len(self.held)))

    def state_dict(self) -> dict[str, Any]:
        return {"held": self.held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.held, self.loaded = list(state["held"]), True


class Dividing(Raw):
    """It divides itself among the workers, as torch's documentation shows."""

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        start, step = (worker.id, worker.num_workers) if worker else (0, 1)
        return iter(range(start, self.count, step))


def loader_of(
    dataset: IterableDataset, workers: int = 0, seed: int = 1, limit: int | None = None, **options: Any
) -> Any:
    """A loader of a stream, whose processes are forked: quick to start, and they share the counts."""
    start = {"multiprocessing_context": "fork"} if workers else {}
    section = schema.Loader(**{"batch_size": 4, "num_workers": workers, **start, **options})
    return make_loader(dataset, section, seed=seed, device=torch.device("cpu"), limit=limit)


def told(batches: Any) -> list[Tensor]:
    """Numbers, epochs and drawn numbers of each batch, without the process."""
    return [batch[:, [0, 1, 3, 4, 5]] for batch in batches]


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_each_batch_is_decoded_by_its_own_process(workers):
    dataset = Raw()
    batches = list(loader_of(dataset, workers).epoch(0))
    assert [int(n) for batch in batches for n in batch[:, 0]] == list(range(23))  # once each, and in their order
    assert [set(batch[:, 2].int().tolist()) for batch in batches] == [{k % max(workers, 1)} for k in range(6)]
    sizes = [4, 4, 4, 4, 4, 3]
    walking = max(workers, 1)
    assert dataset.decoded.tolist() == [sum(sizes[w::walking]) if w < walking else 0 for w in range(4)]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Raw, {}),
        (Mixed, {}),
        (Kept, {"drop_last": True}),
        (Dividing, {}),
        (Mixed, {"limit": 4}),
        (Dividing, {"batch_size": 1, "limit": 7}),
    ],
    ids=str,
)
def test_workers_do_not_matter_to_a_stream(kind, options):
    """The same batches, in the same order, with the same numbers drawn."""
    truth = told(loader_of(kind(), **options).epoch(1))
    for workers in (1, 2, 3):
        assert unequal(truth, told(loader_of(kind(), workers, **options).epoch(1))) == []
    numbers = [int(n) for batch in truth for n in batch[:, 0]]
    size, most = options.get("batch_size", 4), options.get("limit", 99)
    count = min(size * most, 20 if "drop_last" in options else 23)
    assert len(numbers) == len(set(numbers)) == count
    assert set(torch.cat(truth)[:, 1].tolist()) == {1.0}  # it was told the epoch


def test_epochs_of_a_stream_differ():
    """Its order, where it draws one, and its augmentation; with workers that live through both."""
    for workers in (0, 2):
        loader = loader_of(Mixed(), workers)
        first, second, again = (torch.cat(told(loader.epoch(epoch))) for epoch in (0, 1, 0))
        assert torch.equal(first, again)
        assert first[:, 0].tolist() != second[:, 0].tolist()
        assert sorted(first[:, 0].tolist()) == sorted(second[:, 0].tolist()) == list(range(23))
        assert not torch.isin(first[:, 2], second[:, 2]).any()
        other = torch.cat(told(loader_of(Mixed(), workers, seed=2).epoch(0)))
        assert first[:, 0].tolist() != other[:, 0].tolist()
        assert not torch.isin(first[:, 2:], other[:, 2:]).any()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [Raw, Mixed, Kept])
def test_a_stream_is_entered_anywhere(kind, workers):
    """By count, or where it knows its position, by that; the process that fetches is another one then."""
    loader, whole, states = loader_of(kind(), workers), [], []
    for batch in loader.epoch(3):
        whole.append(batch)
        states.append(copy.deepcopy(loader.state_dict()))
    following = told(loader_of(kind()).epoch(4))
    for first, then in ((1, 0), (2, 3), (3, 0), (4, 0), (5, 2), (6, 0)):
        again = loader_of(kind(), then)
        again.load_state_dict(states[first - 1])
        assert unequal(told(whole[first:]), told(again.epoch(3, first_batch=first))) == []
        assert unequal(following, told(again.epoch(4))) == []  # and the next one is whole


def test_a_stream_that_knows_its_position_goes_there_itself():
    """Nothing is read again; one that doesn't know is walked over, and not decoded."""
    loader = loader_of(Kept())
    batches = loader.epoch(0)
    for _ in range(4):
        next(batches)
    state = loader.state_dict()
    for kind, read in ((Kept, 23 - 16), (Raw, 23)):
        dataset = kind()
        again = loader_of(dataset)
        again.load_state_dict(state if kind is Kept else {"unreadable": {}, "stream": None})
        assert len(list(again.epoch(0, first_batch=4))) == 2
        assert dataset.read == read
        assert dataset.decoded.tolist() == [23 - 16, 0, 0, 0]


class Restarting(Kept):
    """At its end its state is that of its beginning."""

    def state_dict(self) -> dict[str, Any]:
        return {"held": list(self.held) or list(range(self.count))}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_has_ended_is_not_entered_again(workers):
    loader = loader_of(Restarting(), workers)
    whole, states = [], []
    for batch in loader.epoch(0):
        whole.append(batch)
        states.append(copy.deepcopy(loader.state_dict()))
    assert [len(batch) for batch in whole] == [4, 4, 4, 4, 4, 3]
    for first in (4, 6):
        again = loader_of(Restarting(), workers)
        again.load_state_dict(states[first - 1])
        assert unequal(told(whole[first:]), told(again.epoch(0, first_batch=first))) == []


class GoingOn(Shuffling):
    """Iterated again, it goes on where it was: a look at its first sample costs one."""

    def __iter__(self) -> Iterator[Any]:
        while self.at < self.count:
            self.at += 1
            yield self.given(self.at)
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


def test_a_stream_that_goes_on_where_it_was_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"GoingOn goes on where it was .* __iter__ begin at the beginning"):
        plainloop.train([*own(data="GoingOn"), *STREAM, "trainer.max_epochs=1"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_walking_a_stream_leaves_the_callers_numbers_alone(workers):
    random.seed(3), numpy.random.seed(3), torch.manual_seed(3)
    expected = random.random(), numpy.random.rand(), float(torch.rand(()))
    random.seed(3), numpy.random.seed(3), torch.manual_seed(3)
    for _ in loader_of(Mixed(), workers).epoch(0):
        pass
    assert (random.random(), numpy.random.rand(), float(torch.rand(()))) == expected


def test_a_stream_without_a_length_ends_where_it_is_told(uninterrupted):
    """After so many epochs, which end where the data does, or after so many steps."""
    by_epochs, by_steps = (
        json.loads((uninterrupted(name).path / "metrics.json").read_text()) for name in ("shuffling", "remembering")
    )
    assert (by_epochs["epochs"], by_epochs["steps"], by_epochs["samples"]) == (2, 12, 90)  # 45 are 12 batches, 6 steps
    assert (by_steps["epochs"], by_steps["steps"], by_steps["samples"]) == (1, 10, 45 + 4 * 8)


def test_a_schedule_that_needs_a_length_is_refused_on_a_stream_without(tmp_path):
    words = [*own(data="Shuffling"), *STREAM, "trainer.max_epochs=2"]
    for name in ("one_cycle", "cosine"):
        with pytest.raises(UserError, match=rf"scheduler={name}.*length.*trainer\.max_steps"):
            plainloop.train([*words, f"scheduler={name}"])
    assert list(tmp_path.iterdir()) == []  # found before anything is written
    run = plainloop.train([*words, "scheduler=one_cycle", "trainer.max_steps=4"])
    assert run.metrics["steps"] == 4
    for name in ("step", "plateau"):  # these don't ask for it
        assert plainloop.train([*words, f"scheduler={name}"]).metrics["epochs"] == 2


# --- resume_inexact -----------------------------------------------------------------------------------------

HALVES = ["loader.batch_size=8", "trainer.accumulate_steps=2"]  # of SIXTEEN's batches


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory) -> Watched:
    """A run with batches of 16 and a schedule for its 10 steps, in which only the batches hold anything random."""
    words = [
        *own(data="Images", model="Net"),
        "model.norm=false",
        "model.dropout=0.0",
        "loader.batch_size=16",
        "optimizer=sgd",
        "optimizer.lr=0.1",
        "scheduler=cosine",
        "trainer.max_epochs=2",
        "logger=none",
    ]
    return watched(words, tmp_path_factory.mktemp("sixteen"))


def test_another_batch_size_is_refused_unless_it_is_meant(sixteen, tmp_path, capsys):
    path = sixteen.interrupted(7, tmp_path)
    for word in HALVES:
        with pytest.raises(UserError, match=rf"{word}: this can't change when a run is continued.*resume_inexact=true"):
            resumed(path, *HALVES[HALVES.index(word) :])
    capsys.readouterr()
    resumed(path, *HALVES, "resume_inexact=true")
    out = capsys.readouterr().out
    assert "batch_size was 16 and is 8" in out
    assert "accumulate_steps was 1 and is 2" in out
    metrics, whole = (json.loads((each / "metrics.json").read_text()) for each in (path, sixteen.path))
    for name in ("steps", "samples", "epochs"):
        assert metrics[name] == whole[name]
    # Halves of a batch, weighted by their samples, have the gradient of the whole: equal up to rounding only if each
    # sample is seen once and augmented as it would have been.
    for name, weights in newest(sixteen.path)["model"].items():
        torch.testing.assert_close(newest(path)["model"][name], weights, rtol=1e-3, atol=1e-5)
    capsys.readouterr()
    resumed(path)  # what it is now is the run's own
    assert "this run is finished" in capsys.readouterr().out


@pytest.mark.parametrize(("step", "ended"), [(3, False), (5, False), (5, True)])
def test_another_batch_size_may_begin_anywhere(step, ended, sixteen, tmp_path):
    """Also behind an epoch's last batch, which wasn't full."""
    path = resumed(sixteen.interrupted(step, tmp_path, ended), *HALVES, "resume_inexact=true")
    assert json.loads((path / "metrics.json").read_text())["samples"] == 2 * 68
    for name, weights in newest(sixteen.path)["model"].items():
        torch.testing.assert_close(newest(path)["model"][name], weights, rtol=1e-3, atol=1e-5)


def test_a_schedule_built_for_another_number_of_steps_is_refused(sixteen, tmp_path):
    """Nine small steps an epoch instead of five; without a schedule it may go on."""
    path = sixteen.interrupted(7, tmp_path)
    before = (path / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=r"was built for 10 steps, and with this batch size there are 18.*extend="):
        resumed(path, HALVES[0], "resume_inexact=true")
    assert (path / "config.yaml").read_bytes() == before
    plain = [word for word in SMOOTH if not word.startswith("scheduler")]
    run = watched(plain, tmp_path / "plain")
    metrics = json.loads(
        (resumed(run.copies[2], "loader.batch_size=4", "resume_inexact=true") / "metrics.json").read_text()
    )
    assert metrics["samples"] == 3 * 68


def test_an_epoch_that_had_its_last_small_batch_is_done_for_larger_ones_too(tmp_path):
    """68 samples are nine batches of eight, or five of sixteen; 72 // 16 would see the last four again."""
    words = [word for word in SMOOTH if not word.startswith(("scheduler", "trainer.accumulate"))]
    run = watched([*words, "trainer.max_epochs=2"], tmp_path)
    path = run.interrupted(9, tmp_path)
    resumed(path, "loader.batch_size=16", "resume_inexact=true")
    assert json.loads((path / "metrics.json").read_text())["samples"] == 2 * 68
    assert newest(path)["position"]["step"] == 9 + 5


def test_a_schedule_that_counts_steps_of_an_epoch_does_not_fit_another_batch_size(tmp_path):
    """Though the length of the run isn't its own."""
    words = [
        *own(data="Images", model="Net"),
        "scheduler=step",
        "scheduler.step_size=${spec.steps_per_epoch}",
        "schedule.interval=step",
        "loader.batch_size=8",
        "trainer.max_epochs=1",
        "logger=none",
    ]
    run = plainloop.train([*words, f"hydra.run.dir={tmp_path}/run"])
    with pytest.raises(UserError, match=r"was built for 9 steps an epoch, and with this batch size there are 5"):
        resumed(run.path, "trainer.max_epochs=2", "loader.batch_size=16", "resume_inexact=true")


def test_resume_inexact_allows_nothing_else(sixteen):
    for word in ("optimizer.lr=1", "seed=3", "model.norm=true"):
        with pytest.raises(UserError, match=f"{word}: this can't change"):
            resumed(sixteen.path, word, "resume_inexact=true")


# --- resume=auto --------------------------------------------------------------------------------------------


def auto(folder: Path, *words: str) -> list[str]:
    """What a cluster types, every time."""
    return [*SMOOTH, *words, f"hydra.run.dir={folder}/run", "resume=auto"]


def test_auto_starts_continues_and_says_when_it_is_finished(uninterrupted, tmp_path, capsys):
    words = auto(tmp_path, "checkpoint.every_steps=1")
    killed(words, 9)
    assert newest(tmp_path / "run")["position"]["step"] == 8
    run = plainloop.train(words)
    assert run.path == tmp_path / "run"
    assert differences(uninterrupted("smooth").path, run.path) == []
    capsys.readouterr()
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert plainloop.train(words).metrics == run.metrics
    assert "this run is finished (3 epochs done)" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_auto_starts_again_what_died_before_its_first_checkpoint(uninterrupted, tmp_path):
    """What had been written until then is void, in the history and in TensorBoard."""
    words = auto(tmp_path, "logger=tensorboard", "trainer.log_every=1")
    killed(words, 4)
    assert len(records(tmp_path / "run")) == 3
    assert not (tmp_path / "run/checkpoints").exists()
    run = plainloop.train(words)
    steps = [record["step"] for record in records(run.path) if "train/loss" in record]
    assert steps == list(range(1, 16))
    assert [found for found in differences(uninterrupted("smooth").path, run.path) if found.startswith("best")] == []
    assert [step for step, _ in curves(run.path)["train/grad_norm"]] == steps


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lr=0.5"], r"optimizer\.lr=0\.5: this can't change .*\(the run has optimizer\.lr=0\.003\)"),
        (["scheduler=cosine"], r"scheduler=cosine: this can't change .*\(the run has scheduler=one_cycle\)"),
        (["loader.batch_size=9"], r"loader\.batch_size=9: .*\(the run has loader\.batch_size=8\).*"),
        (["trainer.max_epochs=4"], r"trainer\.max_epochs=4: the schedule .* trainer\.max_epochs=3"),
    ],
    ids=str,
)
def test_auto_refuses_another_command_line(words, message, uninterrupted, tmp_path):
    path = uninterrupted("smooth").interrupted(7, tmp_path)
    key = words[0].partition("=")[0]
    others = [word for word in SMOOTH if not word.startswith(f"{key}=")]
    with pytest.raises(UserError, match=message) as refused:
        plainloop.train([*others, *words, f"hydra.run.dir={path}", "resume=auto"])
    assert ("resume_inexact=true" in str(refused.value)) == (key == "loader.batch_size")  # where it would help


def test_auto_takes_words_whose_values_were_decided(tmp_path, capsys):
    """`auto` stands in the command line, and what it came to in the run's config; BatchNorm drops a lone sample."""
    words = [
        *own(data="Images", model="Net"),
        "loader.batch_size=67",
        "loader.drop_last=false",
        "monitor_mode=auto",
        "trainer.max_epochs=1",
        "logger=none",
        f"hydra.run.dir={tmp_path}/run",
        "resume=auto",
    ]
    cfg = plainloop.train(words).session.config
    assert (cfg.loader.drop_last, cfg.monitor_mode) == (True, "max")
    capsys.readouterr()
    plainloop.train(words)
    assert "this run is finished" in capsys.readouterr().out
    with pytest.raises(UserError, match="monitor_mode=min: this can't change"):
        plainloop.train([word.replace("monitor_mode=auto", "monitor_mode=min") for word in words])


def test_paths_that_were_referred_to_may_change(tmp_path):
    """data.path=${paths.data}/x.csv goes with paths.data to another machine."""
    shutil.copytree(ROOT / "data", tmp_path / "moved")
    words = [
        "data=penguins",
        "model=mlp",
        "data.path=${paths.data}/penguins.csv",
        f"paths.data={ROOT}/data",
        "trainer.max_epochs=1",
        "logger=none",
        f"hydra.run.dir={tmp_path}/run",
    ]
    run = plainloop.train(words)
    resumed(run.path, f"paths.data={tmp_path}/moved", "trainer.max_epochs=2")
    assert newest(run.path)["position"]["epoch"] == 2


def test_options_of_workers_where_none_were_needed(tmp_path):
    """Of how many nobody said anything, the data in memory needs none, and the options stay in the run's config."""
    words = [*own(data="InMemoryNoise"), *STREAM, "trainer.max_epochs=1", "loader.multiprocessing_context=fork"]
    run = plainloop.train([*words, f"hydra.run.dir={tmp_path}/run"])
    assert plainloop.evaluate(run.path)["test/loss"] == run.metrics["test/loss"]
    resumed(run.path, "trainer.max_epochs=2")


def test_auto_needs_a_directory():
    with pytest.raises(UserError, match=r"resume=auto .*hydra\.run\.dir="):
        plainloop.train([*SMOOTH, "resume=auto"])


def test_auto_does_not_train_over_a_finished_run(uninterrupted, tmp_path):
    """Its checkpoints were deleted to save space: its numbers are still there, and stay."""
    path = Path(shutil.copytree(uninterrupted("smooth").path, tmp_path / "run"))
    shutil.rmtree(path / "checkpoints")
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match="a finished run without its checkpoints"):
        plainloop.train(auto(tmp_path))
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def damage(file: Path) -> None:
    """One bit in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_a_damaged_checkpoint_is_passed_over(uninterrupted, tmp_path, capsys):
    """The run goes on from the one before, to the same end; where none is whole it never starts anew."""
    path = uninterrupted("smooth").interrupted(7, tmp_path)
    last, before = Checkpoints(path / "checkpoints").all()
    damage(last)
    spoiled = Path(shutil.copytree(path, tmp_path / "run"))
    assert differences(uninterrupted("smooth").path, resumed(path)) == []
    out = capsys.readouterr().out
    assert "step-7.pt is damaged" in out
    assert "Falling back to the one before" in out

    damage(spoiled / "checkpoints" / before.name)
    files = {file: file.read_bytes() for file in spoiled.rglob("*") if file.is_file()}
    for words in (auto(tmp_path), [f"resume={spoiled}"]):
        with pytest.raises(MachineError, match="all 2 are damaged"):
            plainloop.train(words)
    assert {file: file.read_bytes() for file in spoiled.rglob("*") if file.is_file()} == files


@pytest.mark.parametrize("given", ["nowhere", "nowhere/else", "empty"])
def test_a_path_without_a_run_never_starts_one(given, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"resume={given}: (there is no such directory|not a run directory)"):
        plainloop.train([*SMOOTH, f"resume={given}"])
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_another_directory_cannot_be_given_when_a_run_is_continued(uninterrupted, tmp_path):
    """It would be passed over in silence: the run stays where it is. A new one may lie anywhere."""
    path = uninterrupted("smooth").interrupted(7, tmp_path)
    with pytest.raises(UserError, match=r"hydra\.run\.dir"):
        resumed(path, f"hydra.run.dir={tmp_path}/elsewhere")
    longer = plainloop.train([f"extend={path}", "trainer.max_epochs=4", f"hydra.run.dir={tmp_path}/longer"])
    assert longer.path == tmp_path / "longer"
    assert longer.metrics["epochs"] == 4


def test_the_numbers_are_those_of_the_longer_run(tmp_path, monkeypatch):
    """Two epochs, resumed for three, and killed after the last checkpoint: metrics.json isn't that of the two."""
    words = [*SMOOTH, "scheduler=none", "trainer.max_epochs=2", f"hydra.run.dir={tmp_path}/run"]
    run = plainloop.train(words)
    assert run.metrics["epochs"] == 2

    def dies(*given: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("plainloop.assembly.session.Session.measure", dies)
        with pytest.raises(Killed):
            resumed(run.path, "trainer.max_epochs=3")
    assert newest(run.path)["position"]["step"] == 15
    path = resumed(run.path)
    assert json.loads((path / "metrics.json").read_text())["epochs"] == 3


def test_options_of_workers_do_not_keep_a_run_from_loading_alone(tmp_path):
    """They were the run's own, and mean nothing now."""
    run = watched([*RUNS["short"], *TWO, "loader.prefetch_factor=3"], tmp_path)
    assert differences(run.path, resumed(run.copies[3], "loader.num_workers=0")) == []


@pytest.mark.slow
def test_the_command_killed_and_typed_again_ends_with_the_same_bits(tmp_path):
    """The real command, `kill -9`, and the same words again."""
    import os
    import subprocess
    import sys

    words = [
        "model=cnn",
        "model.dropout=0.2",
        "trainer.max_epochs=4",
        "trainer.ema_decay=0.9",
        "logger=none",
        "scheduler=one_cycle",
        "checkpoint.every_steps=7",
    ]
    whole = plainloop.train([*words, f"hydra.run.dir={tmp_path}/whole"])
    again = [*words, "hydra.run.dir=outputs/again", "resume=auto"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *again],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            process.kill()
            break
    process.communicate()
    assert process.returncode == -9
    done = command("train.py", *again, folder=tmp_path)
    assert done.status == 0, done.err
    assert "resume  outputs/again" in done.out
    assert differences(whole.path, tmp_path / "outputs/again") == []


# --- averages of the weights --------------------------------------------------------------------------------


def test_the_average_is_the_recursion_by_hand():
    """average = d x average + (1 - d) x weights after each step, d = min(decay, (1 + i) / (10 + i)), in float64."""
    make = trainers("trainer.ema_decay=0.4", "trainer.max_epochs=2")
    trainer = make()
    average = {name: weight.detach().double() for name, weight in trainer.model.named_parameters()}
    update = trainer.ema.update

    def by_hand() -> None:
        update()
        decay = min(0.4, (1 + trainer.ema.count) / (10 + trainer.ema.count))
        for name, weight in trainer.model.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * weight.detach().double()

    trainer.ema.update = by_hand
    trainer.fit()
    assert trainer.step == trainer.ema.count == 10
    for name, weight in trainer.ema.model.named_parameters():
        torch.testing.assert_close(weight.double(), average[name], rtol=1e-5, atol=1e-6)
        assert not torch.equal(weight, trainer.model.get_parameter(name))
    for name, buffer in trainer.ema.model.named_buffers():
        assert torch.equal(buffer, trainer.model.get_buffer(name))  # statistics are averages already


def test_an_extended_run_goes_on_averaging(uninterrupted, tmp_path):
    """The average of 15 steps isn't thrown away by the first new ones, as one of two or three steps would be."""
    before = newest(uninterrupted("smooth").path)
    words = [f"extend={uninterrupted('smooth').path}", "trainer.max_steps=1", f"hydra.run.dir={tmp_path}/longer"]
    after = newest(plainloop.train(words).path)
    assert (before["average"]["count"], after["average"]["count"]) == (15, 16)
    decay = min(0.9, 17 / 26)
    for name in ("convolution.weight", "head.3.bias"):
        expected = decay * before["average"]["model"][name].double() + (1 - decay) * after["model"][name].double()
        torch.testing.assert_close(after["average"]["model"][name].double(), expected, rtol=1e-5, atol=1e-6)


def test_an_average_leaves_the_training_alone():
    one, other = (fitted(trainers(word)).trainer for word in ("trainer.ema_decay=0.9", "trainer.ema_decay=null"))
    for name in ("model", "optimizer"):
        assert unequal(getattr(one, name).state_dict(), getattr(other, name).state_dict()) == []


def test_validation_best_and_evaluate_use_the_average(uninterrupted):
    run = uninterrupted("smooth").path
    best = checkpoint.load(run / "checkpoints/best.pt")
    loaded = plainloop.load_run(run)
    assert unequal(dict(loaded.model.state_dict()), dict(best["average"]["model"])) == []
    assert unequal(dict(best["model"]), dict(best["average"]["model"])) != []

    batches = list(loaded.session.loader("val"))
    preprocess, scale = loaded.preprocess, best["task"]["loss.scale"]

    def by_hand(weights: dict[str, Tensor]) -> float:
        model = Net()
        model.load_state_dict(weights)
        model.eval()
        with torch.no_grad():
            losses = [
                nn.functional.cross_entropy(scale * model(preprocess(images)), targets, reduction="sum")
                for images, targets in batches
            ]
        return float(sum(losses)) / 20

    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["val/loss"] == pytest.approx(by_hand(best["average"]["model"]), rel=1e-5)
    assert metrics["val/loss"] != pytest.approx(by_hand(best["model"]), rel=1e-3)
    for split in ("val", "test"):
        assert plainloop.evaluate(run, split=split)[f"{split}/loss"] == metrics[f"{split}/loss"]
    for file in run.glob("evaluate-*.json"):
        file.unlink()


# --- steps that aren't finite -------------------------------------------------------------------------------


class Exploding(torch.autograd.Function):
    """The identity, whose gradient is infinite where an image is brighter than 50."""

    @staticmethod
    def forward(context: Any, outputs: Tensor, images: Tensor, limit: float) -> Tensor:
        context.save_for_backward(images.flatten(1).amax(1) > limit)
        return outputs.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (bright,) = context.saved_tensors
        return torch.where(bright.unsqueeze(1), torch.inf, gradient), None, None


class Fragile(Net):
    """Its loss is always finite, its gradient isn't."""

    def __init__(self, norm: bool = False, limit: float = 50.0):
        super().__init__(norm, dropout=0.0)
        self.limit = limit

    def forward(self, images: Tensor) -> Tensor:
        return Exploding.apply(super().forward(images), images, self.limit)


POISON = {
    "inputs": ["data.poisoned=25", "model.norm=false"],
    "gradient": ["data.poisoned=25", "data.poison=100", *own(model="Fragile")],
}


def poisoned_steps(trainer: Trainer, epochs: int, index: int = 25) -> list[int]:
    """The steps (from 1) whose batch holds this sample, by the order of the epochs."""
    per_epoch, size = len(trainer.train_batches), trainer.train_batches.batch_size
    places = [(trainer.train_batches.source.order(epoch) == index).nonzero().item() for epoch in range(epochs)]
    return [epoch * per_epoch + place // size + 1 for epoch, place in enumerate(places)]


@pytest.mark.parametrize(
    ("what", "optimizer"),
    [("inputs", "adam"), ("gradient", "sgd optimizer.momentum=0.9"), ("gradient", "adam optimizer.fused=false")],
)
def test_a_skipped_step_leaves_everything_as_it_was(what, optimizer):
    """Weights and the optimizer's state; all other steps are taken, and the count stands in the history."""
    words = [*POISON[what], "trainer.nonfinite=skip", *f"optimizer={optimizer}".split(), "trainer.max_epochs=4"]
    seen: list[dict[str, Any]] = []
    trainer = trainers(*words, "trainer.max_grad_norm=5", "trainer.log_every=2")(log=seen.append)
    expected = poisoned_steps(trainer, 4)
    step, skipped = trainer.train_step, []

    def watched_step(window: Any, logging: bool) -> Any:
        before = copy.deepcopy([trainer.model.state_dict(), trainer.optimizer.state_dict()])
        result = step(window, logging)
        if unequal(before, [trainer.model.state_dict(), trainer.optimizer.state_dict()]) == []:
            skipped.append(trainer.step + 1)
        return result

    trainer.train_step = watched_step
    trainer.fit()
    assert skipped == expected
    assert trainer.step == 20
    points = [record for record in seen if "skipped_steps" in record]
    assert [record["step"] for record in points] == list(range(2, 21, 2))
    for record in points:
        assert record["skipped_steps"] == sum(number <= record["step"] for number in expected)
    assert all(math.isfinite(record["train/epoch_loss"]) for record in seen if "train/epoch_loss" in record)
    assert all(parameter.isfinite().all() for parameter in trainer.parameters)


def test_a_skipped_step_does_not_change_what_the_others_do():
    """With nothing to skip, the bits are those of a run that would stop."""
    skip, stop = (fitted(trainers(f"trainer.nonfinite={policy}")).trainer for policy in ("skip", "stop"))
    for name in ("model", "optimizer", "schedule"):
        assert unequal(getattr(skip, name).state_dict(), getattr(stop, name).state_dict()) == []


@pytest.mark.parametrize(("what", "every"), [("inputs", 1), ("gradient", 1), ("inputs", 3), ("gradient", 50)])
def test_a_single_skipped_step_never_ends_a_run(what, every):
    """Wherever it stands in an epoch or a log window, also alone in one."""
    for index in (7, 25):  # of 7 the second step is alone behind an epoch's end, where there is a log point every 3
        words = [*POISON[what], f"data.poisoned={index}", "trainer.nonfinite=skip", f"trainer.log_every={every}"]
        trainer = trainers(*words, "trainer.max_epochs=3")()
        trainer.fit()
        assert trainer.epoch == 3
        assert int(trainer.scaler.skipped) == 3


def test_batch_norms_statistics_survive_a_skipped_step():
    """What goes forward through a network leaves its traces in the statistics, which a skipped step must take back."""
    saved: list[dict[str, Any]] = []
    words = [*POISON["inputs"], "model.norm=true", "trainer.nonfinite=skip", "trainer.ema_decay=0.9"]
    trainer = trainers(*words)(save=lambda state, best: saved.append(copy.deepcopy(state)), due=lambda *_: True)
    trainer.fit()
    assert trainer.step == 10
    assert len(saved) >= 10
    for state in saved:
        for weights in (state["model"], state["average"]["model"]):
            assert all(tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.parametrize(
    "words",
    [
        ["model.norm=false", "optimizer=sgd", "optimizer.lr=1e30"],  # the first step is taken, and no other after it
        [*own(model="Fragile"), "model.limit=-1e9"],  # no step is, and the losses look well
        [*own(model="Fragile"), "model.limit=-1e9", "trainer.log_every=50", "trainer.max_epochs=2"],  # no log point
    ],
    ids=str,
)
def test_a_run_that_skips_everything_ends_with_an_error(words):
    trainer = trainers("trainer.max_epochs=40", "trainer.nonfinite=skip", *words)()
    with pytest.raises(MachineError, match=r"skipped|finite"):
        trainer.fit()
    assert trainer.epoch < 20


@pytest.mark.parametrize(
    ("what", "optimizer"), [("inputs", "sgd"), ("gradient", "adam"), ("gradient", "sgd"), ("norm", "adam")]
)
def test_a_run_that_stops_saves_nothing_poisoned(what, optimizer):
    """It ends at the latest at the log point behind the poisoned step, or before something is saved."""
    words = {**POISON, "norm": [*POISON["inputs"], "model.norm=true"]}[what]
    for saves in (True, False):
        saved: list[dict[str, Any]] = []
        trainer = trainers(*words, f"optimizer={optimizer}", "trainer.ema_decay=0.9", "trainer.log_every=4")(
            save=lambda state, best, saved=saved: saved.append(copy.deepcopy(state)),
            due=lambda trainer, ended, saves=saves: saves,
        )
        (step,) = poisoned_steps(trainer, 1)
        with pytest.raises(MachineError, match=rf"(NaN|nan|inf).*step {step if saves else -(-step // 4) * 4}\b"):
            trainer.fit()
        assert len(saved) == (step - 1 if saves else 0)
        for state in saved:
            parts = [state["model"], state["average"]["model"], *state["optimizer"]["state"].values()]
            assert all(
                tensor.isfinite().all() for part in parts for tensor in part.values() if isinstance(tensor, Tensor)
            )


def test_the_count_that_gives_a_run_up_goes_on():
    """A run that skips everything comes to the same end when it is interrupted; without the count it would go on."""
    make = trainers(*own(model="Fragile"), "model.limit=-1e9", "trainer.nonfinite=skip", "trainer.max_epochs=40")

    def ends(state: dict[str, Any] | None) -> tuple[int, list[dict[str, Any]]]:
        saved: list[dict[str, Any]] = []
        trainer = make(save=lambda state, best: saved.append(copy.deepcopy(state)), due=lambda *_: True)
        if state is not None:
            trainer.load_state_dict(state)
        with pytest.raises(MachineError, match="skipped"):
            trainer.fit()
        return trainer.step, saved

    end, saved = ends(None)
    assert ends(copy.deepcopy(saved[-1]))[0] == end
    assert ends({**saved[-1], "scaler": make().scaler.state_dict()})[0] > end


def test_a_run_that_has_skipped_steps_says_so_in_its_history(uninterrupted):
    points = [record for record in records(uninterrupted("rough").path) if "train/loss" in record]
    make = trainers(*(word for word in ROUGH if word != "logger=none"))
    steps = poisoned_steps(make(), 5)
    assert [record["skipped_steps"] for record in points] == [
        sum(number <= record["step"] for number in steps) for record in points
    ]


# --- callbacks ----------------------------------------------------------------------------------------------


def test_a_callbacks_state_is_given_back_before_it_starts(uninterrupted, tmp_path, monkeypatch):
    run = uninterrupted("rough")
    seen = []
    monkeypatch.setattr(Tally, "on_start", lambda self, trainer: seen.append(list(self.steps)))
    path = run.interrupted(8, tmp_path)
    saved = newest(path)["callbacks"]["tally"]["steps"]
    resumed(path)
    assert seen == [saved]
    assert saved == [record["step"] for record in records(run.path) if record["step"] <= 8]
    assert newest(path)["callbacks"]["tally"]["steps"] == [record["step"] for record in records(run.path)]
