"""A torch model as an ONNX graph in memory, each parameter and buffer stored as it is, under its own name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from nm2trt.arrays import Array
from nm2trt.exporter.dynamo_export import eval_copy, to_onnx
from nm2trt.exporter.example import Example
from nm2trt.exporter.reference import arrays_of, run_reference

Given = Tensor | Sequence[Any] | Mapping[str, Any]

_OPSET = 18


def export_in_memory(model: nn.Module, example: Given) -> onnx.ModelProto:
    """Return the graph of a model in eval mode; nothing is folded, so that tensors can be told by name.

    Args:
        model: The model; it is copied and stays as it is.
        example: Arguments of `forward`: a tensor, a tuple or a dict.

    Raises:
        DataError: The example is of a form that cannot be exported.
        InputError: PyTorch cannot export the model.
        BackendMissingError: onnxscript is not installed.
    """
    inputs = Example.of(model, example, names=None, dynamic_batch=False)
    copy = eval_copy(model, torch.float32)
    program = to_onnx(copy, inputs.traced(torch.float32), _OPSET, None, optimize=False)
    proto: onnx.ModelProto = program.model_proto
    return proto


def foreign_tensors(proto: onnx.ModelProto, state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the stored tensors of a graph that are not the module's own, each with the clause that says so.

    Args:
        proto: What `export_in_memory` returned.
        state: The module's parameters and buffers by name.
    """
    foreign: dict[str, str] = {}
    for stored in proto.graph.initializer:
        own = state.get(stored.name)
        numbers = None if own is None else own.detach().cpu()
        if numbers is not None and numbers.is_floating_point():
            numbers = numbers.float()
        if numbers is None or not np.array_equal(onnx.numpy_helper.to_array(stored), numbers.numpy()):
            foreign[stored.name] = f"{stored.name!r} is not a parameter or buffer of the module as it stands"
    for node in proto.graph.node:
        if node.op_type == "Constant":
            foreign[node.output[0]] = f"{node.output[0]!r} is a constant of the module's code"
    return foreign


def outputs_of(model: nn.Module, example: Given) -> dict[str, Array]:
    """Return what a copy of a model computes in eval mode and float32, by the position of each output.

    Raises:
        DataError: The model fails on the example.
    """
    inputs = Example.of(model, example, names=None, dynamic_batch=False)
    returned = run_reference(eval_copy(model, torch.float32), inputs, torch.float32)
    return {f"output {place}": np.asarray(array) for place, array in enumerate(arrays_of(returned))}
