"""Whether a rebuilt engine trains the same bits.

Some fifty short runs that have, between them, every kind of data, every task and most options are trained through the
public door alone (`plainloop.train` and `plainloop.evaluate`). Of each are recorded its history, its metrics, and a
SHA-256 of every tensor in its newest and its best checkpoint. Recorded before a change and compared after it, on the
same machine with the same versions, they must be equal to the last bit.

    python benchmarks/digests.py record --json FILE [--checkout DIR]
    python benchmarks/digests.py compare --json FILE [--checkout DIR] [--only NAME ...] [--but REGEX] [--also WORD ...]

`compare` trains again, says of each run what differs first and by how much, and exits with 1 where anything does. That
it would notice is seen with `--also seed=1`, which types a word more for every run.
"""

import argparse
import contextlib
import hashlib
import io
import json
import math
import os
import re
import sys
import tempfile
import time
import traceback
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy

POISONED = 0  # a row that the seed 0 trains on

# --- the files: small, and the same wherever they are written -------------------------------------------------


def write_csv(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]) + "\n")


def write_files(folder: Path) -> None:
    """What the runs below read: pictures, sounds, tables, texts, a series, arrays and lines of JSON."""
    from PIL import Image

    draw = numpy.random.default_rng(0)
    for label, name in enumerate(("cat", "dog", "owl")):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(20 - 4 * label):
            pixels = draw.integers(0, 90, (12, 12, 3), dtype=numpy.uint8)
            pixels[4 * label : 4 * label + 4] += 150
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number:02}.jpg", quality=90)
    for pitch, name in ((300, "low"), (800, "high")):
        (folder / "sounds" / name).mkdir(parents=True)
        for number in range(15):
            tone = numpy.sin(2 * numpy.pi * pitch * numpy.arange(800) / 8000) + 0.2 * draw.normal(size=800)
            with wave.open(str(folder / "sounds" / name / f"{number:02}.wav"), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                file.writeframes((10_000 * tone).astype("<i2").tobytes())

    patients = []
    for number in range(120):
        age, city, drug = round(draw.normal(50, 12), 2), draw.choice(["Bonn", "Kiel", "Ulm"]), draw.choice(["a", "b"])
        risk = (age - 50) / 12 + (city == "Kiel") + 0.3 * draw.normal()
        patients.append(
            {
                "who": f"p{number % 30}",
                "age": "" if draw.random() < 0.1 else age,
                "city": city,
                "drug": drug,
                "sick": "yes" if risk > 0.5 else "no",
                "fever": int(risk > 1),
                "cough": int(drug == "a"),
                "visits": draw.poisson(3),
            }
        )
    write_csv(folder / "patients.csv", patients)
    reviews = []
    for number in range(80):
        told = draw.choice([["good", "great", "fine"], ["bad", "awful", "poor"]][number % 2], 3)
        words = [*draw.choice(["the", "a", "film", "was", "and", "it", "plot"], draw.integers(2, 12)), *told]
        reviews.append(
            {
                "review": " ".join(draw.permutation(words)),
                "mood": ["glad", "cross"][number % 2],
                "stars": round(draw.uniform(1, 3) + 2 * (number % 2 == 0), 2),
            }
        )
    write_csv(folder / "reviews.csv", reviews)
    load = 500 + 100 * numpy.sin(numpy.arange(200) * numpy.pi / 12) + draw.normal(size=200)
    write_csv(
        folder / "hours.csv",
        [
            {"hour": hour, "load": round(value, 3), "kind": ["day", "night"][hour % 24 // 12]}
            for hour, value in enumerate(load)
        ],
    )
    (folder / "book.txt").write_text("It was so, and so it was; nobody knew why.\n" * 15)

    kinds = draw.choice(3, 150, p=[0.6, 0.3, 0.1])
    points = (3 * numpy.eye(3)[kinds] + draw.normal(size=(150, 3))).astype("float32")
    values = points @ numpy.array([[1.0, 0.0], [-2.0, 1.0], [0.0, 3.0]]) + 10
    poisoned = points.copy()
    poisoned[POISONED, 0] = 1e25  # its squared error is infinite in float32
    numpy.savez(
        folder / "points.npz",
        points=points,
        poisoned=poisoned,
        kinds=kinds,
        values=values,
        labels=(points > 1).astype(int),
    )
    (folder / "shards").mkdir()
    for shard in range(3):
        lines = [
            {"inputs": [x, y], "side": "left" if x < y else "right", "y": x - 2 * y}
            for x, y in draw.normal(size=(50, 2)).round(3).tolist()
        ]
        (folder / "shards" / f"{shard}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


# --- the runs -------------------------------------------------------------------------------------------------

ALWAYS = "console.progress=false logger=none trainer.num_threads=1 trainer.device=cpu"
TWO = "loader.num_workers=2 loader.multiprocessing_context=fork"  # quick to start
MLP = "model=mlp model.hidden_sizes=[32,16]"
CNN = "model=cnn model.channels=[8,8]"
FAKE = "data=fake data.count=200 data.classes=4 data.size=16"
POINTS = "data=arrays data.path={files}/points.npz data.inputs=points"
TABLE = "data=table data.path={files}/patients.csv data.features=[age,city,drug]"
TEXT = "data=text data.path={files}/reviews.csv data.text=review loader.batch_size=16"
SERIES = "data=series data.path={files}/hours.csv data.time=hour data.window=6 model.hidden_size=8"
STREAM = "data=stream data.path={files}/shards/*.jsonl data.buffer=20 loader.batch_size=8 model.hidden_sizes=[8]"
ROTATED = "transforms.train=[{_target_:torchvision.transforms.v2.RandomRotation,degrees:10}]"

# What is typed; of several, each goes on from the one before it, whose directory is {before}.
RUNS: dict[str, str | list[str]] = {
    # kinds of data, and tasks
    "digits": f"{MLP} trainer.max_epochs=2 trainer.log_every=1",
    "breast_cancer": "experiment=logistic_regression trainer.max_epochs=3 trainer.log_every=3",
    "logistic_by_hand": "experiment=logistic_regression model=manual_linear loss=manual_bce trainer.max_epochs=2",
    "penguins": f"data=penguins {MLP} trainer.max_epochs=3 trainer.log_every=3",
    "penguins_gaussian": f"data=penguins task=gaussian_regression {MLP} trainer.max_epochs=3 trainer.log_every=3",
    "points_line": "experiment=linear_regression trainer.max_epochs=60",
    "arrays_regression": f"{POINTS} data.targets=values {MLP} loss=huber trainer.max_epochs=3 trainer.log_every=1",
    "arrays_multilabel": f"{POINTS} data.targets=labels {MLP} loss.pos_weight=balanced trainer.max_epochs=3",
    "images": f"data=images data.path={{files}}/photos {CNN} loader.batch_size=8 transforms.flip=true {TWO} "
              "trainer.max_epochs=2 trainer.log_every=3",
    "audio": f"data=audio data.path={{files}}/sounds data.mels=8 {CNN} loader.batch_size=8 trainer.max_epochs=2",
    "table_embedded": f"{TABLE} data.target=sick data.categories=embed model=tabular model.dropout=0.2 "
                      "loader.batch_size=16 trainer.max_epochs=3 trainer.log_every=1",
    "table_multilabel": f"{TABLE} data.target=[fever,cough] {MLP} loss=multilabel_soft_margin split.group=who "
                        "trainer.max_epochs=3",
    "table_counts": f"{TABLE} data.target=visits task=regression loss=poisson_nll {MLP} trainer.max_epochs=3",
    "text_rnn": f"{TEXT} data.target=mood model.hidden_size=8 model.dropout=0.2 model.layers=2 "
                "loader.batch_sampler=length trainer.max_epochs=2 trainer.log_every=1",
    "text_transformer": f"{TEXT} data.target=stars data.tokens=char model=transformer model.width=16 model.heads=2 "
                        "model.dropout=0.1 trainer.max_epochs=2 trainer.log_every=3",
    "one_string": "experiment=char_rnn trainer.max_epochs=10 trainer.log_every=1",
    "book_rnn": "data=charseq data.path={files}/book.txt data.length=10 model.hidden_size=16 trainer.max_epochs=2",
    "book_sparse": "data=charseq data.path={files}/book.txt data.length=10 "
                   "model=custom model._target_=torch.nn.Embedding "
                   "model.num_embeddings=${spec.vocab_size} model.embedding_dim=${spec.num_outputs} model.sparse=true "
                   "optimizer=sparse_adam optimizer.lr=0.05 trainer.max_epochs=2 trainer.log_every=1",
    "book_transformer": "data=charseq data.path={files}/book.txt data.length=16 model=char_transformer model.width=16 "
                        "model.heads=2 model.layers=2 model.dropout=0.1 model.tie_weights=true loader.batch_size=8 "
                        "trainer.ema_decay=0.9 trainer.max_epochs=2 trainer.log_every=3",
    "series_forecast": f"{SERIES} data.target=load data.horizon=2 trainer.max_grad_norm=0.5 trainer.max_epochs=2 "
                       "trainer.log_every=1",
    "series_label": f"{SERIES} data.label=kind model.cell=lstm trainer.max_epochs=2",
    "stream_steps": f"{STREAM} data.target=side trainer.validate_every=7s trainer.max_steps=33 trainer.log_every=5",
    "stream_workers": f"{STREAM} data.target=y {TWO} trainer.max_epochs=2 trainer.log_every=3",
    "autoencoder": "experiment=autoencoder model.hidden_sizes=[16,4] trainer.max_epochs=2",
    # models
    "resnet_swa": f"{FAKE} model=resnet model.width=8 model.depth=[1,1] optimizer=sgd optimizer.momentum=0.9 "
                  "optimizer.nesterov=true trainer.swa_start=2 trainer.max_epochs=3 trainer.log_every=3",
    "vit_layers": "model=vit model.width=16 model.layers=2 model.heads=2 model.dropout=0.1 optimizer=adamw "
                  "scheduler=cosine schedule.warmup_steps=10 param_groups.layer_decay=0.7 trainer.max_epochs=1 "
                  "trainer.log_every=3",
    "resnet18": f"{FAKE} model=torchvision model.name=resnet18 optimizer=sgd optimizer.momentum=0.9 "
                "transforms.resize=32 loader.batch_size=4 trainer.limit_batches=2 trainer.max_epochs=1 "
                "trainer.log_every=1",
    "mlp_batchnorm": f"{MLP} model.norm=batch model.dropout=0.3 trainer.ema_decay=0.99 trainer.max_epochs=2",
    # optimizers and schedules
    "one_cycle_accumulated": f"{FAKE} {CNN} scheduler=one_cycle loader.batch_size=30 trainer.accumulate_steps=4 "
                             "trainer.ema_decay=0.9 trainer.max_grad_norm=1 trainer.max_epochs=3 trainer.log_every=1",
    "rmsprop_plateau": f"data=penguins {MLP} split.time=year split.fractions=[0.3,0.3,0.4] optimizer=rmsprop "
                       "scheduler=plateau scheduler.patience=0 scheduler.threshold=0.5 optimizer.lr=0.01 "
                       "schedule.warmup_steps=4 trainer.max_epochs=5 trainer.log_every=1",
    "muon": f"{MLP} optimizer=muon trainer.max_epochs=1 trainer.log_every=3",
    "several_sequential": f"{FAKE} {CNN} optimizer=several optimizer.rest.lr=0.01 scheduler=sequential "
                          "scheduler.milestones=[1] param_groups.no_decay_norm_bias=true param_groups.head_lr=0.02 "
                          "trainer.max_epochs=3 trainer.log_every=1",
    "lbfgs": "data=breast_cancer model=linear optimizer=lbfgs optimizer.max_iter=4 loader.batch_size=1000 "
             "trainer.max_epochs=3 trainer.log_every=1",
    "rules_exponential": f"{FAKE} {CNN} optimizer=adamw scheduler=exponential scheduler.gamma=0.5 "
                         "param_groups.rules=[{match:features,lr:1e-4,weight_decay:0.1}] trainer.max_epochs=2",
    "adagrad_warm_restarts": f"{MLP} optimizer=adagrad scheduler=warm_restarts trainer.max_epochs=2",
    # the loop
    "bf16": f"{FAKE} {CNN} trainer.precision=bf16 trainer.max_epochs=2 trainer.log_every=1",
    "skipped": f"{POINTS} data.inputs=poisoned data.targets=values {MLP} transforms.normalize=none "
               "trainer.nonfinite=skip loader.batch_size=16 trainer.max_epochs=2 trainer.log_every=1",
    "early_stopping": f"{MLP} optimizer.lr=0.05 early_stopping.patience=1 trainer.max_epochs=8",
    "limited_on_device": f"{MLP} trainer.limit_batches=5 loader.on_device=true loader.drop_last=true "
                         "trainer.max_epochs=3 trainer.log_every=3",
    "folds": f"data=penguins {MLP} split.folds=3 split.fold=1 trainer.max_epochs=2",
    "never_validated": f"{MLP} trainer.validate_every=0 trainer.ema_decay=0.9 trainer.max_epochs=1",
    # losses
    "balanced": f"{POINTS} data.targets=kinds {MLP} loss.weight=balanced loss.label_smoothing=0.1 trainer.max_epochs=3",
    "balanced_sampler": f"{POINTS} data.targets=kinds {MLP} loader.sampler=balanced loader.batch_size=16 "
                        "trainer.accumulate_steps=3 loss.weight=balanced trainer.max_epochs=2 trainer.log_every=1",
    "focal": f"{MLP} loss=focal loss.gamma=3 trainer.max_epochs=1",
    "binary_focal": f"{TABLE} data.target=sick {MLP} loss=binary_focal loss.alpha=0.3 trainer.max_epochs=2",
    "summed": f"{MLP} loss=sum loss.parts.cross_entropy=1 loss.parts.focal.factor=0.5 loss.parts.focal.gamma=3 "
              "trainer.max_epochs=2 trainer.log_every=3",
    # augmentation
    "augmented": f"{FAKE} {CNN} transforms.flip=true transforms.crop=2 transforms.cutout=4 transforms.mixup=0.2 "
                 "trainer.max_epochs=2 trainer.log_every=1",
    "cutmix": f"{FAKE} {CNN} transforms.cutmix=1.0 transforms.normalize=train loss=kl_div "
              "trainer.channels_last=true trainer.max_epochs=2",
    "rotated": f"{CNN} {ROTATED} trainer.limit_batches=10 trainer.max_epochs=2 trainer.log_every=3",
    "rotated_workers": f"{CNN} {ROTATED} {TWO} trainer.limit_batches=10 trainer.max_epochs=2 trainer.log_every=3",
    # one after another
    "finetuned_head": [f"{CNN} data.only=[0,1,2,3,4] trainer.max_epochs=1",
                       f"{CNN} data.only=[5,6,7,8,9] finetune.weights={{before}} finetune.trainable=head "
                       "trainer.max_epochs=1 trainer.log_every=3"],
    "finetuned_partly": [f"{CNN} data.only=[0,1,2,3,4] trainer.max_epochs=1",
                         f"{CNN} finetune.weights={{before}} finetune.partial=true finetune.trainable=last:2 "
                         "param_groups.head_lr=0.01 trainer.max_epochs=1"],
    "extended": [f"{FAKE} {CNN} scheduler=one_cycle trainer.ema_decay=0.9 trainer.max_epochs=1",
                 "extend={before} trainer.max_epochs=2 trainer.log_every=1"],
    "resumed": [f"{FAKE} {CNN} model.dropout=0.3 transforms.flip=true optimizer=adamw schedule.warmup_steps=6 "
                "trainer.ema_decay=0.9 loader.batch_size=16 trainer.log_every=3 trainer.max_steps=17",
                "resume={before} trainer.max_steps=40"],
}  # fmt: skip
MEASURED_AGAIN = ("digits", "images", "penguins_gaussian", "text_rnn", "stream_steps", "resnet_swa", "finetuned_head")


def train(name: str, files: Path, folder: Path, also: list[str]) -> dict[str, Any]:
    """Train a run, and return what is compared of it."""
    import plainloop

    stages, path = RUNS[name], folder / name
    for number, typed in enumerate([stages] if isinstance(stages, str) else stages):
        words = [word.replace("{files}", str(files)).replace("{before}", str(path)) for word in typed.split()]
        if not typed.startswith("resume="):  # which stays where it was
            path = folder / name / str(number)
            words.append(f"hydra.run.dir={path}")
        plainloop.train([*ALWAYS.split(), *words, *also])
    newest = max((path / "checkpoints").glob("step-*.pt"), key=lambda file: int(file.stem.removeprefix("step-")))
    return {
        "history": [
            without(json.loads(line), "samples_per_second")
            for line in (path / "history.jsonl").read_text().splitlines()
        ],
        "metrics": without(json.loads((path / "metrics.json").read_text()), "seconds"),
        "evaluate": plainloop.evaluate(path, split="val") if name in MEASURED_AGAIN else {},
        "last": {"step": newest.stem} | weights(newest),
        "best": weights(path / "checkpoints/best.pt"),
    }


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


def weights(file: Path) -> dict[str, Any]:
    """Name -> [SHA-256, norm] of everything in a checkpoint that the training has changed; the norm is there to show
    how large a difference is."""
    import torch

    if not file.exists():
        return {}
    state = torch.load(file, map_location="cpu", weights_only=True)
    parts = {name: state.get(name) for name in ("model", "preprocess", "task", "average")}
    found = {}
    for name, value in nested(parts | {"optimizer": state["optimizer"]["state"]}):
        if isinstance(value, torch.Tensor):
            value = value.detach().contiguous()
            digest = hashlib.sha256(f"{value.dtype} {tuple(value.shape)} ".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
            found[name] = [digest.hexdigest(), float(value.double().norm())]
        else:
            found[name] = [hashlib.sha256(repr(value).encode()).hexdigest(), value]
    return dict(sorted(found.items()))


def nested(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(place, value) of everything within dicts and lists."""
    if isinstance(value, dict | list | tuple):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from nested(item, f"{place}.{name}" if place else str(name))
    else:
        yield place, value


# --- what differs ---------------------------------------------------------------------------------------------


def places_of(entry: dict[str, Any], part: str) -> dict[str, Any]:
    """Place -> value, of a part of an entry; in a checkpoint a value is a pair, a digest and a norm."""
    if part != "history":
        return entry[part]
    return {
        f"record {number} (step {record['step']}), {name}": value
        for number, record in enumerate(entry[part])
        for name, value in record.items()
    }


def differences(before: dict[str, Any], after: dict[str, Any], but: str) -> list[str]:
    """A line for each part of two entries that differs: how much of it does, and the first place; of all but the
    numbers that are meant to."""
    lines = []
    for part in before:
        old, new = places_of(before, part), places_of(after, part)
        places = [place for place in dict.fromkeys([*old, *new]) if not re.search(but, place)]
        # By their text, as it is in the file: NaN equals itself there, and 1 isn't 1.0.
        unequal = [place for place in places if json.dumps(old.get(place)) != json.dumps(new.get(place))]
        if unequal:
            first = f"{unequal[0]}: {change(old, new, unequal[0])}"
            lines.append(f"{part}: {len(unequal)} of {len(places)} values differ; first {first}")
    return lines


def change(old: dict[str, Any], new: dict[str, Any], place: str) -> str:
    """What became of a value, or of a tensor's norm."""
    if place not in old or place not in new:
        return "is new" if place in new else "is missing"
    one, other = old[place], new[place]
    if isinstance(one, list) and isinstance(other, list):
        one, other = one[1], other[1]
    if all(isinstance(value, int | float) and math.isfinite(value) for value in (one, other)):
        return f"{one} -> {other} (relative {abs(one - other) / (max(abs(one), abs(other)) or 1):.1e})"
    return f"{one} -> {other}"


# --- the commands ---------------------------------------------------------------------------------------------


def entries(names: list[str], also: list[str]) -> Iterator[tuple[str, dict[str, Any], float]]:
    """(name, entry, seconds) of each run, trained in a temporary folder. A run that fails is an entry too."""
    where = Path.cwd()
    with tempfile.TemporaryDirectory() as temporary:
        files = Path(temporary, "files")
        files.mkdir()
        write_files(files)
        os.chdir(temporary)
        try:
            for name in names:
                started, said = time.perf_counter(), io.StringIO()
                try:
                    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                        entry = train(name, files, Path(temporary, "runs"), also)
                except Exception as error:
                    traceback.print_exc()
                    entry = {"error": f"{type(error).__name__}: {error}".replace(temporary, "")}
                yield name, entry, time.perf_counter() - started
        finally:
            os.chdir(where)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["record", "compare"])
    parser.add_argument("--json", type=Path, required=True, help="the file that is written, or compared with")
    parser.add_argument("--checkout", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--only", nargs="+", choices=RUNS, metavar="NAME", help="these runs alone")
    parser.add_argument("--but", default="^$", metavar="REGEX", help="not the numbers in whose names this is found")
    parser.add_argument("--also", nargs="+", default=[], metavar="WORD", help="typed for every run besides")
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.checkout.resolve() / "src"))
    recorded = json.loads(arguments.json.read_text()) if arguments.command == "compare" else {}
    made, total, wrong = {}, 0.0, []
    for name, entry, seconds in entries(arguments.only or list(RUNS), arguments.also):
        made[name], total = entry, total + seconds
        if "error" in entry:
            lines = [entry["error"]]
        elif arguments.command == "record":
            lines = []
        else:
            lines = differences(recorded[name], entry, arguments.but) if name in recorded else ["it wasn't recorded"]
        wrong += [name] if lines else []
        verdict = "WRONG" if lines else "equal" if recorded else "done"
        print("\n    ".join([f"{name:24}{verdict:8}{seconds:6.1f} s", *lines]), flush=True)
    if arguments.command == "record":
        arguments.json.write_text(json.dumps(made, indent=1) + "\n")
    print(f"{len(made)} runs, {len(wrong)} of them wrong, {total:.0f} s")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
