"""A data set in memory gives samples and batches."""

import pytest
import torch

from plainloop.data import InMemory
from plainloop.errors import UserError


@pytest.fixture
def ten() -> InMemory:
    """Ten samples that say which they are."""
    return InMemory(torch.arange(30).reshape(10, 3), torch.arange(10), classes=[f"c{i}" for i in range(10)], note="n")


def test_in_memory_gives_samples_and_batches(ten):
    """An index gives a sample; `__getitems__` gives the same samples as one batch, in the order asked for."""
    assert len(ten) == 10
    assert ten[4][0].tolist() == [12, 13, 14]
    assert ten[4][1].item() == 4
    for indices in ([7, 0, 7], torch.tensor([7, 0, 7])):
        inputs, targets = ten.__getitems__(indices)
        assert targets.tolist() == [7, 0, 7]
        assert torch.equal(inputs, torch.stack([ten[i][0] for i in (7, 0, 7)]))


def test_in_memory_batches_are_copies(ten):
    """What is done to a batch in place doesn't reach the data."""
    inputs, targets = ten.__getitems__([1, 2])
    inputs.zero_()
    targets.zero_()
    assert ten[1][0].tolist() == [3, 4, 5]
    assert ten[2][1].item() == 2


def test_select_keeps_what_belongs_to_the_data(ten):
    """A selection holds the chosen samples, and the names and the note of the whole."""
    part = ten.select(torch.tensor([9, 2]))
    assert part.targets.tolist() == [9, 2]
    assert (part.classes, part.note, part.target_names) == (ten.classes, "n", None)


def test_in_memory_refuses_unequal_numbers():
    with pytest.raises(UserError, match="3 inputs and 2 targets"):
        InMemory(torch.zeros(3, 1), torch.zeros(2))
