"""The order of an epoch follows from the seed and the epoch, from nothing else, and can be entered anywhere."""

import itertools

import pytest
import torch

from tests.plainloop.data.loading import Augmented, loader, numbered, order_of


def test_an_epoch_is_a_permutation():
    """Every sample once; another order in another epoch and for another seed."""
    orders = {
        (seed, epoch): tuple(itertools.chain(*order_of(loader(numbered(100), seed=seed).epoch(epoch))))
        for seed in (1, 2)
        for epoch in (0, 1)
    }
    assert all(sorted(order) == list(range(100)) for order in orders.values())
    assert len(set(orders.values())) == 4


def test_the_order_follows_from_seed_and_epoch_alone():
    """Not from earlier epochs, nor from what else was drawn, nor from the batch size."""
    used = loader(numbered(50))
    for epoch in (0, 4, 2):
        list(used.epoch(epoch))
    torch.manual_seed(99)
    expected = order_of(loader(numbered(50)).epoch(3))
    assert order_of(used.epoch(3)) == expected
    other = loader(numbered(50), batch_size=7).epoch(3)
    assert list(itertools.chain(*order_of(other))) == list(itertools.chain(*expected))


def test_the_order_is_a_fair_shuffle():
    """Which sample comes first, over 2,000 epochs: each of 20 as often as chance allows."""
    order = loader(numbered(20)).source
    counts = torch.zeros(20)
    for epoch in range(2000):
        counts[order.order(epoch)[0]] += 1
    assert (counts - 100).abs().max() < 5 * (2000 * 0.05 * 0.95) ** 0.5


@pytest.mark.parametrize("dataset", [numbered(30), Augmented(30)], ids=["in memory", "sample by sample"])
@pytest.mark.parametrize("first", range(6))
def test_an_epoch_can_start_at_any_batch(dataset, first):
    """What is left is the rest of the same epoch, augmentation included: this is how a run resumes."""
    every = list(loader(dataset, drop_last=False).epoch(5))
    rest = list(loader(dataset, drop_last=False).epoch(5, first_batch=first))
    assert len(every) == 4
    assert len(rest) == max(0, 4 - first)
    for (inputs, targets), (expected_inputs, expected_targets) in zip(rest, every[first:], strict=True):
        assert torch.equal(inputs, expected_inputs)
        assert torch.equal(targets, expected_targets)


def test_validation_is_never_shuffled():
    """Without shuffle every epoch is 0, 1, 2, ..., whatever its number and the seed."""
    for seed, epoch in ((0, 0), (1, 0), (1, 7)):
        batches = loader(numbered(20), shuffle=False, seed=seed).epoch(epoch)
        assert list(itertools.chain(*order_of(batches))) == list(range(20))


@pytest.mark.parametrize(
    ("count", "drop_last", "sizes"),
    [(16, False, [8, 8]), (19, False, [8, 8, 3]), (19, True, [8, 8]), (5, False, [5]), (8, True, [8])],
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_batch_sizes(count, drop_last, sizes, shuffle):
    """The last batch is short, or left out; the length and the number of samples tell it beforehand."""
    batches = loader(numbered(count), drop_last=drop_last, shuffle=shuffle)
    assert [len(batch) for batch in order_of(batches.epoch())] == sizes
    assert len(batches) == len(sizes)
    assert batches.num_samples == sum(sizes)


def test_what_drop_last_drops_differs_from_epoch_to_epoch():
    """So that no sample is left out of every epoch."""
    batches = loader(numbered(19), drop_last=True)
    seen = [set(itertools.chain(*order_of(batches.epoch(epoch)))) for epoch in range(20)]
    assert all(len(samples) == 16 for samples in seen)
    assert set.union(*seen) == set(range(19))


@pytest.mark.parametrize(("limit", "batches", "samples"), [(1, 1, 8), (2, 2, 16), (3, 3, 19), (9, 3, 19)])
def test_limit(limit, batches, samples):
    """At most this many batches; the first ones of the whole epoch's order."""
    limited = loader(numbered(19), limit=limit)
    assert (len(limited), limited.num_samples) == (batches, samples)
    assert order_of(limited.epoch(2)) == order_of(loader(numbered(19)).epoch(2))[:batches]
    assert len(list(limited.epoch(2, first_batch=1))) == batches - 1
