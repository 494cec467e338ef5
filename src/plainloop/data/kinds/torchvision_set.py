"""The classification sets of torchvision, read and downloaded by torchvision's own classes; and invented images.

A set that is small is held in memory, another is decoded file by file. How a set says which split is meant, and where
it has its labels, is found by looking at its class; the tables name the exceptions.
"""

import contextlib
import inspect
import io
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset

from plainloop.build import factory
from plainloop.data.dataset import BaseDataset, InMemory
from plainloop.data.kinds.checks import checked_labels
from plainloop.data.kinds.new_files import ImageReader
from plainloop.data.kinds.pictures import MOST, check_channels, checked_size, pixels, suitable_size
from plainloop.errors import UserError, did_you_mean, first_line, listed, tell
from plainloop.places import find_path

# What is no data set of single images with one class each, and why.
REFUSED = {
    **dict.fromkeys(("CocoCaptions", "Flickr8k", "Flickr30k", "SBU"), "its images have captions and no classes"),
    **dict.fromkeys(("CocoDetection", "Kitti", "VOCDetection", "WIDERFace"), "its targets are boxes in an image"),
    **dict.fromkeys(("Cityscapes", "SBDataset", "VOCSegmentation"), "its targets are classes of every pixel"),
    **dict.fromkeys(
        ("PhotoTour", "LFWPairs", "CarlaStereo", "CREStereo", "ETH3DStereo", "FallingThingsStereo", "FlyingChairs",
         "FlyingThings3D", "HD1K", "InStereo2k", "Kitti2012Stereo", "Kitti2015Stereo", "KittiFlow",
         "Middlebury2014Stereo", "SceneFlowStereo", "Sintel", "SintelStereo"), "its samples are pairs of images",
    ),
    **dict.fromkeys(("HMDB51", "Kinetics", "MovingMNIST", "UCF101"), "its samples are videos"),
    **dict.fromkeys(("DatasetFolder", "ImageFolder", "VisionDataset"), "a folder of images: data=images data.path=DIR"),
    "CelebA": "its images have forty attributes each and no classes",
    "FakeData": "for invented images, data=fake",
    "LFWPeople": "its test split has other people than its training split",
    "LSUN": "its databases need the package lmdb and a program of their own to fetch them",
    "LSUNClass": "its databases need the package lmdb and a program of their own to fetch them",
    "PCAM": "it is kept in HDF5 files, which need the package h5py and are opened anew for every image",
}  # fmt: skip
# Sets whose argument `split` has other words than train and test: our word, and theirs.
ALL = {"train": "train", "val": "val", "test": "test"}
WORDS = {
    "CLEVRClassification": {"train": "train", "val": "val"},
    "Country211": {"train": "train", "val": "valid", "test": "test"},
    "DTD": ALL,
    "FGVCAircraft": ALL,
    "Flowers102": ALL,
    "ImageNet": {"train": "train", "val": "val"},
    "Imagenette": {"train": "train", "val": "val"},
    "OxfordIIITPet": {"train": "trainval", "test": "test"},
    "Places365": {"train": "train-standard", "val": "val"},
    "RenderedSST2": ALL,
}


@factory("data", provides=("in_channels", "image_size"))
def torchvision_set(
    name: str,
    root: str,
    split: str,
    size: int | Sequence[int] | None = None,
    channels: int | None = None,
    download: bool = False,
    arguments: Mapping[str, Any] | None = None,
) -> Dataset | None:
    """A classification set of torchvision's, from `root`, where it lies in torchvision's own layout or is downloaded
    to.

    Args:
        name: MNIST, CIFAR10, SVHN, Flowers102, ...: the name of torchvision's class.
        root: the folder that holds, or will hold, the files.
        split: "train", "val" or "test"; the answer is None for one that the set doesn't have.
        size: height and width of the images; None for the set's own where its images are all alike, else for one
            that suits them.
        channels: 1 for grey, 3 for colour; None for what they are.
        download: fetch what isn't there. The options of data say so; of a run's own config it has to be typed anew.
        arguments: more of the class's own, as {"split": "letters"} of EMNIST or {"size": "160px"} of Imagenette.

    Returns:
        images (C, H, W) uint8 and classes; in memory where they take less than a gigabyte. Those of EMNIST, which are
        stored lying on their side, are upright.
    """
    import torchvision

    names = [each for each in torchvision.datasets.__all__ if each[0].isupper() and each not in REFUSED]
    if name in REFUSED:
        raise UserError(f"data.name={name}: it can't be trained on here: {REFUSED[name]}.")
    if name not in names:
        raise UserError(
            f"data.name={name}: torchvision has no such set.{did_you_mean(name, names)} There are: {listed(names, 60)}."
        )
    check_channels(channels)
    kind, folder, wanted = getattr(torchvision.datasets, name), find_path(root), checked_size(size)
    given = {**({"split": "balanced"} if name == "EMNIST" else {}), **(arguments or {})}
    splits = splits_of(kind)
    _check_arguments(kind, given, splits)
    if split not in splits:
        return None
    held = _opened(kind, folder, {**given, **splits[split]}, download)
    labels, classes = _labels(held, name)
    images = getattr(held, "data", None)
    if isinstance(images, Tensor | numpy.ndarray):
        tensor = _upright(torch.as_tensor(images), name)
        area = wanted[0] * wanted[1] if wanted else tensor.shape[2] * tensor.shape[3]
        if len(tensor) * area * (channels or tensor.shape[1]) <= MOST:
            changed = wanted or channels not in (None, tensor.shape[1])
            return InMemory(_converted(tensor, wanted, channels) if changed else tensor, labels, classes=classes)
    if wanted is None:  # by the training images, whichever split is asked for
        train = held if split == "train" else _opened(kind, folder, {**given, **splits["train"]}, download)
        places = torch.linspace(0, len(train) - 1, min(32, len(train))).long().tolist()
        wanted = suitable_size([(image.height, image.width) for image, _ in (train[place] for place in places)])
    return Decoded(held, labels, classes, wanted, channels or (1 if held[0][0].mode in ("1", "L") else 3))


torchvision_set.reader = ImageReader  # type: ignore[attr-defined]


class Decoded(BaseDataset):
    """Images of a set of torchvision's as uint8 (channels, height, width), one by one, and a class each."""

    def __init__(self, held: Any, labels: Tensor, classes: Sequence[str], size: tuple[int, int], channels: int):
        files = _files(held)
        # Some of torchvision's classes take the files as the disk lists them, in no order.
        self.order = sorted(range(len(held)), key=files.__getitem__) if files else list(range(len(held)))
        self.files = [files[place] for place in self.order] if files else []  # for the name of an unreadable one
        self.held, self.targets, self.classes = held, labels[self.order], list(classes)
        self.size, self.channels = size, channels
        self.note = f"decoded file by file, as {size[0]} x {size[1]} (data.size=...)"

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return pixels(self.held[self.order[index]][0], self.size, self.channels), self.targets[index]


def splits_of(kind: Any) -> dict[str, dict[str, Any]]:
    """The splits of a set, and how its class is asked for each: {"train": {"train": True}, ...}."""
    if kind.__name__ in WORDS:
        return {ours: {"split": theirs} for ours, theirs in WORDS[kind.__name__].items()}
    parameters = inspect.signature(kind).parameters
    if "train" in parameters or kind.__name__ == "EMNIST":  # whose split is the kind of characters
        return {"train": {"train": True}, "test": {"train": False}}
    if "split" in parameters:
        return {name: {"split": name} for name in ("train", "test")}
    return {"train": {}}


def _check_arguments(kind: Any, given: Mapping[str, Any], splits: Mapping[str, Mapping[str, Any]]) -> None:
    ours = {
        "root",
        "download",
        "transform",
        "target_transform",
        "transforms",
        "loader",
        "kwargs",
        "what",
        "compat",
        "target_type",
        "target_types",  # they would ask for other targets, or another split
        *(name for words in splits.values() for name in words),
    }
    names = [name for name in inspect.signature(kind).parameters if name not in ours]
    for name in given:
        if name not in names:
            raise UserError(
                f"data.arguments.{name}: {kind.__name__} takes no such argument here."
                f"{did_you_mean(name, names)} It takes: {listed(names) or 'none'}."
            )


# --- reading and downloading --------------------------------------------------------------------------------

MISSING = ("not found", "not present", "does not exist")  # torchvision's own words


def _opened(kind: Any, folder: Path, arguments: Mapping[str, Any], download: bool) -> Any:
    """torchvision's object, with its files downloaded if need be. Raises UserError."""
    from PIL import Image

    Image.init()
    if "EPS" in Image.ID:  # for which Pillow would start a program
        Image.ID.remove("EPS")
    name = kind.__name__
    can_download = any(word in inspect.signature(kind).parameters for word in ("download", "kwargs"))
    off = {"download": False} if can_download and name != "ImageNet" else {}
    try:
        with contextlib.redirect_stdout(io.StringIO()), _nothing_outside():  # of ImageNet's archives, if they lie there
            return kind(str(folder), **arguments, **off)
    except Exception as error:  # torchvision's, struct's, pickle's: whatever it is, it is told
        _explain_missing_package(name, error)
        if isinstance(error, FileNotFoundError) or any(words in str(error) for words in MISSING):
            if off and not download:
                raise UserError(
                    f"{name} is not in {folder}. data.download=true fetches it from {address(kind)}; if it lies "
                    "elsewhere: paths.data=FOLDER"
                ) from error
            return _downloaded(kind, folder, arguments, bool(off), error)
        if isinstance(error, ValueError | TypeError) and arguments and "Unknown value" in str(error):
            raise UserError(f"data.arguments: {name}: {first_line(error)}") from error
        raise UserError(
            f"{name} in {folder} can't be read: {first_line(error)}\n"
            f"The file is damaged: delete it, and it will be downloaded again from {address(kind)}"
        ) from error


def _explain_missing_package(name: str, error: Exception) -> None:
    """Raises UserError where torchvision lacks a package for this set."""
    package = error.name if isinstance(error, ModuleNotFoundError) else None
    package = "scipy" if "Scipy is not found" in str(error) else package
    if package:
        raise UserError(f"{name} is read with {package}, which isn't installed: pip install {package}") from error


def _downloaded(kind: Any, folder: Path, arguments: Mapping[str, Any], download: bool, missing: Exception) -> Any:
    name, source = kind.__name__, address(kind)
    reason: Exception = missing
    if download:
        before = _folders(folder)
        try:
            tell(f"downloading {name} from {source} to {folder}", sys.stdout)
            with contextlib.redirect_stdout(io.StringIO()), _nothing_outside():
                return kind(str(folder), **arguments, download=True)
        except Exception as error:  # urllib, ssl, tarfile, torchvision's own: whatever it is, it is told
            _explain_missing_package(name, error)
            reason = error
            for made in sorted(_folders(folder) - before, reverse=True):
                with contextlib.suppress(OSError):  # not empty
                    made.rmdir()
    why = " ".join(str(reason).split())[:200]
    raise UserError(
        f"{name} is not in {folder} and could not be downloaded from {source} ({why}).\n"
        f"Check the network, or copy torchvision's folder for {name} into it (another place: paths.data=FOLDER)."
    ) from reason


@contextlib.contextmanager
def _nothing_outside() -> Iterator[None]:
    """What an archive wants to write outside its folder is refused, as Python does from 3.14 on, whatever torchvision
    asks for (PEP 706). A Python that can't (3.11 before its fourth patch) extracts as it always has."""
    if not hasattr(tarfile, "data_filter"):
        yield
        return
    before = vars(tarfile.TarFile).get("extraction_filter")
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before


def _folders(root: Path) -> set[Path]:
    return {path for path in (root, *root.glob("*"), *root.glob("*/*")) if path.is_dir()}


def address(kind: Any) -> str:
    """Where torchvision fetches a set from, as far as its class says it."""
    own = vars(kind)
    for name in ("mirrors", "url", "_URL", "_DATASET_URL", "_BASE_URL", "_download_url_prefix", "download_url_prefix"):
        if name in own:
            return own[name][0] if isinstance(own[name], list) else own[name]
    for name in ("resources", "split_list", "_RESOURCES", "_ARCHIVES"):  # the first address somewhere in it
        if name in own:
            return next((word for word in _words(own[name]) if word.startswith("http")), "its own site")
    return "its own site"


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [word for each in inside for word in _words(each)]


# --- what a set holds, in our form --------------------------------------------------------------------------

LABELS = ("targets", "_labels", "labels", "y")  # where torchvision's classes keep what
PAIRS = ("_samples", "samples", "_flat_character_images")
FILES = ("_image_files", "_images", "_samples", "samples", "imgs")
NAMES = ("classes", "categories", "_characters", "all_categories")


def _first(held: Any, names: Sequence[str]) -> Any:
    return next((getattr(held, name) for name in names if getattr(held, name, None) is not None), None)


def _labels(held: Any, name: str) -> tuple[Tensor, list[str]]:
    """The class of every image (N,), and the names of the classes."""
    if name == "INaturalist":
        labels = [label for label, _ in held.index]
    elif (labels := _first(held, LABELS)) is None:
        labels = [label for _, label in _first(held, PAIRS) or ()]
    if len(labels) == 0 or (isinstance(labels, list) and None in labels):
        raise UserError(f"data.name={name}: these files have no labels.")
    if len(labels) != len(held):
        raise UserError(f"data.name={name}: {len(held)} inputs and {len(labels)} targets: their numbers must be equal.")
    targets = torch.as_tensor(labels)
    targets = targets[:, 0] if targets.ndim == 2 else targets  # QMNIST's tell the writer and more as well
    names = _first(held, NAMES)
    if names is not None:
        names = [str(each[0]) if isinstance(each, tuple) else str(each) for each in names]
        if names[:1] == ["N/A"]:  # EMNIST's letters begin with 1
            targets, names = targets - 1, names[1:]
        if name == "Omniglot":  # whose classes are in no order either
            targets, names = torch.tensor([sorted(names).index(each) for each in names])[targets], sorted(names)
    return checked_labels(targets, names, name)


def _files(held: Any) -> list[str]:
    """The file of every sample; [] where the images aren't in files of their own."""
    name = type(held).__name__
    if name == "Omniglot":
        return [f"{held._characters[label]}/{file}" for file, label in held._flat_character_images]
    if name == "INaturalist":
        return [f"{held.root}/{held.all_categories[label]}/{file}" for label, file in held.index]
    entries = [entry[0] if isinstance(entry, tuple) else entry for entry in _first(held, FILES) or ()]
    return [str(entry) for entry in entries] if all(isinstance(entry, str | Path) for entry in entries) else []


def _upright(images: Tensor, name: str) -> Tensor:
    """Images in memory as (N, C, H, W)."""
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif images.shape[3] == 3 and images.shape[1] != 3:
        images = images.permute(0, 3, 1, 2)
    return (images.transpose(2, 3) if name == "EMNIST" else images).contiguous()


def _converted(images: Tensor, size: tuple[int, int] | None, channels: int | None) -> Tensor:
    """Images (N, C, H, W) uint8 in another size, and grey or in colour."""
    from torchvision.transforms.v2.functional import resize

    parts = []
    for some in images.split(1000):
        if size is not None and tuple(some.shape[2:]) != size:
            some = resize(some, list(size), antialias=True)
        if channels == 1 and some.shape[1] == 3:  # the luma of ITU-R BT.601, as in Pillow
            some = (
                torch.einsum("nchw,c->nhw", some.float(), torch.tensor([0.299, 0.587, 0.114])).round().byte()[:, None]
            )
        if channels == 3 and some.shape[1] == 1:
            some = some.expand(-1, 3, -1, -1)
        parts.append(some)
    return torch.cat(parts)
