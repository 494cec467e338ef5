"""What it costs that a run can be resumed bit for bit: saving and loading checkpoints, and the seed of each sample.

A checkpoint of 100 MB (a model and Adam's two moments) is written by plainloop, with digest, sync and rename, and by
`torch.save` alone, to the same folder, in turns. The seeds are measured on a data set whose samples cost nothing, in
batches of 64: fetched by plainloop and by a plain list of `dataset[index]`; for data in memory, by plainloop's loader
and by the data set's own `__getitems__` over the same indices.

    python benchmarks/resuming.py [--rounds 7] [--megabytes 100] [--folder .] [--json FILE]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, default_collate

from plainloop.config import schema
from plainloop.data import InMemory, make_loader
from plainloop.data.fetch import Fetch
from plainloop.runs import checkpoint

BATCH = 64
# (what, beside what, at most so many more, of which unit)
TARGETS = [
    ("saved by plainloop", "saved by torch.save", 0.5, "s"),
    ("a file's sample, seeded", "a file's sample, not seeded", 20e-6, "s a sample"),
    ("a sample in memory, by the loader", "a sample in memory, by hand", 0.2e-6, "s a sample"),
]


class Nothing(Dataset):
    """Samples that cost nothing."""

    def __len__(self) -> int:
        return 6400

    def __getitem__(self, index: int) -> int:
        return index


def state_of(megabytes: int) -> dict[str, Any]:
    """A model and its Adam state, together of about this size."""
    width = int((megabytes * 1e6 / 3 / 4) ** 0.5)
    model = nn.Linear(width, width)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.rand(2, width)).sum().backward()
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "position": {"step": 1}}


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def contestants(state: dict[str, Any], folder: Path) -> dict[str, tuple[Callable[[], object], int]]:
    """Name -> (what is timed, by how much the time is divided)."""
    nothing = Nothing()
    count = len(nothing)
    order = torch.randperm(count).split(BATCH)
    fetch = Fetch(nothing, seed=0)
    images = InMemory(torch.zeros(60_000, 1, 28, 28, dtype=torch.uint8), torch.zeros(60_000, dtype=torch.int64))
    loader = make_loader(images, schema.Loader(batch_size=BATCH, num_workers=0), seed=0, device=torch.device("cpu"))

    def seeded() -> None:
        for number, indices in enumerate(order):
            fetch.__getitems__((0, number * BATCH, indices))

    def unseeded() -> None:
        for indices in order:
            default_collate([nothing[index] for index in indices.tolist()])

    def by_loader() -> None:
        for _ in loader.epoch(0):
            pass

    def by_hand() -> None:
        for indices in torch.randperm(60_000).split(BATCH):
            images.__getitems__(indices)

    return {
        "saved by plainloop": (lambda: checkpoint.save(folder / "ours.pt", state), 1),
        "saved by torch.save": (lambda: torch.save(state, folder / "torchs.pt"), 1),
        "loaded by plainloop": (lambda: checkpoint.load(folder / "ours.pt"), 1),
        "loaded by torch.load": (lambda: torch.load(folder / "torchs.pt", weights_only=True), 1),
        "a file's sample, seeded": (seeded, count),
        "a file's sample, not seeded": (unseeded, count),
        "a sample in memory, by the loader": (by_loader, 60_000),
        "a sample in memory, by hand": (by_hand, 60_000),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=Path(), help="where to write: the disk that is measured")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        timed = contestants(state_of(arguments.megabytes), Path(folder))
        found: dict[str, list[float]] = {name: [] for name in timed}
        for number in range(arguments.rounds + 1):  # the first isn't counted
            for name, (function, count) in timed.items():
                once = seconds(function) / count
                if number:
                    found[name].append(once)
        size = (Path(folder) / "ours.pt").stat().st_size
    print(f"torch {torch.__version__}, one thread, a checkpoint of {size / 1e6:.0f} MB, {arguments.rounds} rounds\n")
    print(f"  {'seconds':36}{'minimum':>14}{'median':>14}")
    for name, values in found.items():
        print(f"  {name:36}{min(values):14.3g}{statistics.median(values):14.3g}")
    print()
    for name, beside, most, unit in TARGETS:
        more = statistics.median(found[name]) - statistics.median(found[beside])
        verdict = "met" if more <= most else "NOT MET"
        print(f"  {name}: {more:+.3g} {unit} beside {beside!r}; target at most {most:g}: {verdict}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
