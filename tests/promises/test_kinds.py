"""Every kind of data that a user may bring, from one command each: it trains, is measured again with the same numbers,
goes on bit for bit where it was interrupted, doesn't depend on who loads it, and may be moved.

What is special about a kind is tested beside it, in data/.
"""

import functools
import itertools
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, Subset, default_collate

import plainloop
from plainloop.data.dataset import asked
from plainloop.data.digest import digest
from plainloop.data.kinds.images import images
from plainloop.errors import UserError
from tests import formats
from tests.conftest import slow
from tests.resuming import Watched, differences, newest, resumed, watched
from tests.torchvision_formats import write_food101

TWO = ["loader.num_workers=2", "loader.multiprocessing_context=fork"]  # quick to start


# --- the files ----------------------------------------------------------------------------------------------


def folder_of_images(data: Path) -> None:
    formats.write_images(data / "pets", {"cat": 15, "dog": 15}, (12, 12))


def table_of_images(data: Path) -> None:
    """The table says who is in which split."""
    names = formats.write_images(data / "files", {"x": 15, "y": 15}, (12, 12))
    splits = ["train"] * 12 + ["val", "test", "test"]
    formats.write_rows(
        data / "pets.csv",
        [
            {"path": Path(name).relative_to(data), "label": Path(name).parent.name, "split": split}
            for name, split in zip(names, splits * 2, strict=True)
        ],
    )


def mnist(data: Path) -> None:
    formats.write_mnist(data, train=30, test=10)


def patients(data: Path) -> None:
    formats.write_patients(data / "patients.csv", 60)


def reviews(data: Path) -> None:
    formats.write_rows(data / "reviews.csv", formats.reviews(60))


def book(data: Path) -> None:
    (data / "book.txt").write_text("It was so, and so it was; nobody knew why.\n" * 15)


def hours(data: Path) -> None:
    formats.write_wave(data / "hours.csv", 200)


def sounds(data: Path) -> None:
    formats.write_tones(data / "sounds", {"low": 15, "high": 15}, seconds=0.1)


def arrays(data: Path) -> None:
    held = formats.vectors(60)
    labels = numpy.stack([held["kinds"] % 2, held["kinds"] // 2], 1)
    formats.write_npz(data / "points.npz", **held, labels=labels)


def pictures(data: Path) -> None:
    labels = formats.balanced_labels(60)
    formats.write_npz(data / "pictures.npz", inputs=formats.class_images(labels, side=8), targets=labels)


def shards(data: Path) -> None:
    formats.write_clouds(data / "shards", 90)


def nothing(data: Path) -> None:
    """No file is needed."""


# --- the table ----------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """What is written into a folder {data}, what is typed, and the task that follows from it; `small`: sizes that make
    it quick. `by_one`: samples are loaded one by one, so that processes are of use."""

    write: Callable[[Path], object]
    typed: str
    task: str
    small: str = "loader.batch_size=16"
    by_one: bool = False


CNN = "model.channels=[8] loader.batch_size=8"
RNN = "model.hidden_size=8 loader.batch_size=32"
TABLE = "data=table data.path={data}/patients.csv data.features=[age,smoker,city,drug]"
TEXT = "data=text data.path={data}/reviews.csv data.text=review"
SERIES = "data=series data.path={data}/hours.csv data.time=when data.window=6"
POINTS = "data=arrays data.path={data}/points.npz data.inputs=points"
KINDS = {
    "images": Kind(folder_of_images, "data=images data.path={data}/pets", "multiclass", CNN, True),
    "images in a table": Kind(table_of_images, "data=images data.path={data}/pets.csv", "multiclass", CNN, True),
    "torchvision": Kind(mnist, "data=torchvision data.name=MNIST paths.data={data}", "multiclass", CNN),
    "torchvision's files": Kind(write_food101, "data=torchvision data.name=Food101 paths.data={data}", "multiclass",
                                "data.size=12 model.channels=[8] loader.batch_size=4", True),
    "fake": Kind(nothing, "data=fake data.count=60 data.size=12", "multiclass", CNN),
    "a table's number": Kind(patients, f"{TABLE} data.target=cost", "regression"),
    "a table's numbers": Kind(patients, f"{TABLE} data.target=[cost,visits]", "regression"),
    "a table's classes": Kind(patients, f"{TABLE} data.target=sick", "binary"),
    "a table, embedded": Kind(patients, f"{TABLE} data.target=sick data.categories=embed model=tabular", "binary"),
    "a table's labels": Kind(patients, f"{TABLE} data.target=[fever,cough]", "multilabel"),
    "texts' classes": Kind(reviews, f"{TEXT} data.target=mood", "binary", f"{RNN} model.embedding_size=8", True),
    "texts' numbers": Kind(reviews, f"{TEXT} data.target=stars data.tokens=char loader.batch_sampler=length",
                           "regression", f"{RNN} model.embedding_size=8", True),
    "a book": Kind(book, "data=charseq data.path={data}/book.txt data.length=10", "sequence_labelling", RNN),
    "one string": Kind(nothing, "data=one_string", "sequence_labelling", "model.hidden_size=8"),
    "a series' future": Kind(hours, f"{SERIES} data.target=load data.horizon=2", "regression", RNN),
    "a series' classes": Kind(hours, f"{SERIES} data.label=kind", "binary", RNN),
    "audio": Kind(sounds, "data=audio data.path={data}/sounds", "multiclass", f"data.mels=8 {CNN}", True),
    "arrays' classes": Kind(arrays, f"{POINTS} data.targets=kinds", "multiclass"),
    "arrays' numbers": Kind(arrays, f"{POINTS} data.targets=values", "regression"),
    "arrays' labels": Kind(arrays, f"{POINTS} data.targets=labels", "multilabel"),
    "a stream's classes": Kind(shards, "data=stream data.path={data}/shards/*.jsonl data.target=kind", "multiclass",
                               "data.buffer=20 loader.batch_size=16"),
    "a stream's numbers": Kind(shards, "data=stream data.path={data}/shards/*.jsonl data.target=y", "regression",
                               "data.buffer=20 loader.batch_size=16"),
    "images, rebuilt": Kind(pictures, "experiment=autoencoder data=arrays data.path={data}/pictures.npz",
                            "reconstruction", "model.hidden_sizes=[8] loader.batch_size=16"),
    "vectors, rebuilt": Kind(arrays, f"experiment=autoencoder {POINTS} data.targets=null", "reconstruction",
                             "model.hidden_sizes=[2] loader.batch_size=16"),
}  # fmt: skip
PICKLED = ["a table's classes", "a series' future", "a stream's classes"]  # what holds more than tensors
# Those whose runs plain `pytest` looks at, in more than one way; test_pairs.py trains two steps of each.
QUICK = ("a table's number", "texts' classes", "a series' future")
every_kind = pytest.mark.parametrize("kind", [kind if kind in QUICK else slow(kind) for kind in KINDS])


class Trained(NamedTuple):
    """A kind's files, what is typed, and the run that was trained on them, without an interruption and a process."""

    data: Path
    words: list[str]
    watched: Watched

    @property
    def run(self) -> plainloop.Run:
        return self.watched.run


def words_of(kind: str, data: Path) -> list[str]:
    return [
        *KINDS[kind].typed.replace("{data}", str(data)).split(),
        *KINDS[kind].small.split(),
        "trainer.max_epochs=2",
        "optimizer.lr=0.01",
        "logger=none",
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """trained("images"): each of KINDS, trained once."""

    @functools.cache
    def once(kind: str) -> Trained:
        folder = tmp_path_factory.mktemp("kind")
        data = folder / "data"
        data.mkdir()
        KINDS[kind].write(data)
        words = words_of(kind, data)
        return Trained(data, words, watched([*words, "loader.num_workers=0"], folder))

    return once


# --- the tests ----------------------------------------------------------------------------------------------


@every_kind
def test_it_trains_and_is_measured_again(kind, trained):
    """The task follows from the data, the loss falls, and an evaluation finds the run's own numbers."""
    run = trained(kind).run
    assert run.config.choices.task == KINDS[kind].task
    losses = [record["train/epoch_loss"] for record in run.history() if "train/epoch_loss" in record]
    assert math.isfinite(losses[-1])
    assert losses[-1] < losses[0]
    for split in ("val", "test"):
        if run.data[split] is None:
            assert kind == "one string"
            with pytest.raises(UserError, match="the data has none"):
                plainloop.evaluate(run.path, split=split)
            continue
        measured = plainloop.evaluate(run.path, split=split)
        assert len(measured) >= 2
        assert measured == {name: run.metrics[name] for name in measured}


ENDED = ("images", "a stream's classes", "one string")  # one by one, without a length, with epochs of one batch


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "ended"),
    [(kind, False) for kind in KINDS] + [pytest.param(kind, True, id=f"{kind}, at an epoch's end") for kind in ENDED],
)
def test_it_goes_on_bit_for_bit(kind, ended, trained, tmp_path):
    positions = [(path, newest(path)["position"]) for path in trained(kind).watched.copies]
    path = next(path for path, at in positions if (at["batch"] == 0) == ended)
    if not ended and kind != "one string":  # whose epochs have one batch
        assert newest(path)["position"]["batch"] < (trained(kind).run.config.spec.steps_per_epoch or 3)
    again = resumed(Path(shutil.copytree(path, tmp_path / "interrupted")))
    assert differences(trained(kind).run.path, again) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*(kind for kind in KINDS if KINDS[kind].by_one), *PICKLED])
def test_loading_processes_do_not_matter(kind, trained):
    run = plainloop.train([*trained(kind).words, "checkpoint.every_steps=1", *TWO])
    assert differences(trained(kind).run.path, run.path) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*(kind for kind in KINDS if KINDS[kind].by_one), *PICKLED])
def test_loading_processes_that_are_started_anew_do_not_matter(kind, trained):
    """By the default start method: the data set is pickled."""
    run = plainloop.train([*trained(kind).words, "checkpoint.every_steps=1", "loader.num_workers=2"])
    assert differences(trained(kind).run.path, run.path) == []


def samples_of(dataset: Any, count: int = 3) -> Any:
    """The inputs of the first samples, as the model's preprocessing gets them."""
    if isinstance(dataset, IterableDataset):
        samples = [dataset.decode(raw) for raw in itertools.islice(dataset, count)]
    else:
        samples = [dataset[index] for index in range(min(count, len(dataset)))]
    return (asked(dataset, "collate_fn") or default_collate)(samples)[0]


def outputs_of(run: plainloop.Run, inputs: Any) -> Tensor:
    with torch.inference_mode():
        ready = run.preprocess(inputs)
        return run.model.eval()(**ready) if isinstance(ready, dict) else run.model.eval()(ready)


def moved_to(folder: Path, kind: str, one: Trained) -> tuple[Path, Path, list[str]]:
    """A copy of a run and of its files, and what is typed to have the one find the others."""
    data = Path(shutil.copytree(one.data, folder / "data"))
    path = Path(shutil.copytree(one.run.path, folder / "run"))
    return path, data, [word for word in words_of(kind, data) if str(data) in word]


@pytest.mark.slow
@every_kind
def test_a_run_and_its_data_may_be_moved(kind, trained, tmp_path, capsys):
    """Loaded elsewhere, it says of raw samples what it said before, and is measured with the same numbers."""
    one = trained(kind)
    path, _, moved = moved_to(tmp_path, kind, one)
    assert len(moved) == (KINDS[kind].write is not nothing)
    shutil.move(one.data, one.data.with_name("away"))
    try:
        run = plainloop.load_run(path, overrides=moved)
        inputs = samples_of(run.data.train)
        outputs = outputs_of(run, inputs)
        assert len(outputs) == min(3, run.config.spec.num_train or 3)
        assert torch.equal(outputs, outputs_of(one.run, inputs))
        if run.data.test is not None:
            measured = plainloop.evaluate(path, overrides=moved)
            assert measured == {name: one.run.metrics[name] for name in measured}
        assert "warning" not in capsys.readouterr().err
    finally:
        shutil.move(one.data.with_name("away"), one.data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images", "texts' classes", "a stream's classes"])
def test_it_goes_on_where_it_has_been_moved_to(kind, trained, tmp_path):
    """From within an epoch, with another number of processes."""
    one = trained(kind)
    moved = moved_to(tmp_path, kind, one)[2]
    interrupted = Path(shutil.copytree(one.watched.copies[0], tmp_path / "interrupted"))
    shutil.move(one.data, one.data.with_name("away"))
    try:
        again = resumed(interrupted, *moved, *TWO)
    finally:
        shutil.move(one.data.with_name("away"), one.data)
    assert differences(one.run.path, again) == []


def other_cell(file: Path, row: int, old: str, new: str) -> None:
    """Change a row of a CSV, counted from 0."""
    lines = file.read_text().splitlines(keepends=True)
    assert old in lines[row + 1]
    lines[row + 1] = lines[row + 1].replace(old, new, 1)
    file.write_text("".join(lines))


def other_point(file: Path, row: int) -> None:
    held = dict(numpy.load(file))
    held["points"][row, 0] += 1
    numpy.savez(file, **held)


def other_letter(file: Path) -> None:
    text = file.read_text()
    file.write_text(text[:30] + ("a" if text[30] != "a" else "b") + text[31:])


CHANGES = {
    "a table's number": lambda data, row: other_cell(data / "patients.csv", row, ",a,", ",b,"),
    "texts' classes": lambda data, row: other_cell(data / "reviews.csv", row, ".,", "!,"),
    "a series' future": lambda data, row: other_cell(data / "hours.csv", 77, ",5", ",6"),
    "a book": lambda data, row: other_letter(data / "book.txt"),
    "arrays' classes": lambda data, row: other_point(data / "points.npz", row),
}


@pytest.mark.parametrize("kind", [kind if kind == "texts' classes" else slow(kind) for kind in CHANGES])
def test_a_single_change_in_a_file_is_noticed(kind, trained, tmp_path, capsys):
    """In memory everything is looked at: one cell, one sign, one value among those to train on."""
    one = trained(kind)
    path, data, moved = moved_to(tmp_path, kind, one)
    CHANGES[kind](data, one.run.data.indices["train"]["indices"][2])
    with pytest.raises(UserError, match="content of split train has changed"):
        plainloop.train([f"resume={path}", *moved])
    plainloop.evaluate(path, overrides=moved)
    assert "warning: the content of split train isn't what" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "old", "new", "what"),
    [
        ("a table's number", "Kiel", "Mainz", "its columns, or the words in them, are"),
        ("texts' classes", "film", "movie", "its vocabulary is"),
    ],
)
def test_other_words_are_refused(kind, old, new, what, trained, tmp_path):
    """All of them by others, in the same order: to the model they would be what they were."""
    path, data, moved = moved_to(tmp_path, kind, trained(kind))
    (file,) = data.iterdir()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(UserError, match=f"the data has changed since .*: {what} not what the model was trained with"):
        plainloop.evaluate(path, overrides=moved)


def test_of_files_the_sizes_and_of_all_samples_the_targets_are_looked_at(tmp_path):
    """Of far more than the samples that are decoded; and of each split by itself."""
    written = formats.write_images(tmp_path, {"cat": 100, "dog": 100}, (12, 12))
    whole = images(str(tmp_path), "train")
    halves = [Subset(whole, range(0, 200, 2)), Subset(whole, range(1, 200, 2))]
    before = [digest(half) for half in halves]
    changed = halves[0].indices[33]  # 32 of 100 are decoded: 0, 3, 6, 9, 12, 15, 18, ...
    assert 33 not in [position * 100 // 32 for position in range(32)]
    with open(list(written)[changed], "ab") as file:
        file.write(b"0")
    after = [digest(half) for half in halves]
    assert (after[0] != before[0], after[1] == before[1]) == (True, True)
    whole.targets[changed] = 1 - whole.targets[changed]
    assert digest(halves[0]) not in (before[0], after[0])
