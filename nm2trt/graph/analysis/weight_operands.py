"""Who reads weights: every operand of a Conv, Gemm, MatMul or relative that is known before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from nm2trt.errors import ModelError
from nm2trt.graph.analysis.scopes import Scope, State, walk
from nm2trt.graph.storage.model import Model
from nm2trt.nm.axes import ONNX_WEIGHTS

__all__ = ["Consumer", "consumers"]

# (domain, operator) -> weight input -> input that holds its zero point.
_ZERO_POINTS: Mapping[tuple[str, str], Mapping[int, int]] = {
    ("", "ConvInteger"): {1: 3},
    ("", "MatMulInteger"): {0: 2, 1: 3},
    ("", "QLinearConv"): {3: 5},
    ("", "QLinearMatMul"): {0: 2, 3: 5},
    ("com.microsoft", "QLinearConv"): {3: 5},
    ("com.microsoft", "QGemm"): {0: 2, 3: 5},
    ("com.microsoft", "MatMulIntegerToFloat"): {0: 4, 1: 5},
    ("com.microsoft", "DynamicQuantizeMatMul"): {1: 3},
    ("com.microsoft", "QAttention"): {1: 7},
}

# A convolution's filter is a weight even where it is not constant; a product of two activations has none.
_ALWAYS_WEIGHT = frozenset(
    {"Conv", "ConvTranspose", "ConvInteger", "DeformConv", "QLinearConv", "FusedConv", "NhwcFusedConv"}
)

# What decides how a weight is read.
_ATTRIBUTE_TYPES: Mapping[str, type[int | str]] = {
    "group": int,
    "transA": int,
    "transB": int,
    "equation": str,
}


@dataclass(frozen=True, slots=True, eq=False)
class Consumer:
    """One operand that is a weight.

    Args:
        scope: Where its node stands.
        node: The node.
        label: The node's name with its scope in front.
        domain: The node's domain, "" for ONNX's own.
        input_index: Which input.
        value: The operand's name in `scope`.
        state: Constant or opaque; dynamic only for a convolution's filter.
        attributes: The node's attributes.
        zero_point: The name of its zero point in `scope`, or "".
    """

    scope: Scope
    node: onnx.NodeProto
    label: str
    domain: str
    input_index: int
    value: str
    state: State
    attributes: dict[str, Any]
    zero_point: str

    @property
    def operator(self) -> str:
        """The node's type."""
        return self.node.op_type


def consumers(model: Model) -> Iterator[Consumer]:
    """Yield every weight operand, in graph order; a weight with several consumers comes up once for each.

    Raises:
        ModelError: The graph breaks a rule of the format; see `nm2trt.graph.analysis.scopes.walk`.
    """
    for scope, node in walk(model):
        domain = "" if node.domain == "ai.onnx" else node.domain
        slots: tuple[int, ...]
        if (domain, node.op_type) == ("", "Einsum"):
            slots = tuple(range(len(node.input)))
        else:
            slots = tuple(ONNX_WEIGHTS.get((domain, node.op_type), ()))
        if not slots or (node.domain, node.op_type) in scope.functions:
            continue
        attributes = scope.node_attributes(node)
        for name, kind in _ATTRIBUTE_TYPES.items():
            if not isinstance(attributes.get(name, kind()), kind):
                raise ModelError(
                    f"{name} of {node.op_type} at {scope.label(node)} is {attributes[name]!r}, not one "
                    f"{'number' if kind is int else 'text'}; the model is not valid ONNX"
                )
        zero_points = _ZERO_POINTS.get((domain, node.op_type), {})
        found = [
            (slot, scope.state(node.input[slot]))
            for slot in slots
            if slot < len(node.input) and node.input[slot]
        ]
        if len(found) > 1 and found[0][0] == 0 and all(state.kind == "constant" for _, state in found):
            continue  # a product of constants: its result is the weight of whoever reads it
        for slot, state in found:
            if state.kind in ("dynamic", "turn") and node.op_type not in _ALWAYS_WEIGHT:
                continue
            where = zero_points.get(slot, -1)
            yield Consumer(
                scope=scope,
                node=node,
                label=scope.label(node),
                domain=domain,
                input_index=slot,
                value=node.input[slot],
                state=state,
                attributes=attributes,
                zero_point=node.input[where] if 0 <= where < len(node.input) else "",
            )
