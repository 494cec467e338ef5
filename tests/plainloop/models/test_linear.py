"""The linear layer written with two parameters: to the last bit what torch's own is."""

import pytest
import torch
from torch import nn

import plainloop
from plainloop.models import BareLinear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("count", "inputs", "outputs"), [(1, 1, 1), (32, 30, 1), (5, 64, 10), (64, 784, 100)])
def test_bare_parameters_are_nn_linear_bit_for_bit(count, inputs, outputs, bias):
    """From the same seed the same weights; outputs and all gradients too, that of the inputs included."""
    torch.manual_seed(0)
    bare = BareLinear(inputs, outputs, bias=bias)
    torch.manual_seed(0)
    reference = nn.Linear(inputs, outputs, bias=bias)
    assert list(bare.state_dict()) == list(reference.state_dict())
    batch, weights = torch.randn(count, inputs, requires_grad=True), torch.randn(count, outputs)
    seen = []
    for model in (bare, reference):
        found = model(batch)
        (found * weights).sum().backward()
        seen.append([*model.parameters(), found, *(parameter.grad for parameter in model.parameters()), batch.grad])
        batch.grad = None
    assert len(seen[0]) == (6 if bias else 4)
    assert all(torch.equal(*pair) for pair in zip(*seen, strict=True))


@pytest.mark.parametrize("inputs", [*range(1, 60), 100, 784, 3072])
def test_it_starts_where_nn_linear_starts(inputs):
    torch.manual_seed(1)
    bare = BareLinear(inputs, 3)
    torch.manual_seed(1)
    reference = nn.Linear(inputs, 3)
    assert torch.equal(bare.weight, reference.weight)
    assert torch.equal(bare.bias, reference.bias)


def test_inputs_are_flattened_and_zeros_are_zeros():
    model, images = BareLinear(6, 4), torch.randn(5, 1, 2, 3)
    assert torch.equal(model(images), model(images.flatten(1)))
    assert not any(parameter.any() for parameter in BareLinear(6, 4, zero_init=True).parameters())


@pytest.mark.slow
def test_a_run_with_it_is_a_run_with_nn_linear():
    """model=bare_linear and model=linear end with the same bits."""
    words = ["trainer.max_epochs=2", "logger=none"]
    bare, reference = (plainloop.train([f"model={name}", *words]) for name in ("bare_linear", "linear"))
    assert torch.equal(bare.model.weight, reference.model.linear.weight)
    assert torch.equal(bare.model.bias, reference.model.linear.bias)
    assert bare.metrics["test/loss"] == reference.metrics["test/loss"]
