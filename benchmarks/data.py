"""What it costs to fetch, shuffle and convert images, beside batches that are already there as floats.

60,000 random images in MNIST's format (uint8, 1 x 28 x 28) go through plainloop's own loader and preprocessing, in a
new order every epoch, to the 784-128-64-10 MLP in batches of 64. Against them: the same Trainer over the same batches,
converted beforehand, always in the order of the first epoch; and the bare loop over these. They take turns, an epoch
each, with one thread. After the first epoch, which isn't counted, the weights of all must be equal bit for bit.

    python benchmarks/data.py [--rounds 10] [--images 60000] [--json FILE]
"""

import argparse
import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from loop import Batch, assert_equal_weights, bare_loop, mlp, plainloop_trainer, report
from torch import nn

from plainloop.config import schema
from plainloop.data import InMemory, Loader, make_loader
from plainloop.data.preprocess import Preprocess, make_preprocess
from plainloop.training.trainer import Trainer

TARGET = 1.1


class Converted:
    """What the Trainer needs of a loader, over batches that are already in memory."""

    def __init__(self, batches: Sequence[Batch]):
        self.held, self.batches = batches, len(batches)

    def __len__(self) -> int:
        return self.batches

    def epoch(self, number: int = 0, first_batch: int = 0) -> Iterator[Batch]:
        return itertools.islice(self.held, first_batch, None)

    def state_dict(self) -> dict[str, Any]:
        return {}


def random_images(count: int) -> InMemory:
    """Images (count, 1, 28, 28) uint8 and classes (count,) int64."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return InMemory(images, torch.randint(10, (count,), generator=generator))


def epoch_of(trainer: Trainer) -> Callable[[], None]:
    """A function that trains for one epoch more; what is said goes nowhere."""

    def epoch() -> None:
        trainer.length.max_epochs = trainer.epoch + 1
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            trainer.fit()
        assert trainer.step == trainer.length.max_epochs * len(trainer.train_batches)

    return epoch


def take_turns(
    contestants: dict[str, Callable[[], None]], models: dict[str, nn.Module], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, in turned order every other round."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name in contestants if number % 2 else reversed(contestants):
            started = time.perf_counter()
            contestants[name]()
            if number > 0:
                seconds[name].append(time.perf_counter() - started)
        if number == 0:
            assert_equal_weights(models)
    return seconds


def print_parts(loader: Loader, preprocess: Preprocess) -> None:
    """Where the difference comes from: microseconds per batch of fetching alone, and of fetching and converting."""
    print(f"\n  {'us per batch':30}{'minimum':>10}")
    for name, convert in (("fetched", None), ("fetched and converted", preprocess)):
        least = float("inf")
        for number in range(5):
            started = time.perf_counter()
            for inputs, _ in loader.epoch(number):
                if convert is not None:
                    convert(inputs)
            least = min(least, time.perf_counter() - started)
        print(f"  {name:30}{1e6 * least / len(loader):10.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="epochs of each contestant")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, {arguments.rounds} epochs of {arguments.images:,} images")

    dataset = random_images(arguments.images)
    loader = make_loader(dataset, schema.Loader(batch_size=arguments.batch_size), seed=0, device=torch.device("cpu"))
    preprocess = make_preprocess("train", loader, dataset[0][0])
    batches = [(preprocess(inputs), targets) for inputs, targets in loader.epoch(0)]

    models = {"plainloop, floats": mlp(), "plainloop, images": mlp(), "bare, floats": mlp()}
    with (
        plainloop_trainer(models["plainloop, floats"], Converted(batches)) as floats,
        plainloop_trainer(models["plainloop, images"], loader, preprocess=preprocess) as images,
    ):
        bare = bare_loop(models["bare, floats"])
        contestants = {
            "plainloop, floats": epoch_of(floats),
            "plainloop, images": epoch_of(images),
            "bare, floats": lambda: bare(batches),
        }
        seconds = take_turns(contestants, models, arguments.rounds)
    title = f"MLP 784-128-64-10, batches of {arguments.batch_size}"
    result = report(
        title,
        seconds,
        len(batches),
        TARGET,
        pairs=(
            ("plainloop, images", "plainloop, floats"),
            ("plainloop, images", "bare, floats"),
            ("plainloop, floats", "bare, floats"),
        ),
    )
    print("  weights equal bit for bit after the first epoch")
    print_parts(loader, preprocess)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
