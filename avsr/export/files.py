"""Graphs as ONNX files: torch's exporter, int8 by ONNX Runtime's own tools, and one file of weights for all graphs.

    Graph -> traced -> ModelProto -> quantised -> ModelProto -> SharedWeights -> NAME.onnx, and weights.bin for all
"""

from __future__ import annotations

import hashlib
import io
import logging
import tempfile
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from avsr.errors import BadCheckpoint
from avsr.export.graphs import Graph
from avsr.runtime import import_onnxruntime

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

OPSET = 23                                                  # the first with Attention, which ONNX Runtime runs as one operation
LEAST_SHARED = 1024                                         # bytes of a tensor that goes into the file of weights
ALIGNED = 4096                                              # bytes: ONNX Runtime maps weights that begin at a page
EMBEDDING = "decoder.embedding.weight"


def traced(graph: Graph, name: str) -> ModelProto:
    """The graph of a part of a network. Raises BadCheckpoint, with the part, where torch's exporter cannot express it."""
    import torch

    axes = [tuple({axis: torch.export.Dim.AUTO for axis in graph.axes[one]} for one in graph.inputs)]
    try:
        # With gradients, as in training, the ResNet of a video encoder takes all frames at once, without a loop over pieces.
        with torch.enable_grad(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")                 # of torch about itself
            program = torch.onnx.export(graph.module().eval(), tuple(graph.inputs.values()), dynamo=True, opset_version=OPSET,
                                        verbose=False, input_names=list(graph.inputs), output_names=list(graph.outputs),
                                        dynamic_shapes=axes)
    except Exception as error:                              # torch's exporter raises whatever a pass of it raises
        raise BadCheckpoint(f"{name}: its part {graph.name} cannot be exported ({_reason(error)}).  Use it with torch, by its "
                            "own folder.") from error
    assert program is not None
    return program.model_proto


def _reason(error: BaseException) -> str:
    """What went wrong, from the innermost cause of an exporter's error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160] if lines else 'no reason given'}"


def quantised(model: ModelProto) -> ModelProto:
    """The graph with the weights of its matrix products in 8 bits (dynamic quantisation by onnxruntime.quantization).

    There is a scale for each column that a product makes; its inputs are brought to 8 bits when it is computed. Convolutions
    stay in 32 bits. The table of embeddings, of which single rows are taken, is stored in 16 bits.
    """
    import_onnxruntime()
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    _split_embedding(model)
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)                        # it advises a pass that graphs of torch's exporter do not need
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            # Unsigned: of signed weights a processor without VNNI adds pairs of products in 16 bits, which overflow (44 % of
            # the words of 48 clips of GRID changed, 4 % by these).
            quantize_dynamic(model, path, weight_type=QuantType.QUInt8, per_channel=True,
                             op_types_to_quantize=["MatMul", "Gemm"])
            return onnx.load(path)
    finally:
        logging.disable(disabled)


def _split_embedding(model: ModelProto) -> None:
    """Store the table of embeddings and the same weights of the product that makes the logits as two tensors."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    table = next((one for one in graph.initializer if one.name.endswith(EMBEDDING)), None)
    if table is None:
        return
    values = numpy_helper.to_array(table)
    for node in list(graph.node):
        if table.name not in node.input:
            continue
        if node.op_type == "Transpose":                     # to (D, V), for the product that makes the logits
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values.T), node.output[0]))
            graph.node.remove(node)
        elif node.op_type == "Gather":
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), f"{table.name}.half"))
            found = node.output[0]
            place = list(graph.node).index(node)
            node.input[0], node.output[0] = f"{table.name}.half", f"{found}.half"
            _insert(model, place + 1, helper.make_node("Cast", [f"{found}.half"], [found], to=TensorProto.FLOAT))
    graph.initializer.remove(table)


def _insert(model: ModelProto, place: int, node: NodeProto) -> None:
    """Insert a node into a graph, whose list of nodes can only be appended to."""
    nodes = list(model.graph.node)
    nodes.insert(place, node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


class SharedWeights:
    """One file for the weights of several graphs, each of which is stored once, however many graphs have it."""

    def __init__(self, file: BinaryIO, name: str):
        """name: of the file, as the graphs beside it know it."""
        self._file, self._name, self._places = file, name, dict[tuple[str, int], int]()

    def move(self, model: ModelProto) -> None:
        """Move the large weights of a graph into the file."""
        from onnx import TensorProto, numpy_helper

        for tensor in model.graph.initializer:
            if (data := numpy_helper.to_array(tensor).tobytes()) and len(data) >= LEAST_SHARED:
                offset = self._place(data)
                tensor.ClearField("raw_data")
                for one in ("float_data", "int32_data", "int64_data"):
                    tensor.ClearField(one)
                del tensor.external_data[:]
                tensor.data_location = TensorProto.EXTERNAL
                for key, value in (("location", self._name), ("offset", offset), ("length", len(data))):
                    tensor.external_data.add(key=key, value=str(value))

    def _place(self, data: bytes) -> int:
        """Where some bytes are in the file, to which they are added where they are not there yet."""
        key = hashlib.sha256(data).hexdigest(), len(data)
        if key not in self._places:
            self._file.write(bytes(-self._file.tell() % ALIGNED))
            self._places[key] = self._file.tell()
            self._file.write(data)
        return self._places[key]
