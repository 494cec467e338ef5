"""A graph as an ONNX file, and such a file as it answers in onnxruntime: the extra `plainloop[export]`.

These libraries are talkative, in Python and below it: `quietly` throws that away.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from plainloop.assembly.deployable import Graph
from plainloop.assembly.quiet import quietly
from plainloop.errors import MachineError, UserError, first_line
from plainloop.trust import optional

MOST = 2**31 - 1  # bytes in one file of protobuf's
KEY = "plainloop"  # under which the facts lie in a file's metadata


def made(graph: Graph, facts: Mapping[str, Any]) -> bytes:
    """The ONNX file of a graph. Raises UserError for a graph that has none.

    Args:
        facts: what its metadata tell.
    """
    with quietly():
        try:
            exported = torch.onnx.export(
                graph.program,
                dynamo=True,
                verbose=False,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                custom_translation_table=translations(),
            )
            assert exported is not None
            proto = exported.model_proto
        except Exception as error:  # of torch's exporter, onnxscript and onnx
            cause = error.__cause__ or error
            raise UserError(
                f"format=onnx: torch's exporter can't write this model: {first_line(cause)[:300]}"
            ) from error
        _cleared(proto, graph)
        proto.metadata_props.add(key=KEY, value=json.dumps(facts))
        if proto.ByteSize() > MOST:
            raise UserError("format=onnx: the model is over 2 GB, which an ONNX file can't hold: format=torch_export")
        return proto.SerializeToString()


def _cleared(proto: Any, graph: Graph) -> None:
    """Without the paths of this machine, which the exporter puts beside every node; the axes by their names."""
    for part in [proto.graph, *proto.functions]:
        for node in part.node:
            del node.metadata_props[:]
            node.doc_string = ""
        del part.value_info[:]
        del part.metadata_props[:]
    del proto.metadata_props[:]
    for signature, values in ((graph.inputs, proto.graph.input), (graph.outputs, proto.graph.output)):
        for value in values:
            del value.metadata_props[:]
            for axis, dim in zip(signature[value.name][1], value.type.tensor_type.shape.dim, strict=True):
                if isinstance(axis, int):
                    dim.dim_value = axis
                else:
                    dim.dim_param = axis


def translations() -> dict[Any, Any]:
    """How our operations are written in ONNX's."""
    from onnxscript import opset18

    op: Any = opset18

    def parted(weights: Any, order: Sequence[int]) -> Any:
        """The gates' weights in ONNX's order."""
        if len(order) == 1:
            return weights
        parts = op.Split(weights, axis=0, num_outputs=len(order))
        return op.Concat(*(parts[place] for place in order), axis=0)

    def weights_of(params: Sequence[Any], has_biases: bool, order: Sequence[int]) -> list[Any]:
        inner, recurrent = (op.Unsqueeze(parted(each, order), [0]) for each in params[:2])
        if not has_biases:
            return [inner, recurrent, None]
        return [inner, recurrent, op.Unsqueeze(op.Concat(*(parted(each, order) for each in params[2:]), axis=0), [0])]

    def by_time(outputs: Any) -> Any:
        return op.Transpose(op.Squeeze(outputs, [1]), perm=[1, 0, 2])

    def size_of(params: Sequence[Any]) -> int:
        return int(params[1].shape[1])

    def rnn_of(activation: str) -> Any:
        def rnn(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first):
            weights = weights_of(params, has_biases, [0])
            rows = op.Transpose(input, perm=[1, 0, 2])
            outputs, end = op.RNN(rows, *weights, None, hx, hidden_size=size_of(params), activations=[activation])
            return by_time(outputs), end

        return rnn

    def gru(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first):
        weights = weights_of(params, has_biases, [1, 0, 2])
        rows = op.Transpose(input, perm=[1, 0, 2])
        outputs, end = op.GRU(rows, *weights, None, hx, hidden_size=size_of(params), linear_before_reset=1)
        return by_time(outputs), end

    def lstm(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first):
        weights = weights_of(params, has_biases, [0, 3, 1, 2])
        rows = op.Transpose(input, perm=[1, 0, 2])
        outputs, end, memory = op.LSTM(rows, *weights, None, *hx, hidden_size=size_of(params))
        return by_time(outputs), end, memory

    ours = torch.ops.plainloop
    return {
        ours.rnn_tanh.default: rnn_of("Tanh"),
        ours.rnn_relu.default: rnn_of("Relu"),
        ours.gru.default: gru,
        ours.lstm.default: lstm,
    }


# --- a file as it answers -------------------------------------------------------------------------------------------


class Exported:
    """An ONNX file in onnxruntime, on the CPU: {name: inputs} to {name: outputs}. Raises UserError for what is none.

    Args:
        model: the file, or what it holds.
        what: it is, for errors.
        threads: to compute with; None for as many as torch uses.
    """

    def __init__(self, model: bytes | Path, what: str, threads: int | None = None):
        with quietly():
            onnxruntime = optional("onnxruntime")
            onnxruntime.set_default_logger_severity(4)
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            options.intra_op_num_threads = threads or torch.get_num_threads()
            given = model if isinstance(model, bytes) else str(model)
            try:
                self.session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # onnxruntime's own, which have no common class
                raise UserError(f"{what}: onnxruntime can't load it: {first_line(error)[:300]}") from error
        self.names = [each.name for each in self.session.get_outputs()]
        told = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        try:
            self.facts: dict[str, Any] = json.loads(told) if told else {}
        except ValueError:
            self.facts = {}

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, numpy.ndarray]:
        given = {name: value.numpy() if isinstance(value, Tensor) else value for name, value in inputs.items()}
        return dict(zip(self.names, self.session.run(None, given), strict=True))


def quantised(model: bytes) -> bytes:
    """The file with weights of 8 bits, by which products are computed with inputs that are rounded to 8 bits as they
    come (dynamic quantisation). Raises MachineError."""
    with quietly(), tempfile.TemporaryDirectory() as folder:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        try:
            target = Path(folder) / "quantised.onnx"
            quantize_dynamic(onnx.load_model_from_string(model), target, weight_type=QuantType.QInt8)
            return target.read_bytes()
        except Exception as error:
            raise MachineError(
                f"quantize=int8: onnxruntime can't quantise this model: {first_line(error)[:300]}"
            ) from error
