"""The other sets of torchvision, in the files and folders that its classes read: a few images a split.

Each writer makes what torchvision looks for under `root`.
"""

import bz2
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

from tests.formats import balanced_labels, class_images, write_idx


def _colour(path: Path, label: int, seed: int, side: int = 40, grey: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = class_images(numpy.array([label]), side, 1 if grey else 3, seed)[0].transpose(1, 2, 0)
    Image.fromarray(image[:, :, 0] if grey else image).save(path)


def _lines(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def write_mnist_like(root: Path, name: str) -> None:
    """EMNIST's and QMNIST's files, which are MNIST's under other names."""
    raw = root / name / "raw"
    for split, number in (("train", 1), ("test", 2)):
        labels = balanced_labels(40, number)
        images = class_images(labels, 28, seed=number)[:, 0]
        if name == "EMNIST":
            for kind, first in (("balanced", 0), ("letters", 1)):  # letters begin with 1
                write_idx(raw / f"emnist-{kind}-{split}-images-idx3-ubyte", images.transpose(0, 2, 1).copy())
                write_idx(raw / f"emnist-{kind}-{split}-labels-idx1-ubyte", labels + numpy.uint8(first))
        else:
            write_idx(raw / f"qmnist-{split}-images-idx3-ubyte", images)
            rest = numpy.random.default_rng(0).integers(0, 4000, (40, 7))  # writer, place in the archive, ...
            numbers = numpy.concatenate([labels[:, None], rest], 1).astype(">i4")
            header = struct.pack(">BBBB", 0, 0, 12, 2) + struct.pack(">2I", *numbers.shape)
            (raw / f"qmnist-{split}-labels-idx2-int").write_bytes(header + numbers.tobytes())


def write_cifar100(root: Path) -> None:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for split, seed in (("train", 1), ("test", 2)):
        labels = balanced_labels(50, seed, classes=10)
        data = class_images(labels, 32, 3, seed).reshape(50, -1)
        content = {"fine_labels": labels.tolist(), "coarse_labels": (labels // 5).tolist(), "data": data}
        (folder / split).write_bytes(pickle.dumps(content, protocol=2))
    names = {"fine_label_names": [f"fine {number}" for number in range(100)], "coarse_label_names": ["a"] * 20}
    (folder / "meta").write_bytes(pickle.dumps(names, protocol=2))


def write_svhn(root: Path) -> None:
    from scipy.io import savemat

    root.mkdir(parents=True, exist_ok=True)
    for split, seed in (("train", 1), ("test", 2)):
        labels = balanced_labels(40, seed)
        images = class_images(labels, 32, 3, seed)  # stored (32, 32, 3, N), and the digit 0 as 10
        stored = numpy.where(labels == 0, 10, labels).astype(numpy.uint8)[:, None]
        savemat(root / f"{split}_32x32.mat", {"X": images.transpose(2, 3, 1, 0), "y": stored})


def write_usps(root: Path) -> None:
    """LIBSVM's text format: label (from 1), then index:value with values from -1 to 1."""
    root.mkdir(parents=True, exist_ok=True)
    for name, seed in (("usps.bz2", 1), ("usps.t.bz2", 2)):
        labels = balanced_labels(40, seed)
        values = class_images(labels, 16, seed=seed).reshape(40, -1) / 127.5 - 1
        lines = [
            f"{label + 1} " + " ".join(f"{index}:{value:.6f}" for index, value in enumerate(row, 1)) + " \n"
            for label, row in zip(labels, values, strict=True)
        ]
        (root / name).write_bytes(bz2.compress("".join(lines).encode()))


def write_stl10(root: Path) -> None:
    """Raw bytes, each plane column by column, and labels from 1."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for split, seed in (("train", 1), ("test", 2)):
        labels = balanced_labels(20, seed)
        (folder / f"{split}_X.bin").write_bytes(class_images(labels, 96, 3, seed).transpose(0, 1, 3, 2).tobytes())
        (folder / f"{split}_y.bin").write_bytes((labels + 1).astype(numpy.uint8).tobytes())
    (folder / "unlabeled_X.bin").write_bytes(b"")
    _lines(folder / "class_names.txt", *(f"class {number}" for number in range(10)))


def write_semeion(root: Path) -> None:
    """Text: 256 pixels of 0 and 1, then ten columns of which one is 1."""
    labels = balanced_labels(40)
    pixels = (class_images(labels, 16).reshape(40, -1) > 100).astype(float)
    root.mkdir(parents=True, exist_ok=True)
    numpy.savetxt(root / "semeion.data", numpy.concatenate([pixels, numpy.eye(10)[labels]], 1), "%.4f")


def write_food101(root: Path) -> None:
    for split, seed in (("train", 0), ("test", 50)):
        listed = {name: [f"{name}/{seed + number}" for number in range(6)] for name in ("pie", "ramen")}
        _lines(root / f"food-101/meta/{split}.json", json.dumps(listed))
        for label, paths in enumerate(listed.values()):
            for number, path in enumerate(paths):
                _colour(root / f"food-101/images/{path}.jpg", label, seed + number)


def write_flowers102(root: Path) -> None:
    from scipy.io import savemat

    folder = root / "flowers-102"
    labels = numpy.arange(24) % 3
    for number, label in enumerate(labels, 1):
        _colour(folder / f"jpg/image_{number:05d}.jpg", int(label), number)
    savemat(folder / "imagelabels.mat", {"labels": labels[None] + 1})
    numbers = numpy.arange(1, 25)[None]
    savemat(folder / "setid.mat", {"trnid": numbers[:, :12], "valid": numbers[:, 12:18], "tstid": numbers[:, 18:]})


def write_dtd(root: Path) -> None:
    for split, seed in (("train", 0), ("val", 30), ("test", 60)):
        names = [f"{kind}/{kind}_{seed + number:04d}.jpg" for kind in ("dotted", "striped") for number in range(5)]
        _lines(root / f"dtd/dtd/labels/{split}1.txt", *names)
        for number, name in enumerate(names):
            _colour(root / "dtd/dtd/images" / name, int(name.startswith("striped")), seed + number)


def write_aircraft(root: Path) -> None:
    folder = root / "fgvc-aircraft-2013b/data"
    _lines(folder / "variants.txt", "A320", "Boeing 707")
    _lines(folder / "manufacturers.txt", "Airbus", "Boeing")
    for split, seed in (("train", 0), ("val", 30), ("test", 60)):
        _lines(
            folder / f"images_variant_{split}.txt",
            *(f"{seed + number:07d} {('A320', 'Boeing 707')[number % 2]}" for number in range(10)),
        )
        _lines(
            folder / f"images_manufacturer_{split}.txt",
            *(f"{seed + number:07d} {('Airbus', 'Boeing')[number % 2]}" for number in range(10)),
        )
        for number in range(10):
            _colour(folder / f"images/{seed + number:07d}.jpg", number % 2, seed + number)


def write_pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    for split, seed in (("trainval", 0), ("test", 30)):
        names = [f"{breed}_{seed + number}" for breed in ("Abyssinian", "pug") for number in range(6)]
        lines = [f"{name} {1 + name.startswith('pug')} {1 + name.startswith('pug')} 1" for name in names]
        _lines(folder / f"annotations/{split}.txt", *lines)
        for number, name in enumerate(names):
            _colour(folder / f"images/{name}.jpg", int(name.startswith("pug")), seed + number)


def write_folders(
    root: Path,
    *classes: str,
    suffix: str = ".jpg",
    each: int = 6,
    seed: int = 0,
    grey: bool = False,
    name: str = "image_{:04d}",
) -> None:
    """A folder for each class, as many sets have them."""
    for label, folder in enumerate(classes):
        for number in range(each):
            _colour(root / folder / (name.format(number + 1) + suffix), label, seed + 10 * label + number, grey=grey)


def write_gtsrb(root: Path) -> None:
    folder = root / "gtsrb/GTSRB"
    write_folders(folder / "Training", "00000", "00001", "00002", suffix=".ppm")
    write_folders(folder / "Final_Test", "Images", suffix=".ppm", seed=50)
    _lines(
        root / "gtsrb/GT-final_test.csv",
        "Filename;Width;Height;ClassId",
        *(f"image_{number:04d}.ppm;40;40;{number % 3}" for number in range(1, 7)),
    )


def write_stanford_cars(root: Path) -> None:
    from scipy.io import savemat

    folder = root / "stanford_cars"
    kind = [("fname", object), ("class", object)]
    for split, file, seed in (("train", "devkit/cars_train_annos", 0), ("test", "cars_test_annos_withlabels", 50)):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        rows = [(f"{number:05d}.jpg", number % 2 + 1) for number in range(10)]
        savemat(folder / f"{file}.mat", {"annotations": numpy.array(rows, dtype=kind)[None]})
        for number in range(10):
            _colour(folder / f"cars_{split}/{number:05d}.jpg", number % 2, seed + number)
    savemat(folder / "devkit/cars_meta.mat", {"class_names": numpy.array([["Audi", "Fiat"]], dtype=object)})


def write_country211(root: Path) -> None:
    for seed, split in enumerate(("train", "valid", "test")):
        write_folders(root / "country211" / split, "AD", "AE", seed=30 * seed)


def write_rendered_sst2(root: Path) -> None:
    for seed, split in enumerate(("train", "valid", "test")):
        write_folders(root / "rendered-sst2" / split, "negative", "positive", suffix=".png", seed=30 * seed)


def write_sun397(root: Path) -> None:
    _lines(root / "SUN397/ClassName.txt", "/a/abbey", "/b/bar/inside")
    for label, folder in enumerate(("a/abbey", "b/bar/inside")):
        for number in range(10):
            _colour(root / "SUN397" / folder / f"sun_{number:04d}.jpg", label, 20 * label + number)


def write_imagenette(root: Path) -> None:
    for seed, split in enumerate(("train", "val")):
        write_folders(root / "imagenette2-160" / split, "n01440764", "n02102040", suffix=".jpeg", seed=30 * seed)


def write_omniglot(root: Path) -> None:
    write_folders(
        root / "omniglot-py/images_background/Greek", "character01", "character02", suffix=".png", each=10, grey=True
    )
    (root / "omniglot-py/images_background.zip").write_bytes(b"")


def write_caltech101(root: Path) -> None:
    write_folders(root / "caltech101/101_ObjectCategories", "BACKGROUND_Google", "ant", "beaver", each=10)


def write_caltech256(root: Path) -> None:
    for number, name in enumerate(("001.ak47", "002.bear")):
        write_folders(
            root / "caltech256/256_ObjectCategories", name, each=10, seed=20 * number, name=f"{number + 1:03d}_{{:04d}}"
        )


def write_fer2013(root: Path) -> None:
    labels = balanced_labels(30, classes=7)
    rows = [
        f"{label},{' '.join(map(str, image.ravel()))},{'PublicTest' if number % 3 == 0 else 'Training'}"
        for number, (label, image) in enumerate(zip(labels, class_images(labels, 48), strict=True))
    ]
    _lines(root / "fer2013/fer2013.csv", "emotion,pixels,Usage", *rows)


def write_clevr(root: Path) -> None:
    for split, seed in (("train", 0), ("val", 30), ("test", 60)):
        scenes = []
        for number in range(10):
            name = f"CLEVR_{split}_{number:06d}.png"
            _colour(root / "clevr/CLEVR_v1.0/images" / split / name, number % 3, seed + number)
            scenes.append({"image_filename": name, "objects": [{}] * (3 + number % 3)})
        if split != "test":
            _lines(root / f"clevr/CLEVR_v1.0/scenes/CLEVR_{split}_scenes.json", json.dumps({"scenes": scenes}))


def write_inaturalist(root: Path) -> None:
    worm = "00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris"
    grass = "00001_Plantae_Tracheophyta_Liliopsida_Poales_Poaceae_Poa_annua"
    write_folders(root / "2021_train_mini", worm, grass, each=10)


def write_places365(root: Path) -> None:
    _lines(root / "categories_places365.txt", "/a/airfield 0", "/a/alcove 1")
    for split, name, file in (
        ("train", "data_256_standard", "places365_train_standard"),
        ("val", "val_256", "places365_val"),
    ):
        names = [f"{number:05d}.jpg" for number in range(10)]
        _lines(root / f"{file}.txt", *(f"/{path} {number % 2}" for number, path in enumerate(names)))
        for number, path in enumerate(names):
            _colour(root / name / path, number % 2, number + 30 * (split == "val"))


def write_imagenet(root: Path) -> None:
    import torch

    root.mkdir(parents=True, exist_ok=True)
    names = {"n01440764": ("tench", "Tinca tinca"), "n01443537": ("goldfish", "Carassius auratus")}
    torch.save((names, ["n01440764"]), root / "meta.bin")
    for seed, split in enumerate(("train", "val")):
        write_folders(root / split, *names, suffix=".JPEG", seed=30 * seed)


def write_eurosat(root: Path) -> None:
    write_folders(root / "eurosat/2750", "Forest", "River", each=10)


# Name -> (writer, arguments of torchvision's class, the splits that it has and how they are asked for).
BOTH = {"train": {"split": "train"}, "test": {"split": "test"}}
ALL = {**BOTH, "val": {"split": "val"}}
SETS: dict[str, tuple[Callable[[Path], object], dict[str, Any], dict[str, dict[str, Any]]]] = {
    "EMNIST": (lambda root: write_mnist_like(root, "EMNIST"), {"split": "letters"},
               {"train": {"train": True}, "test": {"train": False}}),
    "QMNIST": (lambda root: write_mnist_like(root, "QMNIST"), {}, {"train": {"train": True}, "test": {"train": False}}),
    "CIFAR100": (write_cifar100, {}, {"train": {"train": True}, "test": {"train": False}}),
    "SVHN": (write_svhn, {}, BOTH),
    "USPS": (write_usps, {}, {"train": {"train": True}, "test": {"train": False}}),
    "STL10": (write_stl10, {}, BOTH),
    "SEMEION": (write_semeion, {}, {"train": {}}),
    "Food101": (write_food101, {}, BOTH),
    "Flowers102": (write_flowers102, {}, ALL),
    "DTD": (write_dtd, {}, ALL),
    "FGVCAircraft": (write_aircraft, {"annotation_level": "manufacturer"}, ALL),
    "OxfordIIITPet": (write_pets, {}, {"train": {"split": "trainval"}, "test": {"split": "test"}}),
    "GTSRB": (write_gtsrb, {}, BOTH),
    "StanfordCars": (write_stanford_cars, {}, BOTH),
    "Country211": (write_country211, {}, {**BOTH, "val": {"split": "valid"}}),
    "RenderedSST2": (write_rendered_sst2, {}, ALL),
    "SUN397": (write_sun397, {}, {"train": {}}),
    "Imagenette": (write_imagenette, {"size": "160px"}, {"train": {"split": "train"}, "val": {"split": "val"}}),
    "Omniglot": (write_omniglot, {}, {"train": {}}),
    "Caltech101": (write_caltech101, {}, {"train": {}}),
    "Caltech256": (write_caltech256, {}, {"train": {}}),
    "FER2013": (write_fer2013, {}, BOTH),
    "CLEVRClassification": (write_clevr, {}, {"train": {"split": "train"}, "val": {"split": "val"}}),
    "INaturalist": (write_inaturalist, {"version": "2021_train_mini"}, {"train": {}}),
    "Places365": (write_places365, {"small": True}, {"train": {"split": "train-standard"}, "val": {"split": "val"}}),
    "ImageNet": (write_imagenet, {}, {"train": {"split": "train"}, "val": {"split": "val"}}),
    "EuroSAT": (write_eurosat, {}, {"train": {}}),
}  # fmt: skip
