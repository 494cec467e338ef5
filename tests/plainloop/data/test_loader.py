"""Batches: what is collated, fetched together, dropped, refused."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch.utils.data import Dataset

from plainloop.data import InMemory
from plainloop.errors import MachineError, UserError
from tests.plainloop.data.loading import loader, numbered, order_of


def test_dropping_every_batch_is_refused():
    with pytest.raises(UserError, match="drops every batch: 5 samples are fewer than"):
        loader(numbered(5), drop_last=True)


@pytest.mark.parametrize("option", [{"prefetch_factor": 4}, {"timeout": 10}], ids=str)
def test_options_of_workers_without_workers_are_refused(option):
    """An argument that would be ignored is an error."""
    with pytest.raises(UserError, match=next(iter(option))):
        loader(numbered(5), **option)


class Dicts(Dataset):
    """Inputs by name, as a text model takes them."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int):
        return {"tokens": torch.full((3,), index), "length": index}, float(index)


def test_samples_are_collated_as_torch_does():
    (inputs, targets), *_ = loader(Dicts(), shuffle=False)
    assert inputs["tokens"].tolist() == [[i] * 3 for i in range(5)]
    assert inputs["length"].tolist() == targets.tolist() == [0, 1, 2, 3, 4]


class Growing(Dataset):
    """From sample 13 on, samples are longer; sample 3 can't be read."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int):
        if index == 3:
            raise OSError("gone")
        return torch.zeros(2 + (index >= 13)), index


@pytest.mark.parametrize("skip", [0, 1])
def test_the_sample_of_another_shape_is_named(skip):
    """Not the first of the batch, and whatever was left out before."""
    batches = iter(loader(Growing(), batch_size=20, shuffle=False, skip_unreadable=skip))
    wanted = "sample 13 can't be put into a batch with sample 0: .*" if skip else "sample 3 can't be read"
    with pytest.raises(MachineError, match=wanted):
        next(batches)


class Counting(InMemory):
    """In memory, and counts how often a batch is asked for."""

    asked = 0

    def __getitem__(self, index: int):
        raise AssertionError("a sample was fetched by itself")

    def __getitems__(self, indices: Sequence[int]):
        self.asked += 1
        return super().__getitems__(indices)


def test_data_in_memory_is_fetched_a_batch_at_a_time():
    """One `__getitems__` per batch and no collating: a hundred times faster than a sample at a time."""
    data = Counting(torch.arange(20.0), torch.arange(20))
    assert sorted(itertools.chain(*order_of(loader(data)))) == list(range(20))
    assert data.asked == 3
