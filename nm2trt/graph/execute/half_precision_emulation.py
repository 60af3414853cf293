"""A half-precision model in float32 arithmetic, each value rounded to the lower type.

On a CPU ONNX Runtime has no bf16 kernels, and few for fp16: it then computes in float32 and leaves out the
rounding in between, so that what overflows in a kernel of a GPU does not there.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nm2trt.graph.analysis.pinned_values import all_names, free_name
from nm2trt.graph.storage.model import Model
from nm2trt.graph.storage.tensors import read_tensor


def rounded_in_float32(model: Model, low_values: frozenset[str], low: int) -> Model:
    """Return a model whose outputs are those of the lower one if products are summed in float32.

    Args:
        model: The model in the lower type. Inputs and outputs of that type are float32 in the result.
        low_values: The values that its nodes make in the lower type.
        low: ONNX's number of that type.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    graph = proto.graph
    for value in [*graph.input, *graph.output]:
        if value.type.tensor_type.elem_type == low:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    taken = all_names(graph)
    for tensor in graph.initializer:
        if tensor.data_type == low:
            array = read_tensor(tensor, model.root).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    del graph.value_info[:]
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        nodes.append(copy)
        for attribute in copy.attribute:
            if attribute.HasField("t") and attribute.t.data_type == low:
                array = read_tensor(attribute.t, model.root).astype(np.float32)
                attribute.t.CopyFrom(numpy_helper.from_array(array, attribute.t.name))
        cast_to_low = node.op_type == "Cast" and any(a.name == "to" and a.i == low for a in node.attribute)
        for slot, name in enumerate(node.output):
            if not cast_to_low and name not in low_values:
                continue
            raw, rounded = (free_name(f"{name}/{kind}", taken) for kind in ("raw", "rounded"))
            copy.output[slot] = rounded if cast_to_low else raw
            if not cast_to_low:
                nodes.append(helper.make_node("Cast", [raw], [rounded], to=low))
            nodes.append(helper.make_node("Cast", [rounded], [name], to=TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
    return Model(proto, None, model.root)
