"""A digest of a split's content, so that changed data is noticed."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from plainloop import seeding
from plainloop.data.dataset import asked, beneath, length, targets_of
from plainloop.data.fetch import first_sample
from plainloop.errors import UserError


def digest(dataset: Dataset | None) -> str | None:
    """A SHA-256 of a split's content, so that changed data is noticed; None for streams, and for data that
    differs each time it is read.

    Of tensors in memory every byte, or every n-th sample where they are over 100 MB. Of other data sets all targets,
    what their `content_of(index)` says of each sample (its text, the size of its file), if they have such a method, and
    up to 32 samples, evenly spread, as they are under a fixed seed.
    """
    if dataset is None or isinstance(dataset, IterableDataset):
        return None
    count = length(dataset)
    found = hashlib.sha256(str(count).encode())
    if asked(dataset, "gives_batches"):
        few = dataset.__getitems__(torch.arange(1))  # type: ignore[attr-defined]
        size_of_one = sum(part.nbytes for part in few if isinstance(part, Tensor))
        every = 1 + count * size_of_one // 100_000_000
        for start in range(0, count, 1024 * every):
            rows = torch.arange(start, min(start + 1024 * every, count), every)
            _add_content(dataset.__getitems__(rows), found)  # type: ignore[attr-defined]
        return found.hexdigest()
    _add_content(targets_of(dataset), found)
    for told in _contents(dataset):
        _add_content(told, found)

    def add_sample(position: int, found: Any) -> None:
        seeding.seed_sample(0, 0, position)
        try:
            _add_content(dataset[position * count // min(32, count)], found)
        except Exception:  # it is told when the sample is needed
            found.update(b"unreadable")

    with seeding.as_in_a_worker():
        looks = [hashlib.sha256(), hashlib.sha256()]
        for look in looks:
            add_sample(0, look)
        if looks[0].digest() != looks[1].digest():  # it draws from a generator of its own, or asks the time
            return None
        for position in range(min(32, count)):
            add_sample(position, found)
    return found.hexdigest()


def _contents(dataset: Any) -> Iterator[Any]:
    """What a data set says of each sample by `content_of`."""
    content_of, chosen = asked(dataset, "content_of"), beneath(dataset, "content_of")[1]
    indices = range(length(dataset)) if chosen is None else chosen.tolist()
    return map(content_of, indices) if content_of else iter(())


def _add_content(value: Any, found: Any) -> None:
    """Add what a sample holds to a hash."""
    if isinstance(value, numpy.ndarray | numpy.generic) and value.dtype.kind in "biufc":
        value = torch.as_tensor(value)
    if isinstance(value, Tensor) and value.layout is torch.strided:
        found.update(f"{value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for name, item in value.items():
            found.update(str(name).encode())
            _add_content(item, found)
    elif isinstance(value, tuple | list):
        for item in value:
            _add_content(item, found)
    else:
        found.update(repr(value).encode() if isinstance(value, str | int | float | bool) else b"?")


def check_begins_anew(dataset: Dataset | None, skip: int = 0) -> None:
    """A stream with a state must begin at its beginning whenever it is iterated: else a look at it before the training,
    or limit_batches, would cost samples, and a resumed run would see others. Raises UserError."""
    if not isinstance(dataset, IterableDataset) or asked(dataset, "state_dict") is None:
        return
    looks = [hashlib.sha256(), hashlib.sha256()]
    with seeding.preserved():
        for look in looks:
            seeding.seed_default(0)
            _add_content(first_sample(dataset, skip), look)
    if looks[0].digest() != looks[1].digest():
        raise UserError(
            f"data: {type(dataset).__name__} goes on where it was when it is iterated again. Let its __iter__ begin at "
            "the beginning, unless load_state_dict was called since it was last called."
        )
