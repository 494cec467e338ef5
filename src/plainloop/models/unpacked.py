"""Recurrent layers as exporters can trace them: one direction of one layer after the other, over sequences that aren't
packed.

Packing lets the lengths of a batch decide what is computed, and torch's own layers are traced for one length of the
sequences, silently. Here a layer that reads backwards gets each sequence reversed within its length, and what a layer
says of padding is left out: the same numbers.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.errors import UserError

# torch's own operations under names of ours, as one that knows nothing of the inputs' length: torch.export would walk
# through them, step by step. `as_torch_has_it` puts torch's own back.
LIBRARY = torch.library.Library("plainloop", "DEF")
REST = (
    "Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, bool bidirectional, bool batch_first"
)
ATEN: dict[str, Any] = {
    "rnn_tanh": torch.ops.aten.rnn_tanh.input,
    "rnn_relu": torch.ops.aten.rnn_relu.input,
    "gru": torch.ops.aten.gru.input,
    "lstm": torch.ops.aten.lstm.input,
}


def _define(name: str, of_torch: Callable[..., Any]) -> None:
    state, states = ("Tensor[]", "Tensor, Tensor") if name == "lstm" else ("Tensor", "Tensor")
    LIBRARY.define(f"{name}(Tensor input, {state} hx, {REST}) -> (Tensor, {states})")
    LIBRARY.impl(name, of_torch, "CompositeExplicitAutograd")

    def shapes(inputs: Tensor, state: Any, params: list[Tensor], *_: Any) -> tuple[Tensor, ...]:
        states = state if name == "lstm" else [state]
        outputs = inputs.new_empty(inputs.shape[0], inputs.shape[1], states[0].shape[2])
        return outputs, *(torch.empty_like(each) for each in states)

    torch.library.register_fake(f"plainloop::{name}", shapes, lib=LIBRARY)


for _name, _of_torch in ATEN.items():
    _define(_name, _of_torch)


def name_of(layers: nn.RNNBase) -> str:
    """rnn_tanh, rnn_relu, gru or lstm."""
    return layers.mode.lower()


def as_torch_has_it(graph_module: torch.fx.GraphModule) -> None:
    """Put torch's own operations in the place of ours, so that whoever loads the graph needs nothing else."""
    ours = {getattr(torch.ops.plainloop, name).default: of_torch for name, of_torch in ATEN.items()}
    for node in graph_module.graph.nodes:
        node.target = ours.get(node.target, node.target) if node.op == "call_function" else node.target
    graph_module.recompile()


class Unpacked(nn.Module):
    """What a recurrent layer of torch's does, with its weights. Raises UserError for one that there is no twin of.

    Args:
        layers: nn.RNN, nn.LSTM or nn.GRU.
    """

    def __init__(self, layers: nn.RNNBase):
        super().__init__()
        if layers.proj_size:
            raise UserError("model: an LSTM with proj_size can't be exported.")
        self.name, self.batch_first, self.hidden_size = name_of(layers), layers.batch_first, layers.hidden_size
        self.layers, self.directions, self.biases = layers.num_layers, 1 + layers.bidirectional, layers.bias
        self.weights = nn.ParameterList(layers.parameters())

    def forward(self, inputs: Tensor, state: Any = None, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        """As the layer itself; beside it:

        Args:
            lengths: (N,), so many places of each sequence count. Behind them the outputs mean nothing; the state is
                the hidden one at a sequence's end alone, without an LSTM's memory.
        """
        sequences = inputs if self.batch_first else inputs.transpose(0, 1)
        each = zip(self._parameters_of_each(), self._states(sequences, state), strict=True)
        found: list[tuple[Tensor, ...]] = []  # of every direction of every layer, the state in the end
        for _ in range(self.layers):
            said = []  # by the directions of a layer
            for direction in range(self.directions):
                parameters, begin = next(each)
                heard = _reversed(sequences, lengths) if direction else sequences
                outputs, *ends = getattr(torch.ops.plainloop, self.name)(
                    heard, begin, parameters, self.biases, 1, 0.0, False, False, True
                )
                said.append(_reversed(outputs, lengths) if direction else outputs)
                found.append(tuple(end[0] for end in ends) if lengths is None else (_last(outputs, lengths),))
            sequences = torch.cat(said, 2) if self.directions == 2 else said[0]
        states = tuple(map(torch.stack, zip(*found, strict=True)))
        outputs = sequences if self.batch_first else sequences.transpose(0, 1)
        return outputs, states if len(states) > 1 else states[0]

    def _parameters_of_each(self) -> Iterator[list[Tensor]]:
        """The weights of every direction of every layer."""
        each = 4 if self.biases else 2
        for start in range(0, len(self.weights), each):
            yield list(self.weights)[start : start + each]

    def _states(self, sequences: Tensor, state: Any) -> Iterator[Any]:
        """What every direction of every layer begins with, (1, N, hidden_size); two of them for an LSTM."""
        zeros = sequences.new_zeros(1, sequences.shape[0], self.hidden_size)
        for place in range(self.layers * self.directions):
            given = None if state is None else state if isinstance(state, tuple) else (state,)
            parts = [zeros] * (1 + (self.name == "lstm")) if given is None else [each[place][None] for each in given]
            yield parts if self.name == "lstm" else parts[0]


def _reversed(sequences: Tensor, lengths: Tensor | None) -> Tensor:
    """Sequences (N, T, F) backwards, each within its length."""
    if lengths is None:
        return sequences.flip(1)
    places = torch.arange(sequences.shape[1], device=sequences.device)
    backwards = torch.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)
    return sequences.gather(1, backwards[:, :, None].expand(-1, -1, sequences.shape[2]))


def _last(outputs: Tensor, lengths: Tensor) -> Tensor:
    """What stands at the last place that counts, (N, F)."""
    return outputs.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, outputs.shape[2]))[:, 0]
