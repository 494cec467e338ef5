"""Real file formats, written by hand: folders of images and sounds, tables, JSON lines, arrays, and what torchvision's
data sets are stored as, with content that can be learned.

Each writer returns what it wrote, so that a test compares what is read with what was meant.
"""

import datetime
import gzip
import hashlib
import json
import pickle
import random
import struct
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

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


# --- folders of images and of sounds --------------------------------------------------------------------------


def write_images(
    root: Path,
    counts: Mapping[str, int],
    size: tuple[int, int] = (24, 24),
    channels: int = 3,
    suffix: str = ".png",
    seed: int = 0,
) -> dict[str, numpy.ndarray]:
    """A folder for each class under `root`, with so many images in it.

    Args:
        counts: {"cat": 10, ...}; a class's images have a bright square, whose place tells which one it is.
        size: height and width.

    Returns:
        path -> image (height, width, channels), or (height, width) where it is grey.
    """
    written = {}
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        images = class_images(numpy.full(count, label), max(size), channels, seed=100 * seed + label)
        for number, image in enumerate(images[:, :, : size[0], : size[1]]):
            pixels = image[0] if channels == 1 else image.transpose(1, 2, 0)
            path = root / name / f"{number:03d}{suffix}"
            Image.fromarray(numpy.ascontiguousarray(pixels)).save(path)
            written[str(path)] = pixels
    return written


def write_wav(path: Path, signal: numpy.ndarray, rate: int = 8000) -> numpy.ndarray:
    """A signal (samples,) or (samples, channels) from -1 to 1 as a WAV file of 16 bits.

    Returns:
        the values that the file holds, as float32.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = (numpy.clip(signal, -1, 1) * 32767).round().astype("<i2")
    with wave.open(str(path), "wb") as opened:
        opened.setnchannels(1 if whole.ndim == 1 else whole.shape[1])
        opened.setsampwidth(2)
        opened.setframerate(rate)
        opened.writeframes(whole.tobytes())
    return (whole / 32768).astype(numpy.float32)


def write_tones(root: Path, counts: Mapping[str, int], seconds: float = 0.25, rate: int = 8000) -> None:
    """A folder for each class under `root`, with so many WAV files in it: tones in noise, each class higher."""
    random = numpy.random.default_rng(0)
    time = numpy.arange(round(seconds * rate)) / rate
    for label, (name, count) in enumerate(counts.items()):
        for number in range(count):
            tone = numpy.sin(2 * numpy.pi * (300 + 500 * label) * time + random.uniform(0, 6))
            write_wav(root / name / f"{number:03d}.wav", 0.5 * tone + 0.1 * random.standard_normal(len(time)), rate)


# --- tables, lines of JSON, arrays ----------------------------------------------------------------------------


def write_patients(file: Path, count: int = 240) -> str:
    """A CSV of visits of 60 patients, a day after the other, with holes. `sick`, `cost`, `fever` and `cough` depend on
    age, smoking and city; the drug `new` is given at the last eighth of the visits only."""
    draw = numpy.random.default_rng(0)
    lines = ["patient,day,age,visits,smoker,city,drug,sick,cost,fever,cough"]
    for number in range(count):
        age, smoker, city = draw.normal(50, 12), draw.random() < 0.3, draw.choice(["Bonn", "Kiel", "Ulm"])
        drug = "new" if number >= count * 7 // 8 else draw.choice(["a", "b"])
        risk = (age - 50) / 12 + 2 * smoker + (city == "Kiel") + 0.3 * draw.normal()
        cells = [
            f"p{number % 60}",
            f"2024-{1 + number // 28:02}-{1 + number % 28:02}",
            f"{age:.3f}",
            str(draw.integers(1, 9)),
            str(bool(smoker)).lower(),
            city,
            drug,
            "yes" if risk > 0.8 else "no",
            f"{1e4 * risk + 5e4:.1f}",
            str(int(risk > 1)),
            str(int(smoker or city == "Ulm")),
        ]
        for place in (2, 5):  # an age, a city that nobody noted
            cells[place] = "" if draw.random() < 0.1 else cells[place]
        lines.append(",".join(cells))
    file.write_text("\n".join(lines) + "\n")
    return str(file)


GOOD, BAD = ["good", "great", "lovely", "fine"], ["bad", "awful", "poor", "sad"]
FILL = ["the", "a", "film", "was", "and", "it", "plot", "actors", "with", "music"]


def reviews(count: int = 160) -> list[dict[str, Any]]:
    """Short texts of several lengths; the words in them tell the mood, and the stars."""
    draw, rows = random.Random(0), []
    for number in range(count):
        words = draw.choices(FILL, k=draw.randint(2, 12))
        for _ in range(3):
            words.insert(draw.randrange(len(words)), draw.choice(GOOD if number % 2 else BAD))
        rows.append(
            {
                "review": " ".join(words) + ".",
                "mood": "glad" if number % 2 else "cross",
                "stars": draw.uniform(3, 5) if number % 2 else draw.uniform(1, 3),
                "who": f"n{number % 40}",
                "day": f"2024-01-{number % 28 + 1:02d}",
            }
        )
    return rows


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """A CSV of rows whose values need no quotes."""
    lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def write_wave(file: Path, count: int = 400) -> str:
    """A CSV of hours: a wave of 24 of them with some noise, and whether it is day."""
    draw, start = numpy.random.default_rng(1), datetime.datetime(2024, 1, 1)
    load = 500 + 100 * numpy.sin(numpy.arange(count) / 24 * 2 * numpy.pi) + draw.normal(size=count)
    rows = [
        {
            "when": (start + datetime.timedelta(hours=hour)).isoformat(),
            "load": value,
            "kind": "day" if hour % 24 < 12 else "night",
        }
        for hour, value in enumerate(load)
    ]
    return write_rows(file, rows)


def write_lines(file: Path, records: Sequence[Any]) -> None:
    """JSON lines, compressed where the name ends in .gz."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    file.write_bytes(gzip.compress(text) if file.suffix == ".gz" else text)


def write_clouds(folder: Path, count: int = 600, files: int = 3) -> str:
    """Three clouds of points around (2, 0), (0, 2) and (-2, -2), by the names of their classes; y = x0 - 2 x1 + 1."""
    numbers = numpy.random.default_rng(5)
    centres = {"ash": (2.0, 0.0), "birch": (0.0, 2.0), "cedar": (-2.0, -2.0)}
    for file in range(files):
        records = []
        for _ in range(count // files):
            name = str(numbers.choice(list(centres)))
            point = (numbers.normal(size=2) * 0.5 + centres[name]).round(4).tolist()
            records.append({"inputs": point, "kind": name, "y": round(point[0] - 2 * point[1] + 1, 4)})
        write_lines(folder / f"{file}.jsonl", records)
    return str(folder / "*.jsonl")


def vectors(count: int = 240) -> dict[str, numpy.ndarray]:
    """Vectors of 3 around the corner of a cube that tells their class, 0 to 3; and two numbers from them."""
    draw = numpy.random.default_rng(2)
    kinds = numpy.arange(count) % 4
    points = 4.0 * numpy.stack([kinds % 2, kinds // 2, kinds * 0], 1) + draw.normal(size=(count, 3))
    values = points @ numpy.array([[1.0, 0.0], [-2.0, 1.0], [0.0, 3.0]]) + 10
    return {"points": points.astype("float32"), "kinds": kinds, "values": values}


def write_npz(file: Path, **held: numpy.ndarray) -> str:
    numpy.savez(file, **held)  # type: ignore[arg-type]
    return str(file)
