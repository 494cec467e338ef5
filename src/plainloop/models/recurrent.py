"""Recurrent networks: a state that is carried from one element of a sequence to the next.

A simple RNN (Elman 1990, "Finding structure in time"), the LSTM (Hochreiter and Schmidhuber 1997, "Long short-term
memory") and the GRU (Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder for statistical
machine translation") are three ways of changing that state; what is built around them is the same.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from plainloop.errors import UserError, did_you_mean, listed
from plainloop.models.characters import CharModel
from plainloop.models.layers import check_counts, check_dropout

CELLS: dict[str, Any] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def recurrent_layers(
    cell: str, in_features: int, hidden_size: int, layers: int = 1, bidirectional: bool = False, dropout: float = 0.0
) -> nn.RNNBase:
    """Layers of one cell over sequences (N, T, in_features). Raises UserError for what can't be built.

    Args:
        cell: rnn, lstm or gru.
        dropout: between the layers; the last one's outputs are left as they are.
    """
    if cell not in CELLS:
        raise UserError(f"model.cell={cell}: not known.{did_you_mean(str(cell), CELLS)} There are: {listed(CELLS)}.")
    check_counts(hidden_size=hidden_size, layers=layers)
    check_dropout(dropout)
    between = dropout if layers > 1 else 0.0
    return CELLS[cell](in_features, hidden_size, layers, batch_first=True, bidirectional=bidirectional, dropout=between)


def last_state(state: Any, directions: int) -> Tensor:
    """What the last layer has seen in the end, (N, directions x hidden_size): forwards the state at a sequence's last
    element, backwards the one at its first.

    Args:
        state: what a layer of torch's returns beside its outputs: (layers x directions, N, hidden_size), of an LSTM
            with its memory.
    """
    hidden = state[0] if isinstance(state, tuple) else state
    return torch.cat(tuple(hidden[-directions:]), dim=1)


class RNNClassifier(nn.Module):
    """Reads a sequence of tokens and says one thing about it: embedding - recurrent layers - linear.

    The sequences of a batch are padded to one length, and packed before they are read, so that the state stops
    changing where a sequence ends: padding doesn't change a result.

    Args:
        vocab_size: how many tokens there are.
        num_outputs: outputs per sequence (logits, or values).
        embedding_size: numbers that stand for a token.
        hidden_size: numbers in the state.
        cell: rnn, lstm or gru.
        layers: each reads what the one below it gives.
        bidirectional: read backwards as well.
        dropout: share of the embedding, between the layers, and before the head, set to zero while training.
        padding: the token that fills up a batch; its embedding is zero and isn't learned.
    """

    def __init__(
        self,
        vocab_size: int,
        num_outputs: int,
        embedding_size: int = 64,
        hidden_size: int = 64,
        cell: str = "lstm",
        layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.0,
        padding: int = 0,
    ):
        super().__init__()
        check_counts(embedding_size=embedding_size)
        self.directions = 2 if bidirectional else 1
        self.embedding = nn.Embedding(vocab_size, embedding_size, padding_idx=padding)
        self.recurrent = recurrent_layers(cell, embedding_size, hidden_size, layers, bidirectional, dropout)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.directions * hidden_size, num_outputs)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Tokens (N, T), of which the first `lengths` (N,) count, to outputs (N, num_outputs)."""
        vectors = self.dropout(self.embedding(tokens))
        if isinstance(self.recurrent, nn.RNNBase):
            # The lengths decide what is computed, and the CPU must know them.
            packed = pack_padded_sequence(vectors, lengths.cpu(), batch_first=True, enforce_sorted=False)
            _, state = self.recurrent(packed)
        else:  # its twin for exporters: unpacked.py
            _, state = self.recurrent(vectors, lengths=lengths)
        return self.head(self.dropout(last_state(state, self.directions)))


class SeriesRNN(nn.Module):
    """Reads a window of rows of numbers and says one thing about it: recurrent layers - linear.

    Args:
        in_features: numbers in a row.
        num_outputs: outputs per window (values, or logits).
        hidden_size, cell, layers, bidirectional: as for `RNNClassifier`.
        dropout: share of what lies between the layers, and before the head, set to zero while training.
    """

    def __init__(
        self,
        in_features: int,
        num_outputs: int,
        hidden_size: int = 64,
        cell: str = "gru",
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.directions = 2 if bidirectional else 1
        self.recurrent = recurrent_layers(cell, in_features, hidden_size, layers, bidirectional, dropout)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.directions * hidden_size, num_outputs)

    def forward(self, windows: Tensor) -> Tensor:
        """Windows (N, T, in_features) to outputs (N, num_outputs)."""
        _, state = self.recurrent(windows)
        return self.head(self.dropout(last_state(state, self.directions)))


class CharRNN(CharModel):
    """Says something at every place of a sequence, knowing what came before it: the next character, say.

    Args:
        vocab_size: how many tokens there are.
        num_outputs: outputs per place (logits).
        embedding_size: numbers that stand for a token; None for one-hot vectors of vocab_size numbers.
        hidden_size: numbers in the state; None for num_outputs, and then the state itself is the outputs: there is no
            linear layer behind it.
        cell, layers: as for `RNNClassifier`.
        dropout: share of what lies between the layers, and before the head, set to zero while training.
        vocabulary: the tokens, for `generate`; or a string of JSON that lists them.
    """

    def __init__(
        self,
        vocab_size: int,
        num_outputs: int,
        embedding_size: int | None = None,
        hidden_size: int | None = 256,
        cell: str = "gru",
        layers: int = 1,
        dropout: float = 0.0,
        vocabulary: str | Sequence[str] | None = None,
    ):
        super().__init__(vocabulary)
        if embedding_size is not None:
            check_counts(embedding_size=embedding_size)
        self.vocab_size = vocab_size
        self.embedding = None if embedding_size is None else nn.Embedding(vocab_size, embedding_size)
        size = hidden_size if hidden_size is not None else num_outputs
        self.recurrent = recurrent_layers(cell, embedding_size or vocab_size, size, layers, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Identity() if hidden_size is None else nn.Linear(size, num_outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T) to logits (N, T, num_outputs)."""
        return self.read(tokens)[0]

    def read(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The same from a state on that an earlier piece of the sequences has left; and the state in the end."""
        if self.embedding is not None:
            vectors = self.embedding(tokens)
        else:
            vectors = nn.functional.one_hot(tokens, self.vocab_size).to(next(self.parameters()).dtype)
        outputs, state = self.recurrent(vectors, state)
        return self.head(self.dropout(outputs)), state
