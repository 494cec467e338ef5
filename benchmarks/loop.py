"""What the loop costs beside the bare one: plainloop's Trainer against the textbook's five lines.

Both train the same model from the same weights on the same float batches, already in memory, in one process with
one thread: `bare` in a function with every trick that helps it, `plainloop` with everything on that a real run
has: metrics, a history in a real file, TensorBoard, the console, the question whether a checkpoint is due. They take
turns, an epoch each, and at the end their weights must be equal bit for bit, so that nothing lighter or heavier is
compared. Validation and saving are left out: how often they happen is the user's choice.

    python benchmarks/loop.py [--rounds 40] [--case mlp|linear] [--control] [--json FILE]
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch
from torch import Tensor, nn
from torch.nn import functional

from plainloop.checkpoint import Checkpoints
from plainloop.loggers import Console, History, TensorBoard
from plainloop.metrics import F1, Accuracy
from plainloop.models import MLP, Linear
from plainloop.optim import Schedule, make_optimizer
from plainloop.preprocess import Preprocess
from plainloop.rundir import RunDir
from plainloop.tasks import Multiclass
from plainloop.trainer import Trainer

FEATURES, CLASSES = 784, 10
ADAM = {"_target_": "torch.optim.Adam", "lr": 1e-3}


class Batches:
    """What the Trainer needs of a loader, over batches that are already in memory."""

    def __init__(self, batches: Sequence[tuple[Tensor, Tensor]]):
        self.batches, self.num_samples = batches, sum(len(targets) for _, targets in batches)

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int = 0, first_batch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        return itertools.islice(self.batches, first_batch, None)


def mlp() -> nn.Module:
    """784-128-64-10, as configs/model/mlp.yaml builds it for MNIST. The same weights at every call."""
    torch.manual_seed(0)
    return MLP(FEATURES, CLASSES, hidden_sizes=[128, 64])


def linear() -> nn.Module:
    """784-10: softmax regression. The same weights at every call."""
    torch.manual_seed(0)
    return Linear(FEATURES, CLASSES)


def random_batches(count: int, size: int) -> list[tuple[Tensor, Tensor]]:
    """Inputs (size, 784) float32 and classes (size,), `count` times."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.rand(size, FEATURES, generator=generator),
            torch.randint(CLASSES, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def bare_loop(model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> Callable[[], None]:
    """An epoch of the textbook loop: gradients set to None without `zero_grad`'s bookkeeping, a fused optimizer, the
    loss as a function, local names, nothing read from the device, nothing told to anybody."""
    optimizer = torch.optim.Adam(model.parameters(), lr=ADAM["lr"], fused=True)
    parameters = list(model.parameters())
    model.train()

    def epoch() -> None:
        for inputs, targets in batches:
            for parameter in parameters:
                parameter.grad = None
            loss = functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()

    return epoch


@contextlib.contextmanager
def plainloop_trainer(model: nn.Module, batches: Any, preprocess: nn.Module | None = None) -> Iterator[Trainer]:
    """A Trainer with everything on that `python train.py` turns on, but validation and checkpoints.

    Args:
        batches: a loader.
        preprocess: None for inputs that need none.
    """
    task = Multiclass(nn.CrossEntropyLoss(), {"accuracy": Accuracy(), "macro_f1": F1(CLASSES)})
    optimizer = make_optimizer(ADAM, model.parameters(), torch.device("cpu"))
    loggers = [History(), Console(progress=False), TensorBoard()]  # no bar: as on a pipe

    def log(record: Mapping[str, Any]) -> None:
        for logger in loggers:
            logger.log(record)

    if preprocess is None:
        preprocess = Preprocess(torch.zeros(()), torch.ones(()), bytes_in=False)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        # As in a run, it is asked after every step whether to save; the answer is always no.
        checkpoints = Checkpoints(run.checkpoints, every_epochs=None)
        trainer = Trainer(
            model, task, optimizer, Schedule(optimizer), preprocess, batches,
            max_epochs=sys.maxsize, log_every=50, log=log, progress=loggers[1].progress, due=checkpoints.due,
        )  # fmt: skip
        for logger in loggers:
            logger.open(run, {"trainer": {"max_epochs": trainer.max_epochs}}, 0)
        model.train()
        yield trainer
        for logger in loggers:
            logger.close()
        records = run.history.read_text().splitlines()
        assert len(records) == trainer.step // trainer.log_every + trainer.epoch, "the history lacks records"


def plainloop_epoch(trainer: Trainer) -> Callable[[], None]:
    """An epoch of `Trainer.fit`, with its lines going nowhere."""

    def epoch() -> None:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            trainer._clock(True)
            trainer.train_epoch()

    return epoch


def take_turns(contestants: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, the order turned round every time; the first round isn't counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds + 1):
        for name in names if number % 2 else reversed(names):
            started = time.perf_counter()
            contestants[name]()
            if number > 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def report(title: str, seconds: Mapping[str, list[float]], steps: int, target: float) -> dict[str, Any]:
    """Print microseconds per step, and ratios to the first contestant: of minima, of medians, and the median of each
    round's own ratio, which is the steadiest where the machine is also busy with something else."""
    baseline, *others = seconds
    print(f"\n{title}\n  {'us per step':20}{'minimum':>10}{'median':>10}")
    result: dict[str, Any] = {"title": title, "target": target, "us": {}, "ratios": {}}
    for name, values in seconds.items():
        least, middle = (1e6 * f(values) / steps for f in (min, statistics.median))
        result["us"][name] = {"minimum": least, "median": middle}
        print(f"  {name:20}{least:10.1f}{middle:10.1f}")
    print(f"  {'ratio to ' + baseline:20}{'minima':>10}{'medians':>10}{'by round':>10}")
    for name in others:
        ratios = {
            "minima": min(seconds[name]) / min(seconds[baseline]),
            "medians": statistics.median(seconds[name]) / statistics.median(seconds[baseline]),
            "by round": statistics.median(a / b for a, b in zip(seconds[name], seconds[baseline], strict=True)),
        }
        result["ratios"][name] = ratios
        wanted = f"   target {target}" if name.startswith("plainloop") else ""
        print(f"  {name:20}" + "".join(f"{value:10.3f}" for value in ratios.values()) + wanted)
    return result


def compare(name: str, make: Callable[[], nn.Module], size: int, target: float, arguments: argparse.Namespace) -> Any:
    batches = random_batches(arguments.steps, size)
    models = {"bare": make(), "plainloop": make()}
    with plainloop_trainer(models["plainloop"], Batches(batches)) as trainer:
        contestants = {"bare": bare_loop(models["bare"], batches), "plainloop": plainloop_epoch(trainer)}
        if arguments.control:
            models["bare again"] = make()
            contestants["bare again"] = bare_loop(models["bare again"], batches)
        seconds = take_turns(contestants, arguments.rounds)
        assert trainer.step == (arguments.rounds + 1) * arguments.steps
    expected = models["bare"].state_dict()
    for other, model in models.items():
        for key, value in model.state_dict().items():
            assert torch.equal(value, expected[key]), f"{other}: {key} differs from the bare loop's"
    print(f"\nweights equal bit for bit after {trainer.step:,} steps each")
    return report(f"{name}, batches of {size}", seconds, arguments.steps, target)


CASES = {
    "mlp": ("MLP 784-128-64-10", mlp, 64, 1.02),
    "linear": ("one linear layer 784-10", linear, 32, 1.08),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="turns of each contestant")
    parser.add_argument("--steps", type=int, default=500, help="steps in a turn, which is an epoch")
    parser.add_argument("--case", choices=CASES, help="one case only")
    parser.add_argument("--control", action="store_true", help="a second bare loop: how far off a ratio of 1 may be")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, {arguments.rounds} rounds of {arguments.steps} steps")
    names = [arguments.case] if arguments.case else list(CASES)
    results = {name: compare(*CASES[name], arguments) for name in names}
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
