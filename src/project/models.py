"""Your models. configs/model/mine.yaml names this one: python train.py model=mine"""

import torch
from torch import Tensor, nn


class MyNet(nn.Module):
    """A residual multilayer perceptron: y = W2 (h + relu(W1 h)), with h = relu(W0 x).

    Args:
        in_features: numbers in one sample; the config fills it in from the data.
        out_features: outputs per sample, likewise.
        width: size of the hidden layer.
    """

    def __init__(self, in_features: int, out_features: int, width: int = 32):
        super().__init__()
        self.entry = nn.Linear(in_features, width)
        self.block = nn.Linear(width, width)
        self.head = nn.Linear(width, out_features)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (N, ...) to logits (N, out_features)."""
        hidden = torch.relu(self.entry(inputs.flatten(1)))
        return self.head(hidden + torch.relu(self.block(hidden)))
