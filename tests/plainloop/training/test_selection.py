"""Which validation is the best."""

import math

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
