"""Optimizers are fused unless somebody says otherwise; parameters come into groups by name; several optimizers are one;
L-BFGS asks for the loss; every optimizer of torch works from the command line."""

from typing import Any

import pytest
import torch
from torch import nn

from plainloop.errors import UserError
from plainloop.optim import make_optimizer

CPU = torch.device("cpu")


def weights(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes or ((3, 2), (2,))]


def optimizer_of(name: str = "SGD", parameters: Any = None, device: torch.device = CPU, **arguments: Any):
    node = {"_target_": f"torch.optim.{name}", "lr": 0.1, **arguments}
    return make_optimizer(node, nn.ParameterList(parameters or weights()), device)


# --- one optimizer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_fused_where_torch_has_it(name):
    assert optimizer_of(name).param_groups[0]["fused"] is True


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"fused": False}, False),
        ({"fused": None}, None),
        ({"foreach": True}, None),
        ({"foreach": False}, None),
        ({"differentiable": True}, None),
        ({"capturable": True}, None),
        ({"capturable": False, "differentiable": False}, True),
    ],
    ids=str,
)
def test_the_users_choice_of_implementation_is_left_alone(arguments, expected):
    """Whoever names an implementation gets it, fused or not."""
    group = optimizer_of("Adam", **arguments).param_groups[0]
    assert group["fused"] is expected
    assert all(group[name] == value for name, value in arguments.items())


@pytest.mark.parametrize("name", ["RMSprop", "Adadelta", "Rprop"])
def test_optimizers_without_a_fused_kernel_are_built_too(name):
    assert "fused" not in optimizer_of(name).param_groups[0]


def test_nothing_is_fused_where_the_kernel_does_not_reach():
    """Not on other devices than CPU and CUDA, nor for complex numbers."""
    assert not optimizer_of("Adam", device=torch.device("mps")).param_groups[0]["fused"]
    complex_weights = [nn.Parameter(torch.ones(2, dtype=torch.complex64))]
    assert not optimizer_of("Adam", complex_weights).param_groups[0]["fused"]


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_fused_learns_what_the_plain_one_learns(name):
    """The same weights after ten steps, up to rounding."""
    found = []
    for build in (optimizer_of, lambda n, p: getattr(torch.optim, n)(p, lr=0.1, foreach=False)):
        parameters = weights()
        optimizer = build(name, parameters)
        for step in range(10):
            optimizer.zero_grad()
            sum(((parameter - step) ** 2).sum() for parameter in parameters).backward()
            optimizer.step()
        found.append(parameters)
    for fused, plain in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain)


def test_only_what_requires_a_gradient_is_trained():
    frozen, free = weights()
    frozen.requires_grad_(False)
    assert [id(p) for p in optimizer_of("SGD", [frozen, free]).param_groups[0]["params"]] == [id(free)]
    free.requires_grad_(False)
    with pytest.raises(UserError, match="nothing to train"):
        optimizer_of("SGD", [frozen, free])


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "torch.optim.Adam", "learning_rate": 0.1}, "Did you mean lr"),
        ({"_target_": "torch.optim.Adam", "lr": -1}, "Invalid learning rate"),
        ({"_target_": "torch.nn.Linear"}, "is not a torch.optim.Optimizer"),
        ({"_target_": "torch.optim.Adamm"}, "Did you mean Adam"),
    ],
    ids=["misnamed", "negative", "no optimizer", "misspelt"],
)
def test_wrong_optimizers_are_answered(node, message):
    with pytest.raises(UserError, match=message):
        make_optimizer(node, nn.ParameterList(weights()), CPU)
