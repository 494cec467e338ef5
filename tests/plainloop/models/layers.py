"""What is asked of every model: shapes, and a gradient for every parameter."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

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
