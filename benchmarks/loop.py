"""What the loop costs beside the bare one: plainloop's Trainer against the textbook's five lines.

All train the same model from the same weights on the same float batches, which are already in memory, in one process
with one thread. `bare` is the textbook's loop with a fused optimizer, and nothing read from the device; `barest` goes
without `zero_grad()`'s bookkeeping too. `plainloop` has everything on that a real run has: metrics, a history in a
real file, TensorBoard, the console, and the question after every step whether a checkpoint is due. Left out are
validation and saving: how often they happen is the user's choice.

They take turns of a hundred steps (ten where a step is long), so that whatever else the machine does hits them alike,
and at the end their weights must be equal bit for bit, so that nothing lighter or heavier is compared.

    python benchmarks/loop.py [--rounds 300] [--case mlp|linear|logged|resnet18 ...] [--control] [--json FILE]
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch
from torch import Tensor, nn
from torch.nn import functional

from plainloop.data.preprocess import Preprocess
from plainloop.loggers import Console, History, TensorBoard
from plainloop.models import MLP, Linear
from plainloop.runs.checkpoint import Checkpoints
from plainloop.runs.directory import RunDir
from plainloop.tasks.classification import Multiclass
from plainloop.tasks.metrics import F1, Accuracy
from plainloop.training.batches import Preparation
from plainloop.training.callbacks import Hooks
from plainloop.training.length import Length
from plainloop.training.optimizer import make_optimizer
from plainloop.training.randomness import no_seed
from plainloop.training.schedule import Schedule
from plainloop.training.trainer import Trainer
from plainloop.training.update import Update

Batch = tuple[Tensor, Tensor]
FEATURES, CLASSES, LR = 784, 10, 1e-3
TURNS_PER_EPOCH = 10


def mlp() -> nn.Module:
    """784-128-64-10, the same weights at every call."""
    torch.manual_seed(0)
    return MLP(FEATURES, CLASSES, hidden_sizes=[128, 64])


def linear() -> nn.Module:
    """784-10, which is softmax regression; the same weights at every call."""
    torch.manual_seed(0)
    return Linear(FEATURES, CLASSES)


def resnet18() -> nn.Module:
    """torchvision's, for ten classes; the same weights at every call."""
    from torchvision import models

    torch.manual_seed(0)
    return models.resnet18(num_classes=CLASSES)


@dataclass
class Case:
    """What is trained, and how.

    Args:
        size: of a batch.
        target: for the ratio of the minima, and of the medians.
        shape: of an input.
        turn: steps.
        log_every: steps between log points.
    """

    title: str
    make: Callable[[], nn.Module]
    size: int
    target: float
    shape: tuple[int, ...] = (FEATURES,)
    turn: int = 100
    log_every: int = 50  # the default of trainer.log_every


CASES = {
    "mlp": Case("MLP 784-128-64-10", mlp, 64, 1.02),
    "linear": Case("one linear layer 784-10", linear, 32, 1.04),
    "logged": Case("MLP 784-128-64-10, every step logged", mlp, 64, 1.25, log_every=1),
    "resnet18": Case("ResNet-18 on 3 x 32 x 32", resnet18, 8, 1.005, shape=(3, 32, 32), turn=10, log_every=10),
}


def random_batches(count: int, size: int, shape: tuple[int, ...] = (FEATURES,)) -> list[Batch]:
    """Inputs (size, *shape) float32 and classes (size,), `count` times."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.rand(size, *shape, generator=generator), torch.randint(CLASSES, (size,), generator=generator))
        for _ in range(count)
    ]


# --- the contestants ------------------------------------------------------------------------------------------


def bare_loop(model: nn.Module) -> Callable[[Sequence[Batch]], None]:
    """A function that trains on batches: the textbook's loop, with names that are local."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)
    criterion = functional.cross_entropy  # a function, cheaper than a module
    model.train()

    def train(batches: Sequence[Batch]) -> None:
        for inputs, targets in batches:
            optimizer.zero_grad()
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()

    return train


def barest_loop(model: nn.Module) -> Callable[[Sequence[Batch]], None]:
    """The same, with the gradients let go by hand."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)
    criterion, parameters = functional.cross_entropy, list(model.parameters())
    model.train()

    def train(batches: Sequence[Batch]) -> None:
        for inputs, targets in batches:
            for parameter in parameters:
                parameter.grad = None
            loss = criterion(model(inputs), targets)
            loss.backward()
            optimizer.step()

    return train


@contextlib.contextmanager
def plainloop_trainer(
    model: nn.Module, batches: Any, epochs: int = 1, preprocess: nn.Module | None = None, log_every: int = 50
) -> Iterator[Trainer]:
    """A Trainer with everything on that `python train.py` turns on, but validation and checkpoints.

    Args:
        batches: a loader.
        preprocess: None for inputs that need none.
    """
    task = Multiclass(nn.CrossEntropyLoss(), {"accuracy": Accuracy(), "macro_f1": F1(CLASSES)})
    optimizer = make_optimizer({"_target_": "torch.optim.Adam", "lr": LR}, model, torch.device("cpu"))
    console = Console(progress=False)  # no bar: as on a pipe
    loggers = [History(), console, TensorBoard()]

    def log(record: Mapping[str, Any]) -> None:
        for logger in loggers:
            logger.log(record)

    if preprocess is None:
        preprocess = Preprocess(torch.zeros(()), torch.ones(()), bytes_in=False)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        run.config.write_text(f"trainer: {{max_epochs: {epochs}}}\n")
        checkpoints = Checkpoints(run.checkpoints, every_epochs=None)  # asked after every step, and always says no
        trainer = Trainer(
            model,
            task,
            Update(optimizer),
            Schedule(optimizer),
            Preparation(preprocess),
            batches,
            length=Length(epochs),
            seed_step=no_seed,  # as for every model in which nothing draws
            hooks=Hooks(log, log_every, console.progress, due=checkpoints.due),
        )
        for logger in loggers:
            logger.open(run, {"trainer": {"max_epochs": epochs}}, 0)
        yield trainer
        for logger in loggers:
            logger.close()
        records = run.history.read_text().splitlines()
        assert len(records) == trainer.step // log_every + trainer.epoch, f"{len(records)} records in the history"


class Turns:
    """A loader over batches in memory that stops after every turn to let the other contestants train on the batches
    that come next, and keeps the time of all.

    The Trainer doesn't notice: it asks for a batch, and gets it a little later. Its first epoch isn't counted.
    """

    def __init__(self, batches: Sequence[Batch], others: Mapping[str, Callable[[Sequence[Batch]], None]], turn: int):
        self.held, self.batches, self.others, self.turn = batches, len(batches), others, turn
        self.num_samples = sum(len(targets) for _, targets in batches)
        self.seconds: dict[str, list[float]] = {name: [] for name in (*others, "plainloop")}
        self.since: float | None = None

    def __len__(self) -> int:
        return self.batches

    def epoch(self, number: int = 0, first_batch: int = 0) -> Iterator[Batch]:
        for start in range(0, len(self), self.turn):
            turn = self.held[start : start + self.turn]
            self.stop("plainloop", number > 0 and (number > 1 or start > 0))
            names = list(self.others)
            for name in names if start // self.turn % 2 else reversed(names):
                self.since = time.perf_counter()
                self.others[name](turn)
                self.stop(name, number > 0)
            self.since = time.perf_counter()
            yield from turn

    def state_dict(self) -> dict[str, Any]:
        return {}

    def stop(self, name: str, counts: bool = True) -> None:
        if counts and self.since is not None:
            self.seconds[name].append(time.perf_counter() - self.since)


# --- the figures ----------------------------------------------------------------------------------------------


def report(
    title: str, seconds: Mapping[str, list[float]], steps: int, target: float, pairs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Print microseconds per step, and ratios: of the minima, of the medians, of the totals, and the median over
    rounds of the ratio in a round, which is the steadiest on a machine that has other work. What happens in few rounds
    only (the end of an epoch, a collection of garbage) counts in the totals alone.

    Args:
        seconds: of each round, by contestant.
        steps: in a round.
        target: for the first of the pairs.
        pairs: whose ratios are printed.
    """
    print(f"\n{title}\n  {'us per step':38}{'minimum':>10}{'median':>10}{'mean':>10}")
    result: dict[str, Any] = {"title": title, "target": target, "us": {}, "ratios": {}}
    for name, values in seconds.items():
        figures = {
            kind: 1e6 * function(values) / steps
            for kind, function in (("minimum", min), ("median", statistics.median), ("mean", statistics.fmean))
        }
        result["us"][name] = figures
        print(f"  {name:38}" + "".join(f"{value:10.1f}" for value in figures.values()))
    print(f"  {'ratio':38}{'minima':>10}{'medians':>10}{'totals':>10}{'by round':>10}")
    for name, other in pairs:
        ours, theirs = seconds[name], seconds[other]
        ratios = {
            "minima": min(ours) / min(theirs),
            "medians": statistics.median(ours) / statistics.median(theirs),
            "totals": sum(ours) / sum(theirs),
            "by round": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
        }
        result["ratios"][f"{name} / {other}"] = ratios
        wanted = f"   target {target}" if (name, other) == pairs[0] else ""
        print(f"  {name + ' / ' + other:38}" + "".join(f"{value:10.3f}" for value in ratios.values()) + wanted)
    return result


def assert_equal_weights(models: Mapping[str, nn.Module]) -> None:
    """All models are equal bit for bit."""
    first, *others = models
    expected = models[first].state_dict()
    for name in others:
        for key, value in models[name].state_dict().items():
            assert torch.equal(value, expected[key]), f"{key} of {name} differs from that of {first}"


def compare(case: Case, rounds: int, control: bool) -> Any:
    """Let all contestants train, and report."""
    models = {name: case.make() for name in ("bare", "barest", "plainloop", *(["bare again"] if control else []))}
    others = {
        name: (barest_loop if name == "barest" else bare_loop)(model)
        for name, model in models.items()
        if name != "plainloop"
    }
    turns = Turns(random_batches(case.turn * TURNS_PER_EPOCH, case.size, case.shape), others, case.turn)
    epochs = 1 - (-rounds // TURNS_PER_EPOCH)
    with (
        plainloop_trainer(models["plainloop"], turns, epochs, log_every=case.log_every) as trainer,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        trainer.fit()
        turns.stop("plainloop")
    assert_equal_weights(models)
    pairs = [("plainloop", "bare"), ("plainloop", "barest"), *([("bare again", "bare")] if control else [])]
    result = report(f"{case.title}, batches of {case.size}", turns.seconds, case.turn, case.target, pairs)
    print(f"  weights equal bit for bit after {trainer.step:,} steps")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, help="turns of each contestant")
    parser.add_argument(
        "--case", nargs="+", choices=CASES, default=["mlp", "linear"], help="which ones; by default mlp and linear"
    )
    parser.add_argument("--control", action="store_true", help="a second bare loop: how far from 1 its ratio strays")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, at least {arguments.rounds} turns")
    results = {name: compare(CASES[name], arguments.rounds, arguments.control) for name in arguments.case}
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
