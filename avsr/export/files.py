"""Graphs as ONNX files: torch's exporter, int8 by ONNX Runtime's own tools, and one file of weights for all graphs.

    Graph -> traced -> ModelProto -> quantised -> ModelProto -> SharedWeights -> NAME.onnx, and weights.bin for all
Attention without a mask is written as ONNX Runtime's own MultiHeadAttention.
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
    return _with_blockwise_attention(program.model_proto)


def _with_blockwise_attention(model: ModelProto) -> ModelProto:
    """The graph with each self-attention that has no mask as ONNX Runtime's own MultiHeadAttention (domain com.microsoft).

    Given (B, S, D) that multiplies block by block, and never writes down all products of queries and keys, which are 54 MB a
    layer for half a minute of sound and 6 heads: without an arena the encoder of tiny.en took 0.70 s of a core, and takes 0.54.
    """
    from onnx import helper, numpy_helper

    graph, nodes = model.graph, []
    shapes = {one.name: [axis.dim_value for axis in one.type.tensor_type.shape.dim] for one in graph.value_info}
    given = {one.name for one in graph.input}               # such as the keys of a memory, which would have to be transposed
    for node in graph.node:
        if node.op_type != "Attention" or len(list(filter(None, node.input))) != 3 or not given.isdisjoint(node.input):
            nodes.append(node)
            continue
        assert all(one.name != "scale" for one in node.attribute), "both operators scale by the root of D / H"
        result = node.output[0]
        # Queries, keys and values are (B, H, S, D / H). ONNX Runtime removes the transposes with those that came before.
        _, n_heads, _, inside = shapes[node.input[0]]
        for name, shape in (("joined", [0, 0, n_heads * inside]), ("apart", [0, 0, n_heads, inside])):
            graph.initializer.append(numpy_helper.from_array(np.array(shape), f"{result}.{name}.shape"))
        joined = [f"{result}.{name}" for name in ("query", "key", "value")]
        for before, after in zip(node.input, joined, strict=True):
            nodes += [helper.make_node("Transpose", [before], [f"{after}.by_place"], perm=[0, 2, 1, 3]),
                      helper.make_node("Reshape", [f"{after}.by_place", f"{result}.joined.shape"], [after])]
        nodes += [helper.make_node("MultiHeadAttention", joined, [f"{result}.joined"], domain="com.microsoft",
                                   num_heads=n_heads),
                  helper.make_node("Reshape", [f"{result}.joined", f"{result}.apart.shape"], [f"{result}.apart"]),
                  helper.make_node("Transpose", [f"{result}.apart"], [result], perm=[0, 2, 1, 3])]
    del graph.node[:]
    graph.node.extend(nodes)
    if all(one.domain != "com.microsoft" for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def _reason(error: BaseException) -> str:
    """What went wrong, from the innermost cause of an exporter's error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160] if lines else 'no reason given'}"


def quantised(model: ModelProto) -> ModelProto:
    """The graph with the weights of its matrix products in 8 bits (dynamic quantisation by onnxruntime.quantization).

    There is a scale for each column that a product makes; its inputs are brought to 8 bits when it is computed. Convolutions
    stay in 32 bits, and so do products of what a GELU or an attention returns, see _products_of_wide_inputs. The table of
    embeddings, of which single rows are taken, is stored in 16 bits.
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
                             op_types_to_quantize=["MatMul", "Gemm"], nodes_to_exclude=_products_of_wide_inputs(model))
            return onnx.load(path)
    finally:
        logging.disable(disabled)


def _products_of_wide_inputs(model: ModelProto) -> list[str]:
    """The names of the products whose inputs come from a GELU or an attention.

    A few of these inputs are far larger than the others, which 8 bits for all leave little of. In the encoder of tiny.en the
    first made an error of 1.8 % when they alone were rounded, the second 1.1 %, all other products together 1.0 %. With
    them in 32 bits 1.8 % of the words of 40 clips of GRID's validation part changed, and 3.5 % without, in no more time.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        maker = makers.get(node.input[0]) if node.op_type in ("MatMul", "Gemm") else None
        while maker is not None and maker.op_type in ("Reshape", "Transpose"):
            maker = makers.get(maker.input[0])
        if maker is not None and maker.op_type in ("Gelu", "Attention", "MultiHeadAttention"):
            found.append(node.name)
    return found


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
