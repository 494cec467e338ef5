"""Logistic regression with its gradient written by hand: what autograd does, seen from within.

The chain rule in two links. The loss says how much it changes with each logit, `BCEFunction.backward`; the linear layer
turns that into how much it changes with each weight, `LinearFunction.backward`. Each link knows nothing of the other.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plainloop.models.linear import BareLinear


class LinearFunction(torch.autograd.Function):
    """y = x W^T + b, and its derivatives: of inputs x (N, I), weight W (O, I), bias b (O,), outputs y (N, O)."""

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return inputs @ weight.T + bias

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From dL/dy (N, O) to dL/dx (N, I), dL/dW (O, I) and dL/db (O,): each of the shape of what it belongs to."""
        inputs, weight = ctx.saved_tensors
        grad = grad.to(weight.dtype)  # with trainer.precision=bf16 the outputs have fewer digits than the weights
        return grad @ weight, grad.T @ inputs.to(weight.dtype), grad.sum(0)


class BCEFunction(torch.autograd.Function):
    """The mean of -y log p - (1 - y) log (1 - p) with p = sigmoid(z), over logits z and targets y, both (N,).

    That is the mean of log(1 + e^z) - y z, in which nothing overflows; and its derivative by z is (p - y) / N: what was
    predicted less what was true.
    """

    @staticmethod
    def forward(logits: Tensor, targets: Tensor) -> Tensor:
        return (F.softplus(logits) - targets * logits).mean()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """From dL/dloss () to dL/dlogits (N,); targets are given and have none."""
        logits, targets = ctx.saved_tensors
        return grad * (logits.sigmoid() - targets) / logits.numel(), None


class ManualLinear(BareLinear):
    """`BareLinear`, whose gradient is ours and not autograd's.

    Args:
        in_features: numbers in one sample; inputs of any shape (N, ...) are flattened.
        out_features: outputs per sample: 1 for logistic regression.
        zero_init: weights and bias start at zero.
    """

    def __init__(self, in_features: int, out_features: int, zero_init: bool = False):
        super().__init__(in_features, out_features, zero_init=zero_init)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (N, ...) to outputs (N, out_features)."""
        return LinearFunction.apply(inputs.flatten(1), self.weight, self.bias)


class ManualBCE(nn.Module):
    """`nn.BCEWithLogitsLoss`, whose gradient is ours and not autograd's."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits and targets of 0 and 1, both (N,), to their mean loss ()."""
        return BCEFunction.apply(logits, targets)
