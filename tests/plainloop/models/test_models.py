"""Models: shapes for every size of input, a gradient for every parameter, and wrong words answered."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plainloop.errors import UserError
from plainloop.models import CNN, MLP, Linear, TabularMLP
from plainloop.models.layers import ACTIVATIONS

TORCH_ACTIVATIONS = {
    "relu": torch.relu,
    "leaky_relu": nn.functional.leaky_relu,
    "elu": nn.functional.elu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def layers(model: nn.Module, kind: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, kind)]


def assert_every_parameter_learns(model: nn.Module, inputs: Tensor, idle: Sequence[nn.Parameter] = ()) -> None:
    """A loss that depends on all outputs reaches all parameters, with a gradient that isn't all zero (but for those
    that can't have one: a bias in front of a batch norm, which subtracts it again)."""
    outputs = model(inputs)
    nn.functional.cross_entropy(outputs, torch.arange(len(outputs)) % outputs.shape[1]).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0 or any(parameter is other for other in idle), name


# --- linear and mlp -----------------------------------------------------------------------------------------


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


# --- tabular ------------------------------------------------------------------------------------------------


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


# --- cnn ----------------------------------------------------------------------------------------------------

IMAGES = [
    (1, 1, 1),
    (1, 2, 3),
    (3, 5, 7),
    (1, 8, 8),
    (1, 28, 28),
    (3, 32, 32),
    (4, 33, 65),
    (3, 64, 200),
    (3, 224, 224),
]


@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_cnn_takes_images_of_any_size(shape):
    """(N, C, H, W) to (N, classes), from one pixel to 224 x 224, odd sizes and any number of channels."""
    torch.manual_seed(0)
    channels, *size = shape
    model = CNN(channels, 5, size, channels=(4, 8, 8))
    inputs = torch.randn(6, *shape)
    assert model(inputs).shape == (6, 5)
    assert model.eval()(inputs[:1]).shape == (1, 5)


@pytest.mark.parametrize("shape", IMAGES, ids=str)
@pytest.mark.parametrize("channels", [(4,), (4, 4, 4), (4,) * 8], ids=len)
def test_cnn_keeps_four_by_four_pixels(shape, channels):
    """Pooling stops while at least 4 pixels remain on the shorter side; smaller images aren't pooled at all."""
    model = CNN(shape[0], 5, shape[1:], channels=channels).eval()
    left = model.features(torch.randn(1, *shape)).shape[2:]
    assert min(left) >= min(4, *shape[1:])
    pools = len(layers(model, nn.MaxPool2d)) + (min(shape[1:]) > 64)  # of large images the first convolution halves too
    assert list(left) == [side // 2**pools for side in shape[1:]]
    possible = max(0, min(shape[1:]) // 4).bit_length() - 1  # halvings of the shorter side that leave 4
    assert pools == max(0, min(possible, len(channels) + (min(shape[1:]) > 64)))


@pytest.mark.parametrize(
    ("shape", "widths"),
    [((1, 8, 8), [32, 64, 128]), ((3, 64, 300), [32, 64, 128]), ((3, 65, 65), [32, 64, 128, 128])],
    ids=str,
)
def test_large_images_get_one_block_more(shape, widths):
    model = CNN(shape[0], 5, shape[1:]).eval()
    assert [layer.out_channels for layer in layers(model, nn.Conv2d)] == widths
    assert model(torch.randn(2, *shape)).shape == (2, 5)


def test_cnn_size_does_not_depend_on_the_image():
    """Convolutions without bias, norms, and one linear layer behind the average: counted by hand."""
    expected = 9 * 3 * 4 + 2 * 4 + 9 * 4 * 8 + 2 * 8 + 8 * 5 + 5
    for size in ([8, 8], [32, 32], [224, 160]):
        assert count(CNN(3, 5, size, channels=(4, 8))) == expected


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)], ids=str)
def test_cnn_learns_everywhere(shape, activation):
    torch.manual_seed(0)
    model = CNN(shape[0], 5, shape[1:], channels=(4, 8), activation=activation)
    assert_every_parameter_learns(model, torch.randn(10, *shape))


def test_cnn_uses_what_it_is_given():
    """The activation between the layers, and the dropout in front of the head."""
    model = CNN(1, 5, [8, 8], channels=(4, 8), activation="silu", dropout=0.25)
    assert len(layers(model, nn.SiLU)) == 2
    assert [layer.p for layer in layers(model, nn.Dropout)] == [0.25]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "rellu"}, "Did you mean relu"),
        ({"channels": []}, r"model\.channels"),
        ({"channels": [4, 0]}, r"model\.channels"),
        ({"channels": 32}, r"model\.channels"),
        ({"dropout": 1.5}, "(?i)dropout"),
        ({"dropout": -0.1}, "(?i)dropout"),
    ],
    ids=str,
)
def test_cnn_refuses_what_makes_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        CNN(1, 5, [8, 8], **arguments)
