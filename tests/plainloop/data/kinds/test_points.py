"""Points that are typed into a config."""

import pytest
import torch

from plainloop.data import points
from plainloop.errors import UserError


def test_points_are_what_was_typed():
    data = points(inputs=[[1, 2], [3, 4.5]], targets=[[0.5], [1]])
    assert data.inputs.dtype == data.targets.dtype == torch.float32
    assert data.inputs.tolist() == [[1, 2], [3, 4.5]]
    assert data.targets.tolist() == [[0.5], [1]]


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [([[1], [2, 3]], [[1], [2]]), ([[1], ["a"]], [[1], [2]]), ([[1], [2]], [[1]])],
    ids=["ragged", "a word", "unequal numbers"],
)
def test_points_refuse_what_is_no_table(inputs, targets):
    with pytest.raises(UserError, match="data"):
        points(inputs=inputs, targets=targets)
