"""Data sets that show what a loader does with them."""

import random
from typing import Any

import numpy
import torch
from torch.utils.data import Dataset

from plainloop.config import schema
from plainloop.data import InMemory, Loader, make_loader

CPU = torch.device("cpu")


def numbered(count: int) -> InMemory:
    """In memory: input and target are the sample's own number."""
    return InMemory(torch.arange(count).float().unsqueeze(1), torch.arange(count))


class Augmented(Dataset):
    """Its input is three random numbers, one from each library; its target is the sample's own number."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        drawn = [torch.rand(()).item(), numpy.random.rand(), random.random()]
        return torch.tensor(drawn, dtype=torch.float64), index


def loader(dataset: Dataset, batch_size: int = 8, seed: int = 1, limit: int | None = None, **options: Any) -> Loader:
    section = schema.Loader(**{"batch_size": batch_size, "num_workers": 0, **options})
    return make_loader(dataset, section, seed=seed, device=CPU, limit=limit)


def order_of(batches: Any) -> list[list[int]]:
    """The samples of each batch."""
    return [targets.tolist() for _, targets in batches]


def generators() -> tuple[Any, ...]:
    """The states of the default generators, in a form that can be compared."""
    kind, keys, *rest = numpy.random.get_state()
    return random.getstate(), (kind, keys.tolist(), *rest), torch.get_rng_state().tolist()
