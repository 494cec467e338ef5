"""Attention, and the block of a transformer: what the models for images, texts and characters are built of."""

from torch import Tensor, nn
from torch.nn import functional as F

from plainloop.errors import UserError
from plainloop.models.layers import check_counts, check_dropout


class SelfAttention(nn.Module):
    """Every place of a sequence asks all places for what it needs to know (Vaswani et al. 2017, "Attention is all you
    need").

    A place's query is compared with every place's key, and it gets the values of those that fit it best: their mean,
    weighted by softmax(q k^T / sqrt(D)). Each head does so on its own, with D = width / heads numbers.

    Args:
        width: numbers that stand for a place.
        heads: into how many parts they are divided.
        dropout: share of the weights set to zero while training.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, inputs: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Inputs (N, T, width) to outputs of the same shape.

        Args:
            mask: true where a place may be looked at, (N, 1, 1, T) or what else fits (N, heads, T, T); None for all.
            causal: a place looks at those before it and at itself; instead of a mask.
        """
        parts = self.query_key_value(inputs).chunk(3, dim=2)
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)  # (N, heads, T, D)
        dropout = self.dropout if self.training else 0.0
        heard = F.scaled_dot_product_attention(query, key, value, mask, dropout, causal)
        return self.out(heard.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, by which places learn of each other, and two linear layers, by which each thinks about what it has
    learned. What either says is added to what was there; the norm comes first, as is easier to train (Xiong et al.
    2020, "On layer normalization in the transformer architecture").
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Inputs (N, T, width) to outputs of the same shape; mask and causal as for `SelfAttention`."""
        inputs = inputs + self.dropout(self.attention(self.norm1(inputs), mask, causal))
        return inputs + self.dropout(self.mlp(self.norm2(inputs)))


class Transformer(nn.Module):
    """So many blocks, and a norm behind the last. Raises UserError for what can't be built.

    Args:
        width: numbers that stand for a place of the sequence.
        layers: how many blocks.
        heads: of each block's attention; they divide the width.
        dropout: share of the attention's weights, and of what is added, set to zero while training.
    """

    def __init__(self, width: int, layers: int, heads: int, dropout: float = 0.0):
        super().__init__()
        check_counts(width=width, layers=layers, heads=heads)
        check_dropout(dropout)
        if width % heads:
            raise UserError(f"model.heads={heads}: must divide model.width={width}, of which each head gets a part.")
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, inputs: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Inputs (N, T, width) to outputs of the same shape; mask and causal as for `SelfAttention`."""
        for block in self.blocks:
            inputs = block(inputs, mask, causal)
        return self.norm(inputs)
