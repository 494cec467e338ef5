"""The autoencoder: a network that gives its input back through a narrow place."""

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from plainloop.models.layers import activation_named, check_sizes


class Autoencoder(nn.Module):
    """An encoder to a few numbers, the code, and a decoder back (Hinton and Salakhutdinov 2006, "Reducing the
    dimensionality of data with neural networks").

    With activation=identity and the mean squared error it learns the subspace of the principal components (Baldi and
    Hornik 1989, "Neural networks and principal component analysis").

    Args:
        input_shape: of one sample, an image or a vector.
        hidden_sizes: widths of the encoder's layers, the last of which is the size of the code.
        decoder_sizes: widths of the decoder's layers between the code and the outputs, [] for none; None for those of
            the encoder in reverse, its mirror image.
        activation: between the layers, but for the code and the outputs, which are linear: relu, leaky_relu, elu,
            gelu, silu, tanh, sigmoid or identity.
    """

    for_tasks = ("reconstruction",)  # another's outputs may have its shape by chance

    def __init__(
        self,
        input_shape: Sequence[int],
        hidden_sizes: Sequence[int] = (128, 32),
        decoder_sizes: Sequence[int] | None = None,
        activation: str = "relu",
    ):
        super().__init__()
        check_sizes(least=1, hidden_sizes=hidden_sizes)
        if decoder_sizes is None:
            decoder_sizes = hidden_sizes[-2::-1]
        check_sizes(decoder_sizes=decoder_sizes)
        count, code = math.prod(input_shape), hidden_sizes[-1]
        self.encoder = nn.Sequential(nn.Flatten(), *_layers([count, *hidden_sizes], activation))
        self.decoder = nn.Sequential(
            *_layers([code, *decoder_sizes, count], activation), nn.Unflatten(1, tuple(input_shape))
        )

    def encode(self, inputs: Tensor) -> Tensor:
        """Inputs (N, *input_shape) to codes (N, hidden_sizes[-1])."""
        return self.encoder(inputs)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (N, hidden_sizes[-1]) to what they stand for, (N, *input_shape)."""
        return self.decoder(codes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (N, *input_shape) to their reconstructions, of the same shape."""
        return self.decode(self.encode(inputs))


def _layers(sizes: Sequence[int], activation: str) -> list[nn.Module]:
    """Linear layers from each size to the next, with the activation in between."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), activation_named(activation)]
    return layers[:-1]
