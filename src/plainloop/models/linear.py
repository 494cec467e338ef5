"""Linear, logistic and softmax regression: the model is the same, the loss makes the difference."""

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
