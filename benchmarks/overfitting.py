"""What each remedy does about overfitting: `experiment=overfitting`, which has none, beside the same with one of them.

Every seed is a split, initial weights and an order of its own, and all remedies see the same ones. Measured are the
weights at the end of the run (the average of the weights, where there is one; of early stopping those that are loaded
at its end, the best ones) on all three splits alike: in eval mode, so without dropout, without augmentation, and with
the plain cross-entropy, which label smoothing and MixUp train otherwise. So all losses in the table are comparable,
as those in a run's own history aren't. Printed in Markdown: mean and standard deviation over the seeds.

    python benchmarks/overfitting.py [--seeds 10] [--epochs 60] [--only NAME ...] [--picture FILE] [--json FILE]

About a minute a seed. The figures and the picture of docs/overfitting.md are what it gave.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch

import plainloop
from plainloop.reports.figures import line_plot

NONE = "none"
REMEDIES = {
    NONE: [],
    "four times the data": ["split.fractions=[0.2,0.3,0.5]"],
    "smaller model": ["model.hidden_sizes=[32]"],
    "dropout": ["model.dropout=0.5"],
    "weight decay": ["optimizer=adamw", "optimizer.weight_decay=3"],
    "early stopping": ["early_stopping.patience=10"],
    "crop": ["transforms.crop=1"],
    "cutout": ["transforms.cutout=2"],
    "flip (wrong here)": ["transforms.flip=true"],
    "label smoothing": ["loss.label_smoothing=0.1"],
    "MixUp": ["transforms.mixup=1.0"],
    "EMA": ["trainer.ema_decay=0.99"],
    "SWA": ["trainer.swa_start=10"],
    "dropout, decay, MixUp": [
        "model.dropout=0.5", "optimizer=adamw", "optimizer.weight_decay=3", "transforms.mixup=1.0",
    ],
}  # fmt: skip
DRAWN = ["four times the data", "dropout", "weight decay", "MixUp"]
HIGHEST = 1.5  # in the picture: what the losses begin with lies above it
SPLITS = ("train", "val", "test")


def measured(words: Sequence[str]) -> dict[str, Any]:
    """Train in a folder of its own; losses and accuracies by split, and the curves of the history."""
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        run = plainloop.train(
            ["experiment=overfitting", "logger=none", "test=false", f"hydra.run.dir={folder}/run", *words]
        )
        stops_early = any(word.startswith("early_stopping.") for word in words)
        chosen = plainloop.load_run(run.path, checkpoint="best" if stops_early else "last")
        chosen.session.task.loss = torch.nn.CrossEntropyLoss()
        values = {split: chosen.session.measure(split) for split in SPLITS}
        epochs = [record for record in run.history() if "val/loss" in record and "train/epoch_loss" in record]
    return {
        **{f"{split}/{name}": values[split][name] for split in SPLITS for name in ("loss", "accuracy")},
        "gap": values["val"]["loss"] - values["train"]["loss"],
        "curves": {name: [record[name] for record in epochs] for name in ("train/epoch_loss", "val/loss")},
    }


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Rows of Markdown: mean ± standard deviation over the seeds; the last column is the mean of each seed's own
    difference, which doesn't contain how easy its split is."""
    columns = {
        "train/loss": 3,
        "train/accuracy": 1,
        "val/loss": 2,
        "val/accuracy": 1,
        "test/loss": 2,
        "test/accuracy": 1,
        "gap": 2,
    }
    names = [name.replace("/", " ").replace("accuracy", "%") for name in columns]
    lines = ["| remedy | " + " | ".join(names) + " | test %, beside none |", "| --- " * (len(columns) + 2) + "|"]
    for remedy, runs in found.items():
        cells = []
        for column, digits in columns.items():
            factor = 100 if "accuracy" in column else 1
            cells.append(spread([factor * run[column] for run in runs], digits))
        pairs = zip(runs, found[NONE], strict=True)
        beside = [100 * (run["test/accuracy"] - none["test/accuracy"]) for run, none in pairs]
        cells.append(spread(beside, 1, "+") if remedy != NONE else "")
        lines.append(f"| {remedy} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int, sign: str = "") -> str:
    """ "0.35 ± 0.04"."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{sign}.{digits}f} ± {deviation:.{digits}f}"


def curve(runs: Sequence[dict[str, Any]], name: str) -> Sequence[tuple[float, float]]:
    """(epoch, mean over the seeds)."""
    means = [statistics.mean(values) for values in zip(*(run["curves"][name] for run in runs), strict=True)]
    return list(enumerate(means, start=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--only", nargs="+", choices=REMEDIES, default=list(REMEDIES), help="these remedies, and none")
    parser.add_argument("--picture", type=Path, help="draw the curves into this file, an SVG")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, one thread, {arguments.seeds} seeds, {arguments.epochs} epochs\n")
    remedies = {name: words for name, words in REMEDIES.items() if name in (NONE, *arguments.only)}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in remedies}
    for seed in range(arguments.seeds):
        for name, words in remedies.items():
            common = [f"seed={seed}", f"trainer.max_epochs={arguments.epochs}", "trainer.num_threads=1"]
            found[name].append(measured([*words, *common]))
        print(f"seed {seed} done", file=sys.stderr, flush=True)
    print(table(found))
    if arguments.picture:
        lines = {
            "no remedy, training loss": curve(found[NONE], "train/epoch_loss"),
            "no remedy": curve(found[NONE], "val/loss"),
        }
        lines |= {name: curve(found[name], "val/loss") for name in DRAWN if name in found}
        label = f"validation loss (training loss where it says so), mean of {arguments.seeds} seeds"
        line_plot(lines, arguments.picture, "epoch", label, HIGHEST)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
