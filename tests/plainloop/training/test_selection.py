"""Which validation is the best."""

import math
import random

import pytest

from plainloop.training.selection import Selection


def test_among_equal_values_the_lower_loss_is_best():
    best = Selection("val/accuracy", "max")
    assert [best.better(0.5, loss, 1, step) for step, loss in enumerate([1.0, 2.0, 0.9])] == [True, False, True]
    assert (best.value, best.loss, best.step) == (0.5, 0.9, 2)


def test_nan_is_never_best_nor_is_a_value_whose_loss_is_nan():
    """Weights that make the loss NaN still have an accuracy: that of always the same class."""
    best = Selection("val/accuracy", "max", patience=2)
    assert not best.better(math.nan, 1.0, 1, 10)
    assert not best.better(0.9, math.nan, 2, 20)
    assert best.exhausted
    assert best.better(0.1, 2.0, 3, 30)
    assert (best.value, best.step) == (0.1, 30)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("keep", [1, 2, 3, 9])
def test_the_best_few_are_those_of_a_sorted_list(mode, keep):
    """Values and losses of a few kinds, so that there are ties of both sorts; among these the earlier is ahead."""
    draw = random.Random(f"{mode}{keep}")
    seen = []
    selection = Selection("val/x", mode, keep=keep)
    for step in range(200):
        value, loss = draw.choice([0.1, 0.2, 0.3, math.nan]), draw.choice([1.0, 2.0, math.nan])
        among = selection.better(value, loss, step // 10, step)
        if not math.isnan(value) and not math.isnan(loss):
            seen.append((value if mode == "min" else -value, loss, step))
        best = [step for *_, step in sorted(seen)[:keep]]
        assert selection.steps == best
        assert among == (step in best)
        if step % 7 == 0:  # continued from what a checkpoint remembers
            remembered = selection.state_dict()
            selection = Selection("val/x", mode, keep=keep)
            selection.load_state_dict(remembered)


def test_a_checkpoint_that_is_older_than_the_others_has_none():
    selection = Selection(keep=2)
    selection.load_state_dict({"value": 0.5, "loss": 0.5, "epoch": 1, "step": 10, "reference": 0.5, "stale": 0})
    assert selection.steps == [10]
    assert selection.better(0.6, 0.6, 2, 20)
    assert selection.steps == [10, 20]
