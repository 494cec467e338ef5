"""How fast samples come: from memory, from JPEG files, and how much of a batch of sequences is padding.

From memory: 60,000 images (uint8, 1 x 28 x 28) in batches of 64, shuffled, through the loader; beside them the same
batches picked out by hand. From files: a folder of JPEGs through `data=images` and its loading processes; beside it,
in turns, the bare decoding of the same files in as many processes, which fetch their next 64 files when they are done
and give nothing back. What an image costs on its way from one process to another is the same for all (0.1 ms, say), so
that the share is smaller for small files: `--pixels 500 375`. Sequences: their lengths are log-normal, as those of
sentences are; batches in random order beside batches of similar length (`loader.batch_sampler=length`).

    python benchmarks/throughput.py [--rounds 7] [--images 512] [--pixels 1024 768] [--workers CORES]
"""

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from plainloop.config import schema
from plainloop.data import InMemory, Loader, make_loader
from plainloop.data.kinds.images import decode, images
from plainloop.data.order import ByLength
from plainloop.data.workers import default_start_method

BATCH = 64
SIZE = (224, 224)
MEMORY = 1.5e-6  # seconds a sample, at most
FILES = 0.95  # of the bare rate, at least
PADDING = 0.25  # of the padding in random order, at most


class Took(NamedTuple):
    """Seconds by the clock, and of processors: of this process and of those that it has started."""

    clock: float
    processors: float


def seconds(function: Callable[[], object]) -> Took:
    started, before = time.perf_counter(), processor_seconds()
    function()
    return Took(time.perf_counter() - started, processor_seconds() - before)


def processor_seconds() -> float:
    """Linux's /proc tells them for others; elsewhere there is only this process."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        if Path(f"/proc/{child.pid}/stat").exists():
            fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # in it, and for it
    return total


def exhaust(items: Iterable[Any]) -> None:
    for _ in items:
        pass


def loader_of(dataset: Any, workers: int) -> Loader:
    cpu = torch.device("cpu")
    return make_loader(dataset, schema.Loader(batch_size=BATCH, num_workers=workers), seed=0, device=cpu)


def from_memory(rounds: int) -> dict[str, list[float]]:
    """Seconds a sample, of each round."""
    count = 60_000
    dataset = InMemory(torch.zeros(count, 1, 28, 28, dtype=torch.uint8), torch.zeros(count, dtype=torch.int64))
    loader = loader_of(dataset, workers=0)
    ways: dict[str, Callable[[], object]] = {
        "from memory, by the loader": lambda: exhaust(loader.epoch()),
        "from memory, by hand": lambda: exhaust(map(dataset.__getitems__, torch.randperm(count).split(BATCH))),
    }
    return {name: [took.clock / count for took in times] for name, times in in_turns(ways, rounds).items()}


def in_turns(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[Took]]:
    """What each took in each round, in turned order every other round; the first isn't counted."""
    found: dict[str, list[Took]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in ways if number % 2 else reversed(ways):
            once = seconds(ways[name])
            if number:
                found[name].append(once)
    return found


def write_jpegs(folder: Path, count: int, width: int, height: int) -> None:
    """Files in ten folders, with soft shapes and some grain."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        shapes = torch.rand(1, 3, 12, 16, generator=generator) * 255
        pixels = nn.functional.interpolate(shapes, (height, width), mode="bicubic")[0].permute(1, 2, 0)
        pixels = pixels + 12 * torch.randn(height, width, 1, generator=generator)
        place = folder / f"kind {number % 10}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clamp(0, 255).byte().numpy()).save(place / f"{number}.jpg", quality=85)


def one_thread() -> None:
    torch.set_num_threads(1)


def decode_all(files: list[str]) -> None:
    """In a process of its own: decode, and give nothing back."""
    for file in files:
        decode(file, SIZE, channels=3)


def from_files(rounds: int, count: int, pixels: Sequence[int], workers: int) -> dict[str, list[Took]]:
    """What each took in each round, to decode all."""
    with tempfile.TemporaryDirectory() as name:
        write_jpegs(Path(name), count, *pixels)
        dataset = images(name, split="train", size=list(SIZE))
        assert dataset is not None
        loader = loader_of(dataset, workers)
        files = [file for file, _ in dataset.samples]
        parts = [files[start : start + BATCH] for start in range(0, count, BATCH)]
        epochs = itertools.count()
        with multiprocessing.get_context(default_start_method()).Pool(workers, one_thread) as pool:
            ways: dict[str, Callable[[], object]] = {
                "from JPEGs, by the loader": lambda: exhaust(loader.epoch(next(epochs))),
                "from JPEGs, decoded only": lambda: exhaust(pool.imap_unordered(decode_all, parts)),
            }
            return in_turns(ways, rounds)


def padding(count: int = 20_000) -> dict[str, float]:
    """Padded places for each place that isn't."""
    lengths = (torch.randn(count, generator=torch.Generator().manual_seed(0)) * 0.6 + 3.3).exp().long().clamp(1, 400)
    similar, random = ByLength(lengths, BATCH, shuffle=True, drop_last=False).padding()
    total = int(lengths.sum())
    return {"padding, batches of similar length": similar / total, "padding, random order": random / total}


def main() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=512, help="JPEG files")
    parser.add_argument("--pixels", type=int, nargs=2, default=[1024, 768], help="their width and height")
    parser.add_argument("--workers", type=int, default=cores, help="processes that decode; default: the cores")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {arguments.rounds} rounds, {arguments.workers} loading processes for files\n")

    memory = from_memory(arguments.rounds)
    print(f"  {'us a sample':36}{'minimum':>10}{'median':>10}")
    for name, values in memory.items():
        print(f"  {name:36}{1e6 * min(values):10.2f}{1e6 * statistics.median(values):10.2f}")
    fastest = min(memory["from memory, by the loader"])
    print(f"  target at most {1e6 * MEMORY:g} at best: {'met' if fastest <= MEMORY else 'NOT MET'}\n")

    files = from_files(arguments.rounds, arguments.images, arguments.pixels, arguments.workers)
    print(f"  {'images a second':36}{'maximum':>10}{'median':>10}")
    for name, times in files.items():
        rates = [arguments.images / took.clock for took in times]
        print(f"  {name:36}{max(rates):10.0f}{statistics.median(rates):10.0f}")
    ours, bare = files.values()
    pairs = list(zip(ours, bare, strict=True))
    ratios = {
        "of the maxima": min(took.clock for took in bare) / min(took.clock for took in ours),
        "by round": statistics.median(other.clock / took.clock for took, other in pairs),
        "by processor time": statistics.median(other.processors / took.processors for took, other in pairs),
    }
    print(f"  the loader's share: {', '.join(f'{ratio:.3f} {name}' for name, ratio in ratios.items())}")
    print(f"  target at least {FILES:g} by round: {'met' if ratios['by round'] >= FILES else 'NOT MET'}")
    print("  (on a machine with other work to do, processor time is what tells)\n")

    padded = padding()
    similar, random = padded.values()
    print(f"  {'padded places for each real one':36}{'':>10}")
    for name, value in padded.items():
        print(f"  {name:36}{value:10.3f}")
    print(f"  target at most {PADDING:g} times: {'met' if similar <= PADDING * random else 'NOT MET'}")
    if arguments.json:
        arguments.json.write_text(json.dumps({**memory, **files, **padded, "ratios": ratios}, indent=2) + "\n")


if __name__ == "__main__":
    main()
