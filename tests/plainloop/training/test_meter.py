"""The mean of the losses: read late, and the same as if it had been read at once."""

import math

import pytest
import torch

from plainloop.training.meter import MeanLoss


@pytest.mark.parametrize("shape", [(), (1,)])
def test_the_mean_counts_samples(shape):
    """(2 * 1 + 1 * 4) / 3."""
    losses = MeanLoss()
    losses.add(torch.full(shape, 1.0), 2)
    losses.add(torch.full(shape, 4.0, requires_grad=True), 1)
    assert losses.mean() == 2.0
    assert losses.read() == (6.0, 3.0)
    assert math.isnan(losses.mean())
    assert losses.seen == 3


def test_it_may_be_read_in_between():
    """A checkpoint fetches what waits; the sum is the same to the last bit."""
    values = torch.rand(100, generator=torch.Generator().manual_seed(0))
    whole, halves = MeanLoss(), MeanLoss()
    for number, value in enumerate(values):
        for losses in (whole, halves):
            losses.add(value, number + 1)
        if number % 7 == 0:
            halves.load_state_dict(halves.state_dict())
    assert whole.read() == halves.read()


def test_what_is_not_finite_is_left_out_where_its_step_is():
    losses = MeanLoss(leaves_out=True)
    for value in (1.0, math.nan, math.inf, 3.0):
        losses.add(torch.tensor(value), 5)
    assert losses.mean() == 2.0
