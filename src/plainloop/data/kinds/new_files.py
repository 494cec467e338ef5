"""New files to predict from: found by what is typed, and read one by one."""

import functools
import glob
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plainloop.data.dataset import BaseDataset
from plainloop.data.kinds.checks import as_list
from plainloop.data.kinds.columns import targets_beside
from plainloop.data.kinds.dialect import Reading
from plainloop.data.kinds.frames import opened
from plainloop.data.kinds.pictures import SUFFIXES, decode
from plainloop.data.kinds.source import Source
from plainloop.data.raw import Raw
from plainloop.data.reading import New, Reader
from plainloop.data.resizing import fitted
from plainloop.errors import UserError, first_line, listed
from plainloop.places import find_path


class Unread(BaseDataset):
    """Files that are read when they are asked for: (input, place), or (something of that form, -1 - place).

    Args:
        read: a file's content as an input; whatever it raises, the file can't be read.
        like: an input of the same form.
    """

    files: Sequence[str]

    def __init__(self, files: Sequence[str], read: Callable[[str], Tensor], like: Tensor):
        self.files, self.read, self.like = files, read, like

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        try:
            return self.read(self.files[index]), index
        except Exception:  # whatever a decoder makes of a broken file; `why` tells it
            return self.like, -1 - index

    def why(self, index: int) -> str:
        """Why a file can't be read, in a few words."""
        file = self.files[index]
        try:
            if os.path.getsize(file) == 0:
                return "the file is empty"
            self.read(file)
        except Exception as error:
            return first_line(error).partition(file)[0].rstrip(" '\"")[:200] or type(error).__name__
        return "it could not be read, and now it can"

    def where(self, index: int) -> str:
        return self.files[index]


def files_in(given: Any, suffixes: Sequence[str], what: str) -> list[str]:
    """The files that `input=` means, in the order of their names: a file, a folder with all that lies in it, a pattern,
    a table with a column of paths, "-" for paths on standard input; or a list of paths. Raises UserError.

    Args:
        suffixes: of the files in a folder that are meant.
        what: they are, in words: "images".
    """
    if not isinstance(given, str | os.PathLike):
        return [os.fspath(path) for path in given]
    given = os.fspath(given)
    if given == "-":
        return [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
    place = find_path(given)
    if place.is_dir():
        found = list(_below(str(place), suffixes))
        if not found:
            raise UserError(f"input={given}: there are no {what} in it ({listed(suffixes, 6)}).")
        return found
    if place.is_file() and place.suffix.lower() in TABLES:
        return _paths_in_table(given)
    if place.exists():
        return [str(place)]
    found = sorted(file for file in glob.glob(os.path.expanduser(given), recursive=True) if os.path.isfile(file))
    if not found:
        raise UserError(f"input={given}: there is no such file or folder, and no file that fits such a pattern.")
    return found


def _below(folder: str, suffixes: Sequence[str]) -> Iterator[str]:
    """The files in a folder and below it, by name; hidden ones and links to folders are passed over."""
    with os.scandir(folder) as entries:
        everything = sorted(entries, key=lambda entry: entry.name)
    for entry in everything:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _below(entry.path, suffixes)
        elif os.path.splitext(entry.name)[1].lower() in suffixes and entry.is_file():
            yield entry.path


def labels_of(given: Any, files: Sequence[str], node: Mapping[str, Any], spec: Any) -> tuple[Tensor, Tensor]:
    """The targets of files, as `Reader.truths`: of a table, its column; of a folder, the class whose folder a file lies
    in. Raises UserError."""
    place = find_path(str(given))
    if place.is_file() and place.suffix.lower() in TABLES:
        names = as_list(node.get("target")) or ["label"]
        separator = node.get("labels_separator")
        source, frame = opened(str(given), names if spec.class_names or separator else (), key="input")
        usual = (c for word in OF_TARGETS for c in frame.columns if c.lower() == word)
        if not node.get("target"):
            names = [next(usual, names[0])]
        return targets_beside(frame, names, spec, separator, source, "data.target")
    classes = list(spec.class_names or [])
    if not place.is_dir() or not classes:
        raise UserError(
            f"input={given}: what is right there? A folder with a folder for each class tells, or a table with a "
            "column of paths and one of labels."
        )
    found = []
    for file in files:
        parts = Path(file).relative_to(place).parts[:-1]
        folder = next((part for part in parts if part in classes), None)
        if folder is None:
            raise UserError(
                f"input={given}: {file} lies in no folder that is called as a class ({listed(classes, 8)})."
            )
        found.append(classes.index(folder))
    return torch.tensor(found), torch.ones(len(found), dtype=torch.bool)


TABLES = (".csv", ".tsv", ".parquet", ".jsonl")
OF_TARGETS = ("label", "class", "target", "labels", "category")
USUAL = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "audio")


def _paths_in_table(given: str) -> list[str]:
    """The column of paths of a table, which start from its folder."""
    import polars

    source, frame = opened(given, key="input")
    name = next((c for word in USUAL for c in frame.columns if c.lower() == word), None)
    if name is None:
        raise UserError(f"input={given}: which column has the paths? Call it path. It has: {listed(frame.columns)}.")
    paths = frame[name].cast(polars.String)
    if paths.has_nulls():
        raise UserError(f"{source.place(paths.is_null().arg_true()[0])}: {name} is missing.")
    return [str(source.parent / path) for path in paths.to_list()]


def rows_in(reader: Reader, given: Any, words: Sequence[str]) -> tuple[Source, Any]:
    """The rows of another table, as a polars frame, and its file: read as the training file was, whose marks in numbers
    the run knows; or rows that were given. Raises UserError.

    Args:
        words: columns whose values are words.
    """
    import polars
    import polars.selectors as cs

    if isinstance(given, str | os.PathLike):
        like = Source(Path(str(reader.node.get("path"))))
        like.marks = {name: (mark, groups) for name, (mark, groups) in reader.reading("marks").items()}
        like.units, like.words = dict(reader.reading("units")), list(words)
        file, frame = opened(str(given), words, Reading.among(reader.node), "input", like)
    else:
        file, frame = Source(Path("input")), given if isinstance(given, polars.DataFrame) else polars.DataFrame(given)
        if frame.height == 0:
            raise UserError("input: there are no rows in it.")
    return file, frame.with_columns(cs.decimal().cast(polars.Float64)).with_columns(cs.float().fill_nan(None))


class ImageReader(Reader):
    """Image files, decoded as the training images were: to their size, in their colours."""

    def open(self, given: Any) -> New:
        channels, *size = self.reading("shape")
        deep = not self.reading("bytes")
        like = torch.zeros(channels, *size, dtype=torch.float32 if deep else torch.uint8)
        read = functools.partial(decode, size=(size[0], size[1]), channels=channels, deep=deep)
        files = files_in(given, SUFFIXES, "images")
        pictures = Unread(files, read, like)
        return New(pictures, "file", files, pictures.why)

    def truths(self, given: Any, new: New) -> tuple[Tensor, Tensor]:
        return labels_of(given, new.names, self.node, self.spec)

    def raw(self) -> Raw:
        channels, height, width = self.reading("shape")
        return Pixels(channels, height, width, whole=self.reading("bytes"))


# `decode`, as a program that has only Pillow does it; the size is the exported file's affair.
OPENED = """\
picture = Image.open(path)
picture.draft("L" if facts["mode"] == "L" else None, (facts["draft"], facts["draft"]))
picture = ImageOps.exif_transpose(picture)
if picture.has_transparency_data:
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture.convert("RGBA"))
"""
OF_A_PICTURE = f"""\
{OPENED}\
if picture.mode.startswith("I"):  # 16 bits
    picture = Image.fromarray((numpy.asarray(picture) / 257).round().astype("uint8"))
pixels = numpy.asarray(picture.convert(facts["mode"]))
inputs = {{"image": pixels.reshape(1, picture.height, picture.width, -1)}}
"""
OF_A_DEEP_PICTURE = f"""\
{OPENED}\
if not picture.mode.startswith(("I", "F")):
    picture = picture.convert(facts["mode"])
pixels = numpy.asarray(picture).astype("float32") / {{"I": 65535, "F": 1}}.get(picture.mode[0], 255)
pixels = pixels.reshape(1, picture.height, picture.width, -1)
inputs = {{"image": numpy.repeat(pixels, 3 // pixels.shape[3], 3) if facts["mode"] == "RGB" else pixels}}
"""


class Pixels(Raw):
    """Images of any size, (N, H, W, C) as Pillow and NumPy have them, which are brought to one size.

    Args:
        channels, height, width: of what comes out.
        whole: uint8; else float32, from 0 to 1.
    """

    def __init__(self, channels: int, height: int, width: int, whole: bool):
        facts = {"mode": "L" if channels == 1 else "RGB", "draft": 2 * max(height, width)}
        script = OF_A_PICTURE if whole else OF_A_DEEP_PICTURE
        sizes = {
            "height": (height + 3, height, 2 * height, height + height // 2 + 1),
            "width": (width + 5, width, 2 * width, max(1, width - width // 3)),
        }
        kind, axes = torch.uint8 if whole else torch.float32, ("batch", "height", "width", channels)
        super().__init__({"image": kind}, {"image": axes}, sizes, facts, script, "from PIL import Image, ImageOps\n")
        self.size, self.whole = (height, width), whole

    def draw(self, sizes: Mapping[str, int], generator: torch.Generator) -> dict[str, Tensor]:
        drawn = super().draw(sizes, generator)["image"]
        return {"image": drawn if self.whole else drawn.sigmoid()}

    def forward(self, **inputs: Tensor) -> Tensor:
        return fitted(inputs["image"].permute(0, 3, 1, 2), *self.size)

    def back(self, batch: Tensor) -> dict[str, Tensor]:
        return {"image": batch.permute(0, 2, 3, 1)}
