"""Q/DQ islands: layers of a quantised model that do not compute in INT8 (or FP8) from end to end, and why.

A sparse INT8 kernel is considered if a layer is INT8-in and INT8-out: activation and weight come out of
symmetric quantise/dequantise pairs, and what its kernel gives goes into nothing but QuantizeLinear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nm2trt.graph.analysis.constant_values import constant_value, direct_initializer
from nm2trt.graph.analysis.kernel_chains import kernel_chain
from nm2trt.graph.analysis.main_graph import MainGraph
from nm2trt.graph.analysis.operator_cost import Opaque
from nm2trt.graph.analysis.quantised_values import dequantised
from nm2trt.graph.analysis.value_states import Scope
from nm2trt.graph.analysis.weight_operands import Consumer
from nm2trt.graph.storage.model import Model
from nm2trt.json_value import JsonValue
from nm2trt.tables.table import Column, Row, Table

_FLOAT_SIDES = frozenset({"float", "input-float", "weight-float"})


@dataclass(frozen=True, slots=True)
class Island(JsonValue):
    """One layer that is not quantised from end to end.

    Args:
        consumer: Its node.
        operator: The node's type.
        code: Short stable name of the cause: "float", "input-float", "weight-float", "asymmetric",
            "unsigned", "mixed-types", "per-channel-input", "weight-axis" or "output-float".
        sentence: The cause in words.
    """

    consumer: str
    operator: str
    code: str
    sentence: str

    @property
    def computes_in_float(self) -> bool:
        """Whether the layer multiplies floats."""
        return self.code in _FLOAT_SIDES


@dataclass(frozen=True, slots=True)
class _Side:
    """What a DequantizeLinear says of an operand.

    Args:
        dtype: ONNX name of the quantised type.
        symmetric: Whether every zero point is zero.
        axis: The axis with a scale an index; None for one scale.
        rank: Rank of what is dequantised, if it is stored; else None.
    """

    dtype: str
    symmetric: bool
    axis: int | None
    rank: int | None


def find_islands(model: Model, operands: Iterable[Consumer]) -> Mapping[str, Island]:
    """Return the islands of a model by the label of their node; none in a model without Q/DQ.

    Args:
        model: The model.
        operands: Its weights, as `consumers` yields them.
    """
    if not any(node.op_type == "QuantizeLinear" for node in model.proto.graph.node):
        return {}
    found: dict[str, Island] = {}
    graph: MainGraph | None = None
    for operand in operands:
        if operand.scope.name or operand.operator not in ("Conv", "Gemm", "MatMul"):
            continue
        graph = graph or MainGraph(model)
        code, sentence = _judge(graph, operand)
        if code:
            found[operand.label] = Island(operand.label, operand.operator, code, sentence)
    return found


def _judge(graph: MainGraph, operand: Consumer) -> tuple[str, str]:
    node, which = operand.node, operand.input_index
    data = _side(operand.scope, node.input[1 - which])
    weight = _side(operand.scope, node.input[which])
    if data is None and weight is None:
        return "float", "neither its input nor its weight is quantised"
    if data is None:
        return "input-float", f"its input comes in float from {_maker(graph, node.input[1 - which])}"
    if weight is None:
        return "weight-float", "its weight is not quantised"
    return _mismatch(operand, data, weight) or _output(graph, operand, data.dtype)


def _mismatch(operand: Consumer, data: _Side, weight: _Side) -> tuple[str, str] | None:
    for what, side in (("input", data), ("weight", weight)):
        if side.dtype.startswith("u"):
            return "unsigned", f"its {what} is quantised to {side.dtype}; INT8 kernels take int8"
        if not side.symmetric:
            return "asymmetric", f"its {what} has a zero point other than 0"
    if data.dtype != weight.dtype:
        return "mixed-types", f"its input is quantised to {data.dtype}, its weight to {weight.dtype}"
    if data.axis is not None:
        return "per-channel-input", f"its input has a scale per index of axis {data.axis}; kernels read one"
    wanted = _output_axis(operand, weight.rank)
    if None not in (weight.axis, wanted) and weight.axis != wanted:
        return "weight-axis", f"its weight has scales along axis {weight.axis}, not its output channels"
    return None


def _output_axis(operand: Consumer, rank: int | None) -> int | None:
    """Return the axis of a weight's output channels, the one along which scales may differ."""
    if operand.operator == "Conv":
        return 0
    if operand.operator == "Gemm":
        return 0 if operand.attributes.get("transB") else 1
    return None if rank is None else rank - 1


def _output(graph: MainGraph, operand: Consumer, dtype: str) -> tuple[str, str]:
    value = kernel_chain(graph, graph.producers[operand.node.output[0]]).value
    readers = [graph.nodes[position] for position, _ in sorted(graph.readers.get(value, ()))]
    floats = [node for node in readers if node.op_type != "QuantizeLinear"]
    if value in graph.pinned:
        return "output-float", f"{dtype} in, but its output {value!r} leaves the graph in float"
    if floats:
        label = f"{floats[0].op_type} {graph.scope.label(floats[0])!r}"
        return "output-float", f"{dtype} in, but its output goes in float to {label}"
    return ("", "") if readers else ("output-float", f"{dtype} in, but nothing reads its output")


def _maker(graph: MainGraph, value: str) -> str:
    position = graph.producers.get(value)
    return f"{value!r}" if position is None else f"{graph.nodes[position].op_type} {graph.label(position)!r}"


def _side(scope: Scope, value: str) -> _Side | None:
    """Return how a value is dequantised, through operators that only move numbers; None when it is float."""
    found = dequantised(scope, value)
    if found is None:
        return None
    where, node = found.scope, found.node
    scale, zero = _parameters(where, node)
    axis = int(where.node_attributes(node).get("axis", 1)) if scale.ndim and scale.size > 1 else None
    if found.transposed:
        axis = None  # the scales moved with the numbers, and are judged by the evaluation of the weight
    symmetric = zero is None or not np.any(zero.astype(np.float32))
    return _Side(found.dtype, symmetric, axis, None if found.transposed else _rank(where, node.input[0]))


def _rank(scope: Scope, value: str) -> int | None:
    owner = scope.owner(value)
    node = owner[0].producers.get(owner[1]) if owner is not None else None
    if owner is not None and node is not None and node.op_type == "QuantizeLinear":
        scope, value = owner[0], node.input[0]
    tensor = direct_initializer(scope, value)
    return None if tensor is None else len(tensor.dims)


def _parameters(scope: Scope, node: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    """Return scale and zero point; what is not constant counts as asymmetric."""
    try:
        scale = constant_value(scope, node.input[1])
        zero = constant_value(scope, node.input[2]) if len(node.input) > 2 and node.input[2] else None
    except Opaque:
        return np.zeros(()), np.ones(())
    return scale, zero


def island_table(islands: Sequence[Island]) -> Table:
    """Return one row per layer that does not compute in INT8 or FP8 from end to end."""
    columns = (Column("Q/DQ island", "name"), Column("op"), Column("cause"))
    rows = (Row((item.consumer, item.operator, item.code), "doubt", item.sentence) for item in islands)
    return Table(columns, tuple(rows), noun="layers")
