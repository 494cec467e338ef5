"""torchvision's sets, read from small files in the real formats: what its classes give, in our form."""

import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy
import pytest
import torch
import torchvision
from torch.utils.data import Dataset

import plainloop
from plainloop.build import build
from plainloop.data import InMemory, fake, torchvision_set
from plainloop.data.kinds import torchvision_set as room
from plainloop.data.kinds.torchvision_set import REFUSED
from plainloop.errors import UserError
from tests import formats
from tests.conftest import one_in
from tests.torchvision_formats import SETS


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1
    path.write_bytes(data)


@pytest.fixture
def no_network(monkeypatch) -> list[str]:
    """Downloads fail as without a network; the addresses that were asked for are collected."""
    asked: list[str] = []

    def refused(request, *_, **__):
        asked.append(request.full_url)
        raise URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refused)
    return asked


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
@pytest.mark.parametrize(("split", "count"), [("train", 30), ("test", 20)])
def test_idx_files_are_read(tmp_path, no_network, name, split, count):
    """Images (N, 1, 28, 28) uint8 and classes (N,) int64, value by value what the files hold; no network is used."""
    images, labels = formats.write_mnist(tmp_path, train=30, test=20, name=name)[split]
    data = torchvision_set(name, str(tmp_path), split)
    assert tuple(data.inputs.shape) == (count, 1, 28, 28)
    assert (data.inputs.dtype, data.targets.dtype) == (torch.uint8, torch.int64)
    assert numpy.array_equal(data.inputs[:, 0].numpy(), images)
    assert numpy.array_equal(data.targets.numpy(), labels)
    assert list(data.classes) == getattr(torchvision.datasets, name).classes
    assert no_network == []


@pytest.mark.parametrize(("split", "count"), [("train", 50), ("test", 20)])
def test_cifar10_pickles_are_read(tmp_path, monkeypatch, no_network, split, count):
    """Images (N, 3, 32, 32) with red first, in the order of the five files."""
    written, lists = formats.write_cifar10(tmp_path, per_file=10, test=20)
    for name, value in lists.items():
        monkeypatch.setattr(torchvision.datasets.CIFAR10, name, value)
    data = torchvision_set("CIFAR10", str(tmp_path), split)
    images, labels = written[split]
    assert tuple(data.inputs.shape) == (count, 3, 32, 32)
    assert (data.inputs.dtype, data.targets.dtype) == (torch.uint8, torch.int64)
    assert data.inputs.is_contiguous()
    assert numpy.array_equal(data.inputs.numpy(), images)
    assert numpy.array_equal(data.targets.numpy(), labels)
    assert list(data.classes) == formats.CIFAR10_CLASSES
    assert no_network == []


def test_there_is_no_validation_split(tmp_path):
    """None, without a look at the files: `split` takes it from the training images."""
    assert torchvision_set("MNIST", str(tmp_path), "val") is None


def test_what_is_missing_is_downloaded(tmp_path, monkeypatch, capsys):
    """The address is told before the download, and the files it brings are read."""

    def download(url: str, download_root: str, **_):
        formats.write_mnist(Path(download_root).parents[1], train=30, test=20)

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", download)
    assert len(torchvision_set("MNIST", str(tmp_path), "train", download=True)) == 30
    said = capsys.readouterr().out
    assert "downloading MNIST from https://" in said
    assert str(tmp_path) in said


@pytest.mark.parametrize(
    "name",
    [
        "MNIST",
        "FashionMNIST",
        "KMNIST",
        "CIFAR10",
        "CIFAR100",
        "EMNIST",
        "QMNIST",
        "SVHN",
        "USPS",
        "STL10",
        "SEMEION",
        "Food101",
        "Flowers102",
        "DTD",
        "FGVCAircraft",
        "OxfordIIITPet",
        "Country211",
        "RenderedSST2",
        "SUN397",
        "Imagenette",
        "Omniglot",
        "CLEVRClassification",
        "Places365",
    ],
)
def test_neither_files_nor_network(tmp_path, no_network, name):
    """Two lines: what is missing, where, where it would come from and why not; then what to do."""
    with pytest.raises(UserError) as caught:
        torchvision_set(name, str(tmp_path), "train", download=True)
    first, second = str(caught.value).split("\n")
    assert name in first
    assert str(tmp_path) in first
    assert "http" in first
    assert "no network in tests" in first
    assert "paths.data=" in second
    assert no_network != []


def test_no_download_unless_wanted(tmp_path, no_network):
    with pytest.raises(UserError, match="MNIST is not in"):
        torchvision_set("MNIST", str(tmp_path), "train", download=False)
    assert no_network == []


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
@pytest.mark.parametrize(
    "spoil",
    [
        half,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"<html>404 not found</html>" * 10),
        lambda path: path.write_bytes(b"\0\0\x0b" + path.read_bytes()[3:]),  # 16-bit numbers, says the header
    ],
    ids=["half of it", "empty", "a web page", "another type"],
)
def test_a_damaged_idx_file_is_called_damaged(tmp_path, no_network, file, spoil):
    """A file that is there and can't be read isn't "missing": the user is told to delete it, in two lines."""
    formats.write_mnist(tmp_path, train=30, test=20)
    spoil(tmp_path / "MNIST" / "raw" / file)
    with pytest.raises(UserError, match="damaged") as caught:
        torchvision_set("MNIST", str(tmp_path), "train")
    assert len(str(caught.value).split("\n")) == 2
    assert str(tmp_path) in str(caught.value)
    assert "not in" not in str(caught.value)


def test_a_damaged_cifar_file_is_found(tmp_path, monkeypatch, no_network):
    """torchvision's own md5 check finds a changed bit, before the file is unpickled."""
    _, lists = formats.write_cifar10(tmp_path, per_file=10, test=10)
    for name, value in lists.items():
        monkeypatch.setattr(torchvision.datasets.CIFAR10, name, value)
    flipped(tmp_path / "cifar-10-batches-py" / "data_batch_3")
    with pytest.raises(UserError, match="CIFAR10") as caught:
        torchvision_set("CIFAR10", str(tmp_path), "train", download=True)
    assert len(str(caught.value).split("\n")) == 2


def test_images_without_labels_are_found(tmp_path, no_network):
    """Fewer labels than images is an error, not a shorter data set."""
    images, labels = formats.write_mnist(tmp_path, train=30, test=20)["train"]
    formats.write_idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte", labels[:20])
    with pytest.raises(UserError, match=f"{len(images)} inputs and 20 targets"):
        torchvision_set("MNIST", str(tmp_path), "train")


def test_labels_beyond_the_classes_are_found(tmp_path, no_network):
    labels = formats.write_mnist(tmp_path, train=30, test=20)["train"][1]
    labels[7] = 10
    formats.write_idx(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte", labels)
    with pytest.raises(UserError, match="sample 7 has label 10, outside the 10 classes"):
        torchvision_set("MNIST", str(tmp_path), "train")


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match="Did you mean MNIST"):
        torchvision_set("MNISTT", str(tmp_path), "train")


def test_a_config_node_builds_it(tmp_path, no_network):
    """As assemble does: the node's arguments from the config, the split from us."""
    formats.write_mnist(tmp_path, train=30, test=20)
    node = {"_target_": "plainloop.data.torchvision_set", "name": "MNIST", "root": str(tmp_path)}
    assert len(build(node, "data", Dataset, split="test")) == 20


def test_written_images_can_be_learned():
    """The helper's classes are separable: the nearest class mean, as a classifier, makes no mistake."""
    train, test = formats.balanced_labels(100, 1), formats.balanced_labels(50, 2)
    seen, new = (
        formats.class_images(labels, 28, seed=len(labels)).reshape(len(labels), -1) for labels in (train, test)
    )
    means = numpy.stack([seen[train == label].mean(0) for label in range(10)])
    nearest = ((new[:, None].astype(float) - means) ** 2).sum(2).argmin(1)
    assert numpy.array_equal(nearest, test)


# --- every other set, against torchvision's own class -------------------------------------------------------------


@pytest.fixture
def any_checksum(monkeypatch) -> None:
    """Small files have other md5 sums than the real ones."""
    monkeypatch.setattr(torchvision.datasets.utils, "check_md5", lambda *_, **__: True)


def theirs(name: str, root: Path, arguments: dict[str, Any]) -> Any:
    """torchvision's own object."""
    kind = getattr(torchvision.datasets, name)
    off = {"download": False} if name == "SEMEION" else {}
    return kind(str(root), **arguments, **off)


def upright(name: str, image: Any) -> numpy.ndarray:
    """A Pillow image as (C, H, W)."""
    array = numpy.asarray(image)
    array = array.T if name == "EMNIST" else array
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


@pytest.mark.parametrize("name", SETS)
def test_a_set_gives_what_torchvisions_class_gives(tmp_path, no_network, any_checksum, name):
    """Sample by sample, in every split that the set has; None for one that it doesn't have; nothing is downloaded."""
    write, arguments, splits = SETS[name]
    write(tmp_path)
    for split in ("train", "val", "test"):
        ours = torchvision_set(name, str(tmp_path), split, arguments=arguments)
        if split not in splits:
            assert ours is None
            continue
        known = theirs(name, tmp_path, {**arguments, **splits[split]})
        order = ours.order if hasattr(ours, "order") else range(len(known))
        assert sorted(order) == list(range(len(known)))
        first = 1 if name == "EMNIST" else 0  # its letters begin with 1
        names = [str(word) for word in getattr(known, "_characters", ours.classes)]  # in no order, in Omniglot
        assert len(ours) == len(known) > 0
        for index, place in enumerate(order):
            pixels, target = ours[index]
            image, label = known[place]
            assert pixels.dtype == torch.uint8
            assert numpy.array_equal(pixels.numpy(), upright(name, image))
            assert int(target) == int(ours.targets[index])
            assert ours.classes[int(target)] == names[label - first]
    assert no_network == []


CLASSES = {
    "EMNIST": list("abcdefghijklmnopqrstuvwxyz"),
    "SVHN": list("0123456789"),
    "FGVCAircraft": ["Airbus", "Boeing"],
    "OxfordIIITPet": ["Abyssinian", "Pug"],
    "Imagenette": ["tench", "English springer"],
    "ImageNet": ["tench", "goldfish"],
    "Caltech101": ["ant", "beaver"],
    "Omniglot": ["Greek/character01", "Greek/character02"],
    "StanfordCars": ["Audi", "Fiat"],
    "Places365": ["/a/airfield", "/a/alcove"],
}


@pytest.mark.parametrize("name", CLASSES)
def test_classes_have_names(tmp_path, any_checksum, name):
    write, arguments, _ = SETS[name]
    write(tmp_path)
    assert torchvision_set(name, str(tmp_path), "train", arguments=arguments).classes == CLASSES[name]


def test_small_sets_are_held_in_memory(tmp_path, any_checksum, monkeypatch):
    """Up to a gigabyte of pixels; what would take more is decoded image by image, to the same pixels."""
    SETS["CIFAR100"][0](tmp_path)
    held = torchvision_set("CIFAR100", str(tmp_path), "train")
    assert isinstance(held, InMemory)
    monkeypatch.setattr(room, "MOST", held.inputs.nbytes - 1)
    decoded = torchvision_set("CIFAR100", str(tmp_path), "train")
    assert not isinstance(decoded, InMemory)
    assert torch.equal(torch.stack([decoded[index][0] for index in range(len(decoded))]), held.inputs)
    assert torch.equal(decoded.targets, held.targets)
    assert decoded.classes == held.classes


@pytest.mark.parametrize("name", ["USPS", "CIFAR100", "EuroSAT"])
def test_size_and_channels_are_keys(tmp_path, any_checksum, name):
    """In memory and from files: the mean of a shrunk image is that of the image, within rounding; grey is the luma."""
    SETS[name][0](tmp_path)
    plain = torchvision_set(name, str(tmp_path), "train")
    small = torchvision_set(name, str(tmp_path), "train", size=8)
    assert tuple(small[0][0].shape) == (plain[0][0].shape[0], 8, 8)
    for index in range(5):
        assert small[index][0].float().mean() == pytest.approx(plain[index][0].float().mean(), abs=1.5)
    wide = torchvision_set(name, str(tmp_path), "train", size=[8, 12])
    assert tuple(wide[0][0].shape[1:]) == (8, 12)
    colour, grey = (torchvision_set(name, str(tmp_path), "train", channels=number) for number in (3, 1))
    assert (len(colour[0][0]), len(grey[0][0])) == (3, 1)
    red, green, blue = colour[0][0].float()
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    assert (grey[0][0][0].float() - luma).abs().max() < 1.01


def test_a_size_that_suits_is_that_of_the_training_images(tmp_path):
    """Whichever split is asked for: the other's images have other sizes."""
    folder = tmp_path / "country211"
    for split, size in (("train", (70, 90)), ("valid", (40, 50)), ("test", (300, 280))):
        formats.write_images(folder / split, {"AD": 3, "AE": 3}, size)
    formats.write_images(folder / "train", {"AF": 3}, (100, 80))
    formats.write_images(folder / "valid", {"AF": 1}, (100, 80))
    formats.write_images(folder / "test", {"AF": 1}, (100, 80))
    for split in ("train", "val", "test"):
        data = torchvision_set("Country211", str(tmp_path), split)
        assert tuple(data[0][0].shape) == (3, 64, 64)  # 70 pixels on the shorter side, or 80: 2 x 32


# --- what is wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_trained_on_is_answered_with_the_reason(tmp_path, name):
    assert hasattr(torchvision.datasets, name)  # it isn't an unknown name
    with pytest.raises(UserError, match=f"data.name={name}: it can't be trained on here: ") as caught:
        torchvision_set(name, str(tmp_path), "train")
    assert REFUSED[name] in str(caught.value)


def test_every_class_of_torchvisions_is_trained_on_or_refused():
    """None is forgotten: what isn't refused is read from files in a test."""
    names = {name for name in torchvision.datasets.__all__ if name[0].isupper()}
    read = {*SETS, "MNIST", "FashionMNIST", "KMNIST", "CIFAR10"}
    assert names - set(REFUSED) == read
    assert not read & set(REFUSED)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"arguments": {"splt": "letters"}}, "data.arguments.splt: EMNIST takes no such argument.* Did you mean split"),
        ({"arguments": {"split": "words"}}, "data.arguments: EMNIST: .*words"),
        ({"arguments": {"train": True}}, "data.arguments.train: EMNIST takes no such argument"),
        ({"channels": 2}, "data.channels=2: must be 1"),
        ({"size": 0}, "data.size=0: a number of pixels"),
        ({"size": [8]}, r"data.size=\[8\]: a number of pixels"),
        ({"size": "large"}, "data.size=large: a number of pixels"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(tmp_path, any_checksum, words, message):
    SETS["EMNIST"][0](tmp_path)
    with pytest.raises(UserError, match=message):
        torchvision_set("EMNIST", str(tmp_path), "train", **words)


def test_files_without_labels_are_refused(tmp_path, any_checksum):
    """FER2013's test.csv, as the competition gave it out, has images alone."""
    labels = formats.balanced_labels(10, classes=7)
    rows = [" ".join(map(str, image.ravel())) for image in formats.class_images(labels, 48)]
    (tmp_path / "fer2013").mkdir()
    (tmp_path / "fer2013/test.csv").write_text("\n".join(["pixels", *rows]))
    with pytest.raises(UserError, match=r"data.name=FER2013: these files have no labels"):
        torchvision_set("FER2013", str(tmp_path), "test")


def test_a_missing_package_is_named(tmp_path, any_checksum, monkeypatch):
    """SVHN's .mat files are read with scipy, which plainloop doesn't need otherwise: they aren't called damaged."""
    SETS["SVHN"][0](tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(UserError, match=r"SVHN is read with scipy.*pip install scipy"):
        torchvision_set("SVHN", str(tmp_path), "train")


def test_a_download_that_fails_leaves_no_folders(tmp_path, no_network):
    with pytest.raises(UserError, match="could not be downloaded"):
        torchvision_set("FashionMNIST", str(tmp_path / "data"), "train", download=True)
    assert not (tmp_path / "data").exists()


# --- training -----------------------------------------------------------------------------------------------------


def numbers(run: Any) -> dict[str, float]:
    return {name: value for name, value in run.metrics.items() if name != "seconds"}


@pytest.mark.parametrize("name", one_in(2, ["MNIST", "CIFAR100", "Flowers102"]))
def test_a_set_trains_and_evaluates(tmp_path, any_checksum, name):
    """In memory, grey and colour, and from files: with data=torchvision, from one command."""
    formats.write_mnist(tmp_path, train=60, test=20) if name == "MNIST" else SETS[name][0](tmp_path)
    words = ["data=torchvision", f"data.name={name}", f"paths.data={tmp_path}", "model.channels=[8]"]
    run = plainloop.train([*words, "trainer.max_epochs=2", "logger=none"])
    assert run.config.choices.model == "cnn"
    assert set(run.config.spec.class_names) == set(torchvision_set(name, str(tmp_path), "train").classes)
    assert plainloop.evaluate(run.path) == {key: run.metrics[key] for key in run.metrics if key.startswith("test/")}


@pytest.mark.slow
def test_a_set_of_files_resumes_bit_for_bit(tmp_path, any_checksum):
    SETS["DTD"][0](tmp_path / "data")
    words = [
        "data=torchvision",
        "data.name=DTD",
        f"paths.data={tmp_path / 'data'}",
        "model.channels=[8]",
        "loader.batch_size=4",
        "logger=none",
    ]
    whole = plainloop.train([*words, "trainer.max_epochs=3"])
    first = plainloop.train([*words, "trainer.max_epochs=2"])
    resumed = plainloop.train([f"resume={first.path}", "trainer.max_epochs=3"])
    assert numbers(resumed) == numbers(whole)
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


# --- fake ---------------------------------------------------------------------------------------------------------


def test_invented_images_are_what_was_asked_for():
    data = fake(count=101, classes=4, size=[12, 20], channels=1)
    assert tuple(data.inputs.shape) == (101, 1, 12, 20)
    assert (data.inputs.dtype, data.targets.dtype) == (torch.uint8, torch.int64)
    assert data.targets.bincount().tolist() == [26, 25, 25, 25]
    assert data.classes == ["0", "1", "2", "3"]
    assert torch.equal(fake(count=101, classes=4, size=[12, 20], channels=1).inputs, data.inputs)
    assert not torch.equal(fake(count=101, classes=4, size=[12, 20], channels=1, seed=1).inputs, data.inputs)


def test_invented_images_can_be_learned():
    """The nearest class mean of one half, as a classifier, makes no mistake on the other."""
    data = fake(count=400)
    images, labels = data.inputs.flatten(1).double(), data.targets
    means = torch.stack([images[:200][labels[:200] == label].mean(0) for label in range(10)])
    assert torch.equal(torch.cdist(images[200:], means).argmin(1), labels[200:])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"count": 0}, "data.count=0: must be a whole number of at least 1"),
        ({"classes": 1}, "data.classes=1: must be a whole number of at least 2"),
        ({"size": -1}, "data.size=-1"),
        ({"count": 10**7, "size": 224}, "would take 1505 GB of memory"),
    ],
    ids=str,
)
def test_impossible_inventions_are_refused(words, message):
    with pytest.raises(UserError, match=message):
        fake(**words)


@pytest.mark.slow
def test_data_fake_trains_from_one_command():
    run = plainloop.train(["data=fake", "data.count=200", "trainer.max_epochs=6", "optimizer.lr=0.01", "logger=none"])
    assert run.metrics["test/accuracy"] > 0.8
    assert plainloop.evaluate(run.path)["test/accuracy"] == run.metrics["test/accuracy"]
