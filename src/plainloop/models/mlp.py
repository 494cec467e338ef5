"""The multilayer perceptron: linear layers with something non-linear in between."""

from collections.abc import Sequence

from torch import Tensor, nn

from plainloop.errors import UserError, did_you_mean, listed
from plainloop.models.layers import activation_named, check_dropout, check_sizes

NORMS: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class MLP(nn.Module):
    """Linear - (norm) - activation - (dropout) for every hidden size, then a linear layer to the outputs.

    Args:
        in_features: numbers in one sample; inputs of any shape (N, ...) are flattened.
        out_features: outputs per sample (logits, or values).
        hidden_sizes: widths of the hidden layers; [] is a linear model.
        activation: relu, leaky_relu, elu, gelu, silu, tanh, sigmoid or identity.
        dropout: share of hidden units set to zero while training (Srivastava et al. 2014).
        norm: none, batch (Ioffe and Szegedy 2015) or layer (Ba et al. 2016).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_sizes: Sequence[int] = (128, 64),
        activation: str = "relu",
        dropout: float = 0.0,
        norm: str = "none",
    ):
        super().__init__()
        if norm != "none" and norm not in NORMS:
            raise UserError(
                f"model.norm={norm}: not known.{did_you_mean(str(norm), NORMS)} There are: none, {listed(NORMS)}."
            )
        check_sizes(hidden_sizes=hidden_sizes)
        check_dropout(dropout)
        layers: list[nn.Module] = [nn.Flatten()]
        for size in hidden_sizes:
            layers.append(nn.Linear(in_features, size))
            if norm != "none":
                layers.append(NORMS[norm](size))
            layers.append(activation_named(activation))
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
            in_features = size
        layers.append(nn.Linear(in_features, out_features))
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (N, ...) to outputs (N, out_features)."""
        return self.layers(inputs)
