"""What is random about a sample follows from the seed and its position in the epoch, from nothing else."""

import functools
import itertools
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from plainloop.data.loader import Fetch
from plainloop.errors import MachineError
from tests.conftest import slow
from tests.plainloop.data.loading import Augmented, generators, loader, numbered


def everything(batches: Any) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = zip(*batches, strict=True)
    return torch.cat(inputs), torch.cat(targets)


@functools.cache
def by(workers: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Epochs 0 and 1, and epoch 1 from its second batch on, loaded by so many processes."""
    batches = loader(Augmented(30), num_workers=workers)
    return [everything(batches.epoch(*position)) for position in ((0,), (1,), (1, 2))]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [slow(1), 2])
def test_workers_do_not_matter(workers):
    """Samples, their order and their augmentation (torch's, NumPy's and Python's) are the same, bit for bit."""
    for alone, together in zip(by(0), by(workers), strict=True):
        assert torch.equal(alone[1], together[1])
        assert torch.equal(alone[0], together[0])


def test_every_sample_is_augmented_in_its_own_way():
    """60 samples of two epochs: 60 different numbers from each of the three libraries."""
    drawn = torch.cat([inputs for inputs, _ in by(0)[:2]])
    assert drawn.shape == (60, 3)
    for library in range(3):
        assert len(set(drawn[:, library].tolist())) == 60


def test_augmentation_looks_random():
    """Uniform numbers: their mean is 1/2 and they don't go together, within 5 deviations of chance."""
    drawn = torch.cat([inputs for inputs, _ in by(0)[:2]])
    assert ((drawn.mean(0) - 0.5).abs() < 5 * (1 / 12 / 60) ** 0.5).all()
    assert (torch.corrcoef(drawn.T).triu(diagonal=1).abs() < 5 / 60**0.5).all()


def test_the_next_epoch_augments_anew():
    """The same sample at the same position (no shuffling) is another one in another epoch or under another seed."""
    inputs = [
        everything(loader(Augmented(10), shuffle=False, seed=seed).epoch(epoch))[0]
        for seed in (1, 2)
        for epoch in (0, 1)
    ]
    assert torch.equal(inputs[0], everything(loader(Augmented(10), shuffle=False, seed=1).epoch(0))[0])
    for one, other in itertools.combinations(inputs, 2):
        assert not (one == other).any()


def test_a_sample_drawn_twice_is_augmented_twice():
    """What counts is the position in the order, not the sample: as a sampler with replacement needs."""
    fetch = Fetch(Augmented(10), seed=0)
    first, second, other = fetch.__getitems__((0, 0, torch.tensor([3, 3, 5]))).batch[0]
    assert not (first == second).any()
    (again,) = fetch.__getitems__((0, 1, torch.tensor([3]))).batch[0]
    assert torch.equal(again, second)  # position 1, in whichever batch it comes
    (replaced,) = fetch.__getitems__((0, 2, torch.tensor([9]))).batch[0]
    assert torch.equal(replaced, other)


def test_the_batch_size_does_not_change_a_samples_augmentation():
    small, large = (everything(loader(Augmented(30), batch_size=size).epoch(1)) for size in (4, 30))
    assert torch.equal(small[1], large[1])
    assert torch.equal(small[0], large[0])


@pytest.mark.parametrize("dataset", [numbered(20), Augmented(20)], ids=["in memory", "sample by sample"])
@pytest.mark.parametrize("workers", [0, slow(1)])
def test_iterating_draws_nothing_from_the_default_generators(dataset, workers):
    """Dropout and the user's own random numbers don't depend on what the loader does."""
    batches = loader(dataset, num_workers=workers)
    before = generators()
    assert len(list(batches.epoch(0))) == 3
    assert len(list(batches.epoch(1, first_batch=1))) == 2
    assert generators() == before


def test_epochs_can_be_begun_out_of_turn():
    """An iterator keeps its epoch when another pass begins before or while it is read, as a callback may do."""
    expected = [everything(loader(Augmented(30)).epoch(epoch)) for epoch in (0, 1)]
    batches = loader(Augmented(30))
    started, waiting = batches.epoch(0), batches.epoch(1)
    head = [next(started), next(started)]
    list(batches.epoch(5, first_batch=2))
    found = everything([*head, *started]), everything(waiting)
    for (inputs, targets), (expected_inputs, expected_targets) in zip(found, expected, strict=True):
        assert torch.equal(targets, expected_targets)
        assert torch.equal(inputs, expected_inputs)


class Failing(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        raise OSError("cannot identify image file")


def test_generators_come_back_when_a_sample_fails():
    before = generators()
    with pytest.raises(MachineError, match="sample 3 can't be read: OSError: cannot identify"):
        list(loader(Failing()))
    assert generators() == before
