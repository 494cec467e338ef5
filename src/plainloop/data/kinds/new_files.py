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
from plainloop.data.kinds.frames import opened
from plainloop.data.kinds.pictures import SUFFIXES, decode
from plainloop.data.reading import New, Reader
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
