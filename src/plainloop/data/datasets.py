"""Where samples come from. A data set is a torch `Dataset`: it has a length, and an index gives one sample.

Data that fits in memory is held as two tensors and fetched a batch at a time, which is a hundred times faster
than a sample at a time; images stay uint8 until they are on the device.
"""

import contextlib
import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset

from plainloop.build import factory
from plainloop.errors import UserError, did_you_mean, first_line, listed


class InMemory(Dataset):
    """Inputs (N, ...) and targets (N, ...) as tensors.

    An index gives (input, target); `__getitems__`, which the DataLoader prefers, gives a whole batch
    (inputs (B, ...), targets (B, ...)) that needs no collating.

    Args:
        inputs: images (N, C, H, W) as uint8, or features (N, F) as float32.
        targets: classes (N,) as int64, or values (N, T) as float32.
        classes: names of the classes, in order, where the targets are classes.
        target_names: names of the T values, where they are not.
        note: a remark for the data line of the terminal, as "2 rows with missing values left out".
    """

    gives_batches = True

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        classes: Sequence[str] | None = None,
        target_names: Sequence[str] | None = None,
        note: str = "",
    ):
        if len(inputs) != len(targets):
            raise UserError(f"data: {len(inputs)} inputs and {len(targets)} targets: their numbers must be equal.")
        self.inputs, self.targets = inputs, targets
        self.classes, self.target_names, self.note = classes, target_names, note

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]

    def __getitems__(self, indices: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = torch.as_tensor(indices)
        return self.inputs.index_select(0, rows), self.targets.index_select(0, rows)  # twice as fast as [rows]

    def select(self, indices: Sequence[int]) -> "InMemory":
        """The samples at these indices, as a data set of their own."""
        inputs, targets = self.__getitems__(indices)
        return InMemory(inputs, targets, self.classes, self.target_names, self.note)


def checked(data: InMemory) -> InMemory:
    """Data from a user's file, checked. Raises UserError with the first sample that is wrong."""
    shape = tuple(data.inputs.shape)
    if len(shape) < 2:
        raise UserError(f"data: the inputs are of shape {shape}; they must be (N, F) or (N, C, H, W).")
    if len(shape) == 4 and shape[-1] in (1, 3, 4) and shape[1] > 4:
        raise UserError(f"data: images must be (N, C, H, W), and these are {shape}: put the last axis second.")
    for name, values in (("inputs", data.inputs), ("targets", data.targets)):
        wrong = ~(values.flatten(1).isfinite().all(1) if values.ndim > 1 else values.isfinite())
        if wrong.any():
            raise UserError(
                f"data: the {name} of sample {int(wrong.nonzero()[0])} hold NaN or infinity; {int(wrong.sum())} "
                "samples in all do: leave those out, or fill them in."
            )
    return data


def find_path(path: str | Path) -> Path:
    """A relative path of the user's is looked for in the working directory, then in the checkout."""
    given = Path(path).expanduser()
    inside = Path(__file__).resolve().parents[3] / given
    return inside if not given.is_absolute() and not given.exists() and inside.exists() else given


def checked_labels(labels: Any, classes: Sequence[str] | None, where: str) -> tuple[Tensor, list[str]]:
    """Whole numbers 0 .. C-1 as int64, and the names of the classes. Raises UserError for labels outside."""
    labels = torch.as_tensor(labels)
    if labels.is_floating_point() or labels.ndim != 1:
        raise UserError(f"{where}: labels must be whole numbers, one per sample; these are {_described(labels)}.")
    labels = labels.to(torch.int64)
    if len(labels) == 0:
        return labels, list(classes or [])
    low, high = int(labels.min()), int(labels.max())
    names = list(classes) if classes is not None else [str(number) for number in range(high + 1)]
    if low < 0 or high >= len(names):
        wrong = low if low < 0 else high
        index = int((labels == wrong).nonzero()[0])
        raise UserError(
            f"{where}: sample {index} has label {wrong}, outside the {len(names)} classes 0 to {len(names) - 1}."
        )
    return labels, names


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"


@factory("data")
def points(inputs: Sequence[Sequence[float]], targets: Sequence[Sequence[float]]) -> InMemory:
    """A handful of samples written in the config itself: inputs (N, F) and targets (N, T)."""
    try:
        rows = torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"data.inputs and data.targets: rows of numbers, of equal length, are needed: {first_line(error)}"
        ) from error
    return checked(InMemory(*rows))


@factory("data")
def arrays(path: str, inputs: str = "inputs", targets: str = "targets", classes: str = "classes") -> InMemory:
    """NumPy arrays in an .npz file: whole-number targets are classes, others are values.

    Args:
        path: the file; a relative one is looked for in the working directory, then in the checkout.
        inputs, targets: names of the arrays, (N, ...) each.
        classes: name of an array of class names, which may be absent.
    """
    file = find_path(path)
    if not file.is_file():
        raise UserError(f"data.path={path}: there is no such file.")
    try:
        with numpy.load(file, allow_pickle=False) as archive:
            held = {name: archive[name] for name in archive.files if name in (inputs, targets, classes)}
            names = archive.files
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        why = "" if "pickle" in str(error) else f": {first_line(error)}"  # NumPy advises to load it unsafely
        raise UserError(f"data.path={path}: not an .npz file of plain arrays{why}. (Tables: data=penguins.)") from error
    for argument, name in (("inputs", inputs), ("targets", targets)):
        if name not in held:
            raise UserError(f"data.{argument}={name}: {path} has no such array. It has: {listed(names)}.")
        if held[name].dtype.kind not in "buif":
            raise UserError(f"data.{argument}={name}: numbers are needed; {path} has {held[name].dtype} there.")
    tensor = torch.from_numpy(held[inputs])
    if tensor.dtype != torch.uint8:
        tensor = tensor.float()
    labels = torch.from_numpy(held[targets])
    if labels.is_floating_point():
        return checked(InMemory(tensor, labels.float()))
    label_names = [str(name) for name in held[classes]] if classes in held else None
    whole, label_names = checked_labels(labels, label_names, str(path))
    return checked(InMemory(tensor, whole, classes=label_names))


# Where torchvision fetches each set from, for the error when it can't.
URLS = {
    "MNIST": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "FashionMNIST": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "KMNIST": "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
    "CIFAR10": "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "CIFAR100": "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
}


@factory("data")
def torchvision_set(name: str, root: str, split: str, download: bool = True) -> InMemory | None:
    """A classification set of torchvision's that fits in memory: read from `root` in torchvision's own layout,
    downloaded when it isn't there.

    Args:
        name: MNIST, FashionMNIST, KMNIST, CIFAR10 or CIFAR100.
        root: the folder that holds, or will hold, the files.
        split: "train" or "test"; for "val" the answer is None: it is taken from the training images.

    Returns:
        inputs (N, C, H, W) uint8 and classes (N,) int64.
    """
    if name not in URLS:
        raise UserError(f"data.name={name}: not known here.{did_you_mean(name, URLS)} There are: {listed(URLS)}.")
    if split == "val":
        return None
    import torchvision

    kind = getattr(torchvision.datasets, name)
    folder = find_path(root)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            held = kind(str(folder), train=split == "train", download=False)
    except Exception as error:  # torchvision's, struct's, pickle's: whatever it is, it is told
        if isinstance(error, FileNotFoundError) or "not found" in str(error):  # torchvision's own words
            return _as_tensors(_downloaded(kind, name, folder, split, download, error), name)
        raise UserError(
            f"{name} in {folder} can't be read: {first_line(error)}\n"
            f"The file is damaged: delete it, and it will be downloaded again from {URLS[name]}"
        ) from error
    return _as_tensors(held, name)


def _as_tensors(held: Any, name: str) -> InMemory:
    images = torch.as_tensor(held.data)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    labels, names = checked_labels(held.targets, held.classes, name)
    return InMemory(images, labels, classes=names)


def _downloaded(kind: Any, name: str, folder: Path, split: str, download: bool, missing: Exception) -> Any:
    reason: Exception = missing
    if download:
        try:
            print(f"downloading {name} from {URLS[name]} to {folder}", flush=True)
            with contextlib.redirect_stdout(io.StringIO()):
                return kind(str(folder), train=split == "train", download=True)
        except Exception as error:  # urllib, ssl, tarfile, torchvision's own: whatever it is, it is told
            reason = error
            for empty in (folder / name / "raw", folder / name, folder):
                with contextlib.suppress(OSError):  # not there, or not empty
                    empty.rmdir()
    why = " ".join(str(reason).split())[:200]
    raise UserError(
        f"{name} is not in {folder} and could not be downloaded from {URLS[name]} ({why}).\n"
        f"Check the network, or copy torchvision's folder for {name} into it (another place: paths.data=FOLDER)."
    ) from reason
