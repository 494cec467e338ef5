"""Linear and MLP: shapes for every size of input, a gradient for every parameter, and wrong words answered."""

import itertools

import pytest
import torch
from torch import nn

from plainloop.models import MLP, Linear
from plainloop.models.layers import ACTIVATIONS
from tests.plainloop.models.layers import TORCH_ACTIVATIONS, assert_every_parameter_learns, count, layers


@pytest.mark.parametrize("shape", [(6,), (1, 2, 3), (3, 2), (6, 1)], ids=str)
@pytest.mark.parametrize("make", [Linear, MLP])
def test_inputs_of_any_shape_are_flattened(make, shape):
    """(N, ...) to (N, outputs), the same as for the flattened inputs."""
    torch.manual_seed(0)
    model, inputs = make(in_features=6, out_features=4), torch.randn(5, *shape)
    assert model(inputs).shape == (5, 4)
    assert torch.equal(model(inputs), model(inputs.reshape(5, 6)))


@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_x_times_w_plus_b(bias):
    torch.manual_seed(0)
    model, inputs = Linear(3, 2, bias=bias), torch.randn(7, 3)
    state = model.state_dict()
    expected = inputs @ state["linear.weight"].T + (state["linear.bias"] if bias else 0)
    torch.testing.assert_close(model(inputs), expected)
    assert count(model) == 3 * 2 + 2 * bias
    assert_every_parameter_learns(model, inputs)


@pytest.mark.parametrize("bias", [True, False])
def test_zero_init(bias):
    """All parameters are zero, so are the outputs; and a single layer learns from there."""
    model, inputs = Linear(3, 2, bias=bias, zero_init=True), torch.randn(7, 3)
    assert all(not parameter.any() for parameter in model.parameters())
    assert not model(inputs).any()
    assert_every_parameter_learns(model, inputs)
    assert Linear(3, 2).linear.weight.any()


@pytest.mark.parametrize("hidden_sizes", [[], [8], [8, 4], (8, 4, 3)], ids=str)
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_mlp_sizes(hidden_sizes, norm):
    """One linear layer per hidden size and one for the outputs; a norm adds two numbers per hidden unit."""
    torch.manual_seed(0)
    model = MLP(6, 3, hidden_sizes, norm=norm)
    sizes = [6, *hidden_sizes, 3]
    linear = sum(a * b + b for a, b in itertools.pairwise(sizes))
    assert count(model) == linear + (2 * sum(hidden_sizes) if norm != "none" else 0)
    assert model(torch.randn(5, 6)).shape == (5, 3)
    idle = [layer.bias for layer in layers(model, nn.Linear)[:-1]] if norm == "batch" else []
    assert_every_parameter_learns(model, torch.randn(20, 6), idle)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_mlp_computes_what_the_textbook_says(name):
    """W2 f(W1 x + b1) + b2 with torch's own f; every known activation is compared."""
    torch.manual_seed(0)
    model, inputs = MLP(6, 3, [8], activation=name), torch.randn(5, 6)
    w1, b1, w2, b2 = model.state_dict().values()
    torch.testing.assert_close(model(inputs), TORCH_ACTIVATIONS[name](inputs @ w1.T + b1) @ w2.T + b2)
    assert_every_parameter_learns(model, inputs)


def test_mlp_order_of_layers():
    """Linear, norm, activation, dropout, for every hidden layer; nothing behind the last linear layer."""
    model = MLP(6, 3, [8, 4], activation="gelu", dropout=0.5, norm="layer")
    block = [nn.Linear, nn.LayerNorm, nn.GELU, nn.Dropout]
    assert [type(layer) for layer in model.layers] == [nn.Flatten, *block, *block, nn.Linear]
    assert [layer.p for layer in layers(model, nn.Dropout)] == [0.5, 0.5]


@pytest.mark.parametrize("dropout", [0.0, 0])
def test_no_dropout_layers_without_dropout(dropout):
    assert layers(MLP(6, 3, [8, 4], dropout=dropout), nn.Dropout) == []


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model, inputs = MLP(6, 3, [64], dropout=0.5), torch.randn(5, 6)
    assert not torch.equal(model(inputs), model(inputs))
    model.eval()
    assert torch.equal(model(inputs), model(inputs))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "rellu"}, r"model\.activation=rellu.*Did you mean relu"),
        ({"norm": "bach"}, r"model\.norm=bach.*Did you mean batch"),
        ({"hidden_sizes": [8, 0]}, r"model\.hidden_sizes"),
        ({"hidden_sizes": [8.5]}, r"model\.hidden_sizes"),
        ({"hidden_sizes": 8}, r"model\.hidden_sizes"),
        ({"hidden_sizes": "8,4"}, r"model\.hidden_sizes"),
        ({"hidden_sizes": None}, r"model\.hidden_sizes"),
        ({"dropout": 1.5}, "(?i)dropout"),
        ({"dropout": -0.1}, "(?i)dropout"),
    ],
    ids=str,
)
def test_mlp_refuses_what_makes_no_sense(arguments, message):
    """Nothing is ignored: a negative dropout isn't "no dropout"."""
    with pytest.raises(ValueError, match=message):
        MLP(6, 3, **arguments)
