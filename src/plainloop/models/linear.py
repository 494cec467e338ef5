"""Linear, logistic and softmax regression: the model is the same, the loss makes the difference.

The layer is written twice: as torch has it, and with nothing but two parameters.
"""

import math

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """y = x W^T + b.

    Args:
        in_features: numbers in one sample; inputs of any shape (N, ...) are flattened.
        out_features: outputs per sample: 1 for one value or two classes, C for C classes (as logits).
        zero_init: weights and bias start at zero, which a single layer can afford.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, zero_init: bool = False):
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        if zero_init:
            for parameter in self.parameters():
                nn.init.zeros_(parameter)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (N, ...) to outputs (N, out_features)."""
        return self.linear(inputs.flatten(1))


class BareLinear(nn.Module):
    """The same without `nn.Linear`: what that layer holds, and what it computes.

    Args:
        in_features, out_features, bias, zero_init: as for `Linear`. From the same seed come the same weights.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, zero_init: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        # Numbers up to 1 / sqrt(inputs): a sum of so many terms is about as large as one of them (LeCun et al. 1998,
        # "Efficient backprop").
        bound = 0.0 if zero_init else 1 / math.sqrt(in_features)
        with torch.no_grad():  # where the weights start is no step of the computation whose gradient is taken
            for parameter in self.parameters():
                parameter.uniform_(-bound, bound)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (N, ...) to outputs (N, out_features)."""
        inputs = inputs.flatten(1)
        if self.bias is None:
            return inputs @ self.weight.T
        # inputs @ weight.T + bias in one operation, which rounds as nn.Linear does: the same to the last bit.
        return torch.addmm(self.bias, inputs, self.weight.T)
