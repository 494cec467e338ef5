"""A transformer that writes: it says at every place of a text which character is next."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from plainloop.errors import UserError
from plainloop.models.attention import Transformer
from plainloop.models.characters import CharModel
from plainloop.models.layers import check_counts


class CharTransformer(CharModel):
    """A transformer's decoder alone, as GPT has it (Radford et al. 2018, "Improving language understanding by
    generative pre-training"): every place looks at those before it and at itself, and at none behind it.

    Args:
        vocab_size: how many tokens there are.
        num_outputs: outputs per place (logits).
        context_length: places that it can look at, each with a position that is learned.
        width, layers, heads: of the `Transformer`; width is the size of the embedding, too.
        dropout: of the `Transformer`, and of the embedding.
        tie_weights: a token's logit is computed with the vector that stands for it where it is read (Press and Wolf
            2017, "Using the output embedding to improve language models"); else there is a linear layer.
        vocabulary: the tokens, for `generate`; or a string of JSON that lists them.
    """

    def __init__(
        self,
        vocab_size: int,
        num_outputs: int,
        context_length: int = 256,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        tie_weights: bool = False,
        vocabulary: str | Sequence[str] | None = None,
    ):
        super().__init__(vocabulary)
        check_counts(context_length=context_length)
        if tie_weights and vocab_size != num_outputs:
            raise UserError(
                f"model.tie_weights=true: what is read has {vocab_size} tokens, and what is said "
                f"{num_outputs}: set it to false."
            )
        self.context_length = context_length
        transformer = Transformer(width, layers, heads, dropout)
        self.embedding = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(context_length, width)
        for embedding in (self.embedding, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.transformer = transformer
        self.head = None if tie_weights else nn.Linear(width, num_outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T) to logits (N, T, num_outputs). Raises UserError where T is more than the context's length."""
        count = tokens.shape[1]
        if count > self.context_length:
            raise UserError(
                f"model.context_length={self.context_length}: these sequences have {count} characters: set "
                f"model.context_length={count}, or data.length={self.context_length}."
            )
        vectors = self.embedding(tokens) + self.positions.weight[:count]
        vectors = self.transformer(self.dropout(vectors), causal=True)
        return vectors @ self.embedding.weight.T if self.head is None else self.head(vectors)

    def read(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The same behind the tokens `state` (N, S), of which there may be none; and all of them, to go on from: the
        last ones, if they are more than the context has places. The logits are those of the places that remain."""
        tokens = tokens if state is None else torch.cat([state, tokens], dim=1)
        tokens = tokens[:, -self.context_length :]
        return self(tokens), tokens
