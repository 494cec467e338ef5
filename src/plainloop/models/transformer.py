"""A transformer that reads a text and says one thing about it."""

import math

import torch
from torch import Tensor, nn

from plainloop.models.attention import Transformer


class TransformerClassifier(nn.Module):
    """Embedding and position of every token, a transformer's encoder (Vaswani et al. 2017, "Attention is all you
    need"), the mean over the places, and a linear layer.

    The sequences of a batch are padded to one length. No place looks at padding, and the mean leaves it out: padding
    doesn't change a result. Positions are sines and cosines, which there are for texts of any length.

    Args:
        vocab_size: how many tokens there are.
        num_outputs: outputs per sequence (logits, or values).
        width, layers, heads: of the `Transformer`; width is the size of the embedding, too.
        dropout: of the `Transformer`, and of the embedding.
        padding: the token that fills up a batch; its embedding is zero and isn't learned.
    """

    def __init__(
        self,
        vocab_size: int,
        num_outputs: int,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
        padding: int = 0,
    ):
        super().__init__()
        transformer = Transformer(width, layers, heads, dropout)
        self.embedding = nn.Embedding(vocab_size, width, padding_idx=padding)
        self.dropout = nn.Dropout(dropout)
        self.transformer = transformer
        self.head = nn.Linear(width, num_outputs)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Tokens (N, T), of which the first `lengths` (N,) count, to outputs (N, num_outputs)."""
        vectors = self.embedding(tokens)
        vectors = self.dropout(vectors + sinusoidal_positions(tokens.shape[1], vectors.shape[2], tokens.device))
        counts = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]  # (N, T)
        vectors = self.transformer(vectors, counts[:, None, None])
        mean = (vectors * counts[:, :, None]).sum(1) / lengths[:, None]
        return self.head(mean)


def sinusoidal_positions(count: int, width: int, device: torch.device | None = None) -> Tensor:
    """What tells one place from another, which attention alone doesn't: (count, width), for any count.

    Place p has sin(p / 10000^(i / width)) at every even i, and the cosine of the same behind it (Vaswani et al. 2017).
    """
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000) / width))
    angles = torch.arange(count, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width]
