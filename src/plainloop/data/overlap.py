"""The same sample in two splits: then a measurement isn't one of what is new."""

import hashlib
import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from plainloop import seeding
from plainloop.data.dataset import asked, beneath, file_of, length, size
from plainloop.data.splits import Data

MOST_SAMPLES, MOST_BYTES = 200_000, 2_000_000_000  # of larger data sets nobody waits for the answer
PIECE = 4096  # bytes


def shared_samples(data: Data) -> dict[str, list[tuple[int, int]]]:
    """The samples of val and test that are in train as well: {"test": [(index in test, index in train), ...]}.

    Samples in memory are the same when inputs and targets are, byte by byte, and those in files (which a data set
    lists as `samples`, `paths` or `files`) when the files' contents are. Files are read only as far as needed: in
    pieces where their sizes are equal, whole where the pieces are. A data set may tell by `identities()`, a value for
    each sample, which are the same (texts are when they are the same words, whatever their label).
    """
    found: dict[str, list[tuple[int, int]]] = {}
    train_rows, train_files = _rows(data.train), _files(data.train)
    for split in ("val", "test"):
        rows, files = _rows(data[split]), _files(data[split])
        told, train_told = _identities(data[split]), _identities(data.train)
        if told is not None and train_told is not None:
            place = {value: index for index, value in reversed(list(enumerate(train_told)))}  # the first of equals
            found[split] = [(index, place[value]) for index, value in enumerate(told) if value in place]
        elif rows is not None and train_rows is not None:
            found[split] = _shared_rows(rows, train_rows)
        elif files is not None and train_files is not None:
            found[split] = _shared_files(files, train_files)
    return {split: pairs for split, pairs in found.items() if pairs}


def _identities(dataset: Dataset | None) -> list[Any] | None:
    """What a data set says of each sample by `identities`; None for one that doesn't."""
    identities, chosen = asked(dataset, "identities"), beneath(dataset, "identities")[1]
    if identities is None:
        return None
    values = list(identities())
    return values if chosen is None else [values[index] for index in chosen.tolist()]


def _rows(dataset: Dataset | None) -> tuple[Tensor, Tensor] | None:
    """Inputs and targets of a data set that holds them as tensors; None for others, and for large ones."""
    inner, chosen = beneath(dataset)
    inputs, targets = getattr(inner, "inputs", None), getattr(inner, "targets", None)
    if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor) or len(inputs) != len(targets):
        return None
    if len(inputs) > MOST_SAMPLES or inputs.nbytes > MOST_BYTES:
        return None
    return (inputs, targets) if chosen is None else (inputs[chosen], targets[chosen])


def _shared_rows(some: tuple[Tensor, Tensor], train: tuple[Tensor, Tensor]) -> list[tuple[int, int]]:
    alike = all(a.shape[1:] == b.shape[1:] and a.dtype == b.dtype for a, b in zip(some, train, strict=True))
    if not alike or some[0].numel() == 0:
        return []
    hashes = [list(zip(_hashes(inputs), _hashes(targets), strict=True)) for inputs, targets in (some, train)]
    place = {value: index for index, value in reversed(list(enumerate(hashes[1])))}  # the first of equals
    pairs = []
    for index, value in enumerate(hashes[0]):
        other = place.get(value)
        if other is not None and all(torch.equal(a[index], b[other]) for a, b in zip(some, train, strict=True)):
            pairs.append((index, other))
    return pairs


def _hashes(inputs: Tensor) -> list[int]:
    """A number of 64 bits for every sample: the sum of its bytes, 8 at a time, mixed and weighted by their place.
    Equal samples have equal ones, others hardly ever."""
    found: list[int] = []
    for some in inputs.split(1024) if inputs.numel() else ():
        row = some.detach().cpu().contiguous().reshape(len(some), -1).view(torch.uint8)
        words = torch.nn.functional.pad(row, (0, -row.shape[1] % 8)).view(torch.int64)
        words = words * 0x1E3779B97F4A7C15
        weights = torch.randint(1 << 62, (words.shape[1],), generator=seeding.generator(0))
        found += ((words ^ (words >> 31)) * weights).sum(1).tolist()
    return found


def _files(dataset: Dataset | None) -> list[str] | None:
    """The files of a data set that lists them; None for others, and for large ones."""
    if dataset is None or not 0 < (size(dataset) or 0) <= MOST_SAMPLES:
        return None
    inner, chosen = beneath(dataset)
    files = []
    for index in range(length(inner)) if chosen is None else chosen.tolist():
        file = file_of(inner, index)
        if file is None:
            return None
        files.append(file)
    return files


def _shared_files(some: list[str], train: list[str]) -> list[tuple[int, int]]:
    left, right = list(range(len(some))), list(range(len(train)))
    keys: tuple[dict[int, Any], dict[int, Any]] = ({}, {})
    for key_of in (_size, _pieces, _content):  # each closer than the one before, of what is still in question
        keys = _keys(some, left, key_of), _keys(train, right, key_of)
        common = set(keys[0].values()) & set(keys[1].values()) - {None}
        left = [index for index in left if keys[0][index] in common]
        right = [index for index in right if keys[1][index] in common]
    place = {keys[1][index]: index for index in reversed(right)}
    return [(index, place[keys[0][index]]) for index in left]


def _keys(files: list[str], chosen: Iterable[int], key_of: Any) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for index in chosen:
        try:
            found[index] = key_of(files[index])
        except (OSError, ValueError):  # gone, or no file's name: it is told when the sample is needed
            found[index] = None
    return found


def _size(file: str) -> int:
    return os.stat(file).st_size


def _pieces(file: str) -> bytes:
    """The size, and a hash of the beginning, the middle and the end."""
    with open(file, "rb") as opened:
        count = opened.seek(0, os.SEEK_END)
        found = hashlib.blake2b(str(count).encode(), digest_size=16)
        for start in (0, count // 2, max(0, count - PIECE)):
            opened.seek(start)
            found.update(opened.read(PIECE))
    return found.digest()


def _content(file: str) -> bytes:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "blake2b").digest()
