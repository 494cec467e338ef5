"""The twins of recurrent layers that exporters can trace: the same numbers as torch's own, packed or not."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from plainloop.errors import UserError
from plainloop.models.unpacked import Unpacked
from tests.conftest import one_in

LAYERS = {
    "rnn": lambda **options: nn.RNN(5, 6, **options),
    "relu": lambda **options: nn.RNN(5, 6, nonlinearity="relu", **options),
    "lstm": lambda **options: nn.LSTM(5, 6, **options),
    "gru": lambda **options: nn.GRU(5, 6, **options),
}


@pytest.mark.parametrize(("cell", "layers", "both"), one_in(2, itertools.product(LAYERS, [1, 2], [False, True])))
def test_the_twin_says_what_packed_layers_say(cell, layers, both):
    """To 1e-7, over sequences of several lengths."""
    torch.manual_seed(0)
    recurrent = LAYERS[cell](num_layers=layers, bidirectional=both, batch_first=True).eval()
    sequences, lengths = torch.randn(4, 9, 5), torch.tensor([9, 1, 4, 7])
    with torch.no_grad():
        packed, state = recurrent(pack_padded_sequence(sequences, lengths, batch_first=True, enforce_sorted=False))
        truth, _ = pad_packed_sequence(packed, batch_first=True)
        outputs, hidden = Unpacked(recurrent)(sequences, lengths=lengths)
    counts = torch.arange(9) < lengths[:, None]
    torch.testing.assert_close(outputs[counts], truth[counts], atol=2e-7, rtol=1e-6)
    torch.testing.assert_close(hidden, state[0] if cell == "lstm" else state, atol=2e-7, rtol=1e-6)


@pytest.mark.parametrize(
    ("cell", "first", "biases"),
    [("gru", True, False), ("lstm", False, True), ("lstm", True, True), ("rnn", False, False), ("relu", True, True)],
)
def test_and_what_they_say_from_a_state_on(cell, first, biases):
    torch.manual_seed(0)
    recurrent = LAYERS[cell](num_layers=2, bidirectional=True, batch_first=first, bias=biases).eval()
    sequences, begin = torch.randn(4, 9, 5), torch.randn(4, 4 if first else 9, 6)
    state = (begin, begin.flip(0)) if cell == "lstm" else begin
    with torch.no_grad():
        for given in ((sequences,), (sequences, state)):
            outputs, end = Unpacked(recurrent)(*given)
            truth, last = recurrent(*given)
            torch.testing.assert_close(outputs, truth, atol=2e-7, rtol=1e-6)
            torch.testing.assert_close(end, last, atol=2e-7, rtol=1e-6)


def test_what_has_no_twin_is_refused():
    with pytest.raises(UserError, match="an LSTM with proj_size can't be exported"):
        Unpacked(nn.LSTM(5, 6, proj_size=3))
