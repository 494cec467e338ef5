"""A multilayer perceptron for tables: words are embedded, numbers are taken as they are."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plainloop.errors import UserError
from plainloop.models.mlp import MLP


class TabularMLP(nn.Module):
    """The last K columns of the input are codes of categories; a vector is learned for each (Guo and Berkhahn 2016,
    "Entity embeddings of categorical variables"), and goes with the numbers into an MLP.

    Code 0, which is a missing or unknown word, starts as the vector of zeros.

    Args:
        num_numbers: columns of numbers, which come first.
        cardinalities: how many codes each category has, 0 included; [] is a plain MLP.
        out_features: outputs per sample (logits, or values).
        embedding_dim: length of each vector; None for half as many as there are codes, and 50 at most.
        hidden_sizes, activation, dropout, norm: of the `MLP`.
    """

    def __init__(
        self,
        num_numbers: int,
        cardinalities: Sequence[int],
        out_features: int,
        embedding_dim: int | None = None,
        hidden_sizes: Sequence[int] = (128, 64),
        activation: str = "relu",
        dropout: float = 0.0,
        norm: str = "none",
    ):
        super().__init__()
        if embedding_dim is not None and (not isinstance(embedding_dim, int) or embedding_dim < 1):
            raise UserError(f"model.embedding_dim={embedding_dim}: a whole number from 1, or null.")
        self.num_numbers = num_numbers
        lengths = [embedding_dim or min(50, (count + 1) // 2) for count in cardinalities]
        self.embeddings = nn.ModuleList(map(nn.Embedding, cardinalities, lengths))
        for embedding in self.embeddings:
            nn.init.zeros_(embedding.weight[0])  # type: ignore[index]
        self.mlp = MLP(num_numbers + sum(lengths), out_features, hidden_sizes, activation, dropout, norm)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (N, num_numbers + K) to outputs (N, out_features)."""
        codes = inputs[:, self.num_numbers :].long()
        vectors = [embedding(codes[:, column]) for column, embedding in enumerate(self.embeddings)]
        return self.mlp(torch.cat([inputs[:, : self.num_numbers], *vectors], 1))
