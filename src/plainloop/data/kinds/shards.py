"""Files that hold one data set together, found by a pattern, and the split that each of their lines is drawn into."""

import glob
import gzip
import hashlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from plainloop import seeding
from plainloop.errors import UserError
from plainloop.places import ROOT

BLOCK, BLOCKS = 4096, 1024  # bytes that are looked at in one place, and in how many places altogether


@dataclass
class Shards:
    """The files that a pattern finds, in the order of their names.

    Args:
        files: as they would be typed.
        names: from the pattern's first folder that is fixed on, without .gz: what stays when the folder is moved.
    """

    files: list[str]
    names: list[str]

    def size(self) -> int:
        """Bytes on the disk."""
        return sum(os.path.getsize(file) for file in self.files)

    def digest(self) -> str:
        """A SHA-256 of their names and sizes, and of what stands in evenly spread places, a thousand altogether: nobody
        wants to read them all to see whether they have changed."""
        sizes = [os.path.getsize(file) for file in self.files]
        found = hashlib.sha256(repr(list(zip(self.names, sizes, strict=True))).encode())
        blocks = max(1, BLOCKS // max(1, len(self.files)))
        for path, size in zip(self.files, sizes, strict=True):
            count, last = min(blocks, -(-size // BLOCK)), max(0, size - BLOCK)
            with open(path, "rb") as file:
                for number in range(count):
                    file.seek(last // 2 if count == 1 else number * last // (count - 1))
                    found.update(file.read(BLOCK))
        return found.hexdigest()


def found_shards(pattern: str, argument: str) -> Shards:
    """A relative pattern is looked for in the working directory, then in the checkout. Raises UserError."""
    given = Path(pattern).expanduser()
    for place in [given] if given.is_absolute() else [given, ROOT / given]:
        files = sorted(file for file in glob.glob(str(place), recursive=True) if os.path.isfile(file))
        if place.is_file():  # whatever brackets its name may hold
            return Shards([str(place)], [place.name.removesuffix(".gz")])
        if files:
            fixed = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), place.parts[:-1]))
            names = [Path(file).relative_to(fixed).as_posix().removesuffix(".gz") for file in files]
            return Shards(files, names)
    key = argument if argument == "input" else f"data.{argument}"
    if given.is_dir():
        raise UserError(f"{key}={pattern}: this is a folder; name its files: {key}='{pattern}/*.jsonl'")
    raise UserError(f"{key}={pattern}: there is no such file. For many at once, in quotes: {key}='FOLDER/*.jsonl'")


def opened(file: str) -> BinaryIO | gzip.GzipFile:
    """A file to be read, decompressed where its name ends in .gz."""
    return gzip.open(file) if file.endswith(".gz") else open(file, "rb", buffering=1 << 20)


def draws(name: str, seed: int, first: int) -> Iterator[float]:
    """A number in [0, 1) for each line of a file from `first` (counted from 0) on. It follows from (seed, name, line),
    so that a line stays in its split whatever else there is, and wherever the reading begins."""
    of_file = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    for block in itertools.count(first // 1024):
        generator = seeding.generator(seed, seeding.SPLIT, of_file, block)
        yield from torch.rand(1024, generator=generator, dtype=torch.float64).tolist()[first % 1024 :]
        first = 0
