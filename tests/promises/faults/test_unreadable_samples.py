"""Samples that can't be read are named, and left out where that is wanted."""

import json
import multiprocessing
import re
from pathlib import Path

import numpy
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import Dataset
from torchvision.transforms.functional import pil_to_tensor

import plainloop
from plainloop.assembly.assemble import assemble
from plainloop.config.compose import compose
from plainloop.errors import MachineError, UserError
from plainloop.runs import checkpoint
from tests.conftest import path_of
from tests.plainloop.runs.test_checkpoint import assert_same
from tests.promises.faults.fragile import FORK, FRAGILE, PAGE, Typed, assert_same_end, assert_told, newest

pytestmark = pytest.mark.slow  # plain `pytest` has the catalogue of mistakes, and stays short


def index_in(split: str, run: Path, place: int = 3) -> int:
    """The number, in the user's own data set, of a sample of a split."""
    return json.loads((run / "splits.json").read_text())[split]["indices"][place]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("listed", [False, True], ids=["unnamed", "files"])
def test_a_sample_that_cannot_be_read_is_named(listed, split, trained, tmp_path):
    """By its number in the user's data set (here a part of that is trained on), with its file where there is one;
    in the same words from a loading process."""
    words = f"data.listed={listed}".lower()
    number = index_in(split, trained(*FRAGILE, words), -1)
    (tmp_path / "trap").write_text(f"data {number}")
    messages = []
    for folder, how in (("none", "loader.num_workers=0"), ("two", FORK)):
        with pytest.raises(MachineError) as caught:
            plainloop.train([*FRAGILE, words, *how.split(), "hydra.run.dir=outputs/run"])
        assert multiprocessing.active_children() == []
        messages.append(str(caught.value))
        (tmp_path / "outputs/run").rename(folder)
    name = f"sample {number} (files/{number}.wav)" if listed else f"sample {number} "
    assert_told(
        messages[0],
        name,
        "ValueError: the header says 7 channels",
        "fragile.py, line",
        "loader.skip_unreadable",
        "resume=outputs/run",
    )
    assert messages[1] == messages[0]
    (tmp_path / "trap").unlink()
    for run in (tmp_path / "none", tmp_path / "two"):
        plainloop.train([f"resume={run}"])
        assert_same_end(run, trained(*FRAGILE, words))


def test_typed_a_sample_that_cannot_be_read_is_named(trained, tmp_path):
    number = index_in("train", trained(*FRAGILE))
    (tmp_path / "trap").write_text(f"data {number}")
    done = Typed(tmp_path, *FRAGILE, "data.listed=true", "loader.num_workers=2").ended()
    assert done.status == 1
    assert_told(
        done.err,
        f"error: data: sample {number} (files/{number}.wav) can't be read: ValueError: the header",
        f"train.py resume={done.run.relative_to(tmp_path)}",
    )


class Pictures(torchvision.datasets.ImageFolder):
    """A folder of pictures, one folder inside for each class."""

    def __init__(self, folder: str):
        super().__init__(folder, transform=pil_to_tensor)


def draw_pictures(*spoilt: int) -> list[str]:
    """20 pictures of 8 x 8, PNG and JPEG, in pictures/{cat,dog}; some of them spoilt in one way or another. Their
    paths, in order."""
    ways = [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: PAGE, lambda data: bytes(len(data))]
    paths = []
    for number in range(20):
        kind = ("cat", "dog")[number // 10]
        path = Path(f"pictures/{kind}/{number:02}.{('png', 'jpg')[number % 2]}")
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (numpy.arange(192) * (number + 3) % 256).astype("uint8").reshape(8, 8, 3)
        Image.fromarray(pixels).save(path)
        if number in spoilt:
            path.write_bytes(ways[spoilt.index(number) % 4](path.read_bytes()))
        paths.append(str(path))
    return paths


PICTURES = ("data=custom", f"data._target_={path_of(Pictures)}", "data.folder=pictures", "model=cnn",
            "model.channels=[4]", "split.fractions=[0.8,0.2,0]", "loader.batch_size=4", "trainer.max_epochs=3",
            "logger=none", "test=false", "metrics=none", "monitor=val/loss", "hydra.run.dir=run")  # fmt: skip


def pictures_of(split: str) -> list[int]:
    """Which of the twenty are in a split."""
    session = assemble(compose([word for word in PICTURES if not word.startswith("hydra")]))
    return list(session.data.indices[split]["indices"])


@pytest.mark.parametrize(("way", "place"), [(0, 0), (1, 1), (2, 5), (3, -1), (0, 5), (1, 0)])
def test_a_picture_that_is_damaged_is_named(way, place):
    """Cut, empty, a web page, zeros. Also the first one, which is looked at before the training begins."""
    draw_pictures()
    number = pictures_of("train")[place]
    path = draw_pictures(*[-1] * way, number)[number]
    with pytest.raises((UserError, MachineError)) as caught:
        plainloop.train(PICTURES)
    assert_told(str(caught.value), f"sample {number} ({path}) can't be read: ", "loader.skip_unreadable")


def skipped(err: str) -> list[str]:
    """The files that warnings say are left out."""
    lines = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert all("left out" in line for line in lines)
    return sorted(re.search(r"\((pictures/.+?)\)", line)[1] for line in lines)


@pytest.mark.parametrize(("splits", "normalize"), [("train", "train"), ("val", "none"), ("both", "none")])
def test_up_to_so_many_pictures_are_left_out(splits, normalize, capsys):
    """Each is named once, however many epochs there are; and with loading processes all is the same."""
    draw_pictures()
    numbers = [pictures_of("train")[7], pictures_of("train")[11], pictures_of("val")[1]]
    numbers = {"train": numbers[:2], "val": numbers[2:], "both": numbers}[splits]
    paths = draw_pictures(*numbers)
    words = [*PICTURES[:-1], f"loader.skip_unreadable={len(numbers)}", f"transforms.normalize={normalize}"]
    for folder, how in (("none", "loader.num_workers=0"), ("two", FORK)):
        capsys.readouterr()
        run = plainloop.train([*words, *how.split(), f"hydra.run.dir={folder}"])
        assert skipped(capsys.readouterr().err) == sorted(paths[number] for number in numbers)
        assert run.metrics["samples"] == 3 * (16 - sum(number in pictures_of("train") for number in numbers))
    assert_same(checkpoint.load(newest(Path("two")))["model"], checkpoint.load(newest(Path("none")))["model"])


def test_what_is_left_out_is_remembered(capsys):
    """A run that is continued doesn't name it again, and counts it."""
    draw_pictures()
    numbers = [pictures_of("train")[7], pictures_of("val")[1]]
    draw_pictures(*numbers)
    plainloop.train([*PICTURES, "loader.skip_unreadable=2", "trainer.max_epochs=1"])
    assert len(skipped(capsys.readouterr().err)) == 2
    run = plainloop.train(["resume=run", "trainer.max_epochs=3"])
    assert skipped(capsys.readouterr().err) == []
    assert run.metrics["samples"] == 3 * 15


def test_what_is_left_out_does_not_count():
    """With a rate of zero, an epoch's loss is the mean over what can be read, and so is that of a validation."""
    draw_pictures()
    bad = [pictures_of("train")[2], pictures_of("train")[9], pictures_of("val")[3]]
    draw_pictures(*bad)
    words = [
        *PICTURES,
        "loader.skip_unreadable=5",
        "optimizer=sgd",
        "optimizer.lr=0.0",
        "trainer.max_epochs=1",
        "model=mlp",
        "model.hidden_sizes=[8]",
    ]
    run = plainloop.train([word for word in words if "channels" not in word])
    data = Pictures("pictures")
    for split, name in (("train", "train/epoch_loss"), ("val", "val/loss")):
        samples = [data[number] for number in run.data.indices[split]["indices"] if number not in bad]
        inputs, targets = torch.stack([one for one, _ in samples]), torch.tensor([label for _, label in samples])
        with torch.no_grad():
            truth = nn.functional.cross_entropy(run.model(run.preprocess(inputs)), targets)
        assert run.history()[-1][name] == pytest.approx(float(truth), rel=1e-5)


@pytest.mark.parametrize("how", ["loader.num_workers=0", FORK])
def test_one_more_than_may_be_left_out_ends_the_run(how, capsys):
    draw_pictures()
    numbers = pictures_of("train")[5:8]
    paths = draw_pictures(*numbers)
    with pytest.raises(MachineError) as caught:
        plainloop.train([*PICTURES, *how.split(), "loader.skip_unreadable=2"])
    (last,) = {paths[number] for number in numbers} - set(skipped(capsys.readouterr().err))
    assert_told(str(caught.value), "more than loader.skip_unreadable=2", last)


class Bare(Dataset):
    """The same pictures, with nothing but their files listed: neither classes nor targets.

    Args:
        values: give a number for a target, instead of a class.
    """

    def __init__(self, values: bool = False):
        self.pictures = Pictures("pictures")
        self.files, self.values = [path for path, _ in self.pictures.samples], values

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int):
        image, label = self.pictures[index]
        return image, float(label) if self.values else label


@pytest.mark.parametrize("task", ["multiclass", "binary", "regression"])
def test_a_picture_that_is_damaged_is_named_where_nothing_is_listed(task, capsys):
    """Also where the whole data set is read through before the training, for its classes or for its targets' mean."""
    draw_pictures()
    number = pictures_of("train")[5]
    path = draw_pictures(number)[number]
    words = [
        f"data._target_={path_of(Bare)}" if "_target_" in word else word for word in PICTURES if "folder" not in word
    ]
    words += [f"task={task}", f"data.values={task == 'regression'}".lower()]
    words += ["model=mlp", "model.hidden_sizes=[8]"] if task != "multiclass" else []
    words = [word for word in words if "channels" not in word]
    with pytest.raises((UserError, MachineError)) as caught:
        plainloop.train(words)
    assert_told(str(caught.value), f"sample {number} ({path}) can't be read: ", "loader.skip_unreadable")
    capsys.readouterr()
    run = plainloop.train([*words[:-1], words[-1], "loader.skip_unreadable=1", "hydra.run.dir=other"])
    assert skipped(capsys.readouterr().err) == [path]
    assert run.metrics["samples"] in (3 * 15, 3 * 16)  # whichever split the sample has come into


def test_splits_share_what_may_be_left_out():
    """Two are unreadable in all, one of them in the validation split, and one may be."""
    draw_pictures()
    draw_pictures(pictures_of("train")[5], pictures_of("val")[1])
    with pytest.raises(MachineError, match=r"more than loader\.skip_unreadable=1"):
        plainloop.train([*PICTURES, "loader.skip_unreadable=1"])


def test_typed_pictures_that_are_damaged(tmp_path):
    """By default the first one ends the run; two may be left out, and are named."""
    draw_pictures()
    numbers = pictures_of("train")[6:8]
    paths = draw_pictures(*numbers)
    done = Typed(tmp_path, *PICTURES, "loader.num_workers=2").ended()
    assert done.status == 1
    assert_told(done.err, "error: data: sample ", "can't be read", "loader.skip_unreadable")
    assert any(paths[number] in done.err for number in numbers)
    done = Typed(tmp_path, *PICTURES[:-1], *FORK.split(), "loader.skip_unreadable=2").ended()
    assert done.status == 0
    assert skipped(done.err) == sorted(paths[number] for number in numbers)
