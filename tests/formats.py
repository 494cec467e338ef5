"""Real file formats, written by hand: what torchvision's data sets are stored as, with images that can be learned.

Each writer returns what it wrote, so that a test compares what is read with what was meant.
"""

import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def class_images(labels: numpy.ndarray, side: int, channels: int = 1, seed: int = 0) -> numpy.ndarray:
    """Images (N, channels, side, side) uint8: dark noise, and a bright square whose place tells the class (0 to 9)."""
    random = numpy.random.default_rng(seed)
    images = random.integers(0, 80, (len(labels), channels, side, side), dtype=numpy.uint8)
    square = side // 4
    for image, label in zip(images, labels, strict=True):
        top, left = (int(label) // 4) * square, (int(label) % 4) * square
        image[:, top : top + square, left : left + square] += 150
    return images


def balanced_labels(count: int, seed: int = 0, classes: int = 10) -> numpy.ndarray:
    """Labels (count,) uint8 in random order, every class as often as the others, within one."""
    return numpy.random.default_rng(seed).permutation(numpy.arange(count) % classes).astype(numpy.uint8)


def write_idx(path: Path, values: numpy.ndarray) -> None:
    """An array of bytes in the format of http://yann.lecun.com/exdb/mnist: magic number, sizes (big-endian), bytes."""
    assert values.dtype == numpy.uint8
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(header + values.tobytes())


def write_mnist(root: Path, train: int = 200, test: int = 100, name: str = "MNIST") -> dict[str, Any]:
    """The four files of MNIST (or FashionMNIST, KMNIST) under root/NAME/raw, unpacked.

    Returns:
        {"train": (images (N, 28, 28), labels (N,)), "test": ...}, both uint8.
    """
    written = {}
    for split, prefix, count, seed in (("train", "train", train, 1), ("test", "t10k", test, 2)):
        labels = balanced_labels(count, seed)
        images = class_images(labels, side=28, seed=seed)[:, 0]
        write_idx(root / name / "raw" / f"{prefix}-images-idx3-ubyte", images)
        write_idx(root / name / "raw" / f"{prefix}-labels-idx1-ubyte", labels)
        written[split] = (images, labels)
    return written


def write_cifar10(root: Path, per_file: int = 20, test: int = 50) -> tuple[dict[str, Any], dict[str, Any]]:
    """The seven pickles of CIFAR-10 under root/cifar-10-batches-py: rows of 3,072 bytes, red plane first.

    torchvision accepts the original files only, by their md5 sums; to have these accepted, put the returned lists
    in the place of its own: `for name, value in lists.items(): monkeypatch.setattr(CIFAR10, name, value)`.

    Returns:
        what was written, {"train": (images (N, 3, 32, 32), labels (N,)), "test": ...}, and the lists.
    """
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, content: dict[str, Any]) -> str:
        data = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def write_batch(name: str, count: int, seed: int) -> tuple[list[str], numpy.ndarray, numpy.ndarray]:
        labels = balanced_labels(count, seed)
        images = class_images(labels, side=32, channels=3, seed=seed)
        names = [f"{number}.png" for number in range(count)]
        content = {
            "batch_label": name,
            "labels": labels.tolist(),
            "data": images.reshape(count, -1),
            "filenames": names,
        }
        return [name, write(name, content)], images, labels

    batches = [write_batch(f"data_batch_{number}", per_file, number) for number in range(1, 6)]
    last = write_batch("test_batch", test, 6)
    meta = {"num_cases_per_batch": per_file, "label_names": CIFAR10_CLASSES, "num_vis": 3072}
    lists = {
        "train_list": [entry for entry, _, _ in batches],
        "test_list": [last[0]],
        "meta": {"filename": "batches.meta", "key": "label_names", "md5": write("batches.meta", meta)},
    }
    train = tuple(numpy.concatenate([batch[part] for batch in batches]) for part in (1, 2))
    return {"train": train, "test": last[1:]}, lists
