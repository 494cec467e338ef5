"""The MLP for tables with embedded categories."""

import pytest
import torch

from plainloop.errors import UserError
from plainloop.models import MLP, TabularMLP
from tests.plainloop.models.layers import assert_every_parameter_learns


def test_tabular_puts_each_codes_vector_beside_the_numbers():
    """Two numbers, categories of 3 and 5 codes: the MLP gets 2 + 2 + 3 numbers, code 0 as zeros."""
    torch.manual_seed(0)
    model = TabularMLP(num_numbers=2, cardinalities=[3, 5], out_features=4)
    inputs = torch.tensor([[0.5, -1, 2, 4], [1.5, 3, 0, 0], [0, 0, 1, 3]])
    one, other = (embedding.weight for embedding in model.embeddings)
    assert (one.shape, other.shape) == ((3, 2), (5, 3))
    beside = torch.cat([inputs[:, :2], one[[2, 0, 1]], other[[4, 0, 3]]], 1)
    assert torch.equal(model(inputs), model.mlp(beside))
    assert not beside[1, 2:].any()
    assert_every_parameter_learns(model, inputs)


def test_tabular_without_categories_is_an_mlp():
    model, inputs = TabularMLP(6, [], 4, hidden_sizes=[8]), torch.randn(5, 6)
    mlp = MLP(6, 4, hidden_sizes=[8])
    mlp.load_state_dict(model.mlp.state_dict())
    assert torch.equal(model(inputs), mlp(inputs))


def test_tabular_vectors_may_have_another_length():
    assert [len(e.weight[0]) for e in TabularMLP(1, [3, 900], 2).embeddings] == [2, 50]
    assert [len(e.weight[0]) for e in TabularMLP(1, [3, 900], 2, embedding_dim=7).embeddings] == [7, 7]
    with pytest.raises(UserError, match=r"model\.embedding_dim=0: a whole number from 1"):
        TabularMLP(1, [3], 2, embedding_dim=0)
