"""Quantised values: which DequantizeLinear a value comes out of, and the type that it was quantised to.

One table of moving operators and one way back through them, so that everyone who asks gets the same answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from nm2trt.errors import ModelError
from nm2trt.graph.analysis.constant_values import stored_tensor
from nm2trt.graph.analysis.moving_operators import SELECTING
from nm2trt.graph.analysis.scopes import walk
from nm2trt.graph.analysis.value_states import Scope
from nm2trt.graph.storage.element_types import DTYPE_NAMES
from nm2trt.graph.storage.light_onnx import is_default, onnx
from nm2trt.graph.storage.model import Model

# What goes into them quantised comes out quantised alike.
MOVERS = SELECTING | {"MaxPool", "Concat", "DepthToSpace", "SpaceToDepth"}
_MOST_STEPS = 1000
_QUANTISED = frozenset("QuantizeLinear DequantizeLinear DynamicQuantizeLinear MatMulNBits".split())
_QUANTISED_STARTS = ("QLinear", "QGemm", "QAttention", "DynamicQuantize")
_QUANTISED_ENDS = ("Integer", "IntegerToFloat")


@dataclass(frozen=True, slots=True)
class Dequantised:
    """The DequantizeLinear that a value comes out of.

    Args:
        scope: Where it stands.
        node: The node.
        transposed: Whether a Transpose stands between it and the value.
    """

    scope: Scope
    node: onnx.NodeProto
    transposed: bool

    @property
    def dtype(self) -> str:
        """ONNX name of the type that it reads."""
        return quantised_type(self.scope, self.node)


def refuse_quantised(model: Model, remedy: str) -> None:
    """Raise if a node of the model quantises, dequantises or computes with integers or codes.

    Args:
        model: The model, its bodies and functions too.
        remedy: The clause that says what to do instead.

    Raises:
        ModelError: There is such a node.
    """
    found = quantised_node(model)
    if found:
        raise ModelError(f"{model.name} is quantised already: {found}; {remedy}")


def quantised_node(model: Model) -> str:
    """Name the first node that quantises, dequantises or computes with integers or codes; "" without one."""
    for scope, node in walk(model):
        kind = node.op_type
        if kind in _QUANTISED or kind.startswith(_QUANTISED_STARTS) or kind.endswith(_QUANTISED_ENDS):
            return f"{kind} at {scope.label(node)!r}"
    return ""


def dequantised(scope: Scope, value: str) -> Dequantised | None:
    """Return the DequantizeLinear that a value comes from, through moving operators; None for a float.

    A Concat is dequantised if all its parts are; the first speaks for them.
    """
    first: Dequantised | None = None
    stack = [(scope, value, False)]
    for _ in range(_MOST_STEPS):
        if not stack:
            return first
        inside, wanted, transposed = stack.pop()
        owner = inside.owner(wanted)
        node = owner[0].producers.get(owner[1]) if owner is not None else None
        if owner is None or node is None or not is_default(node):
            return None
        if node.op_type == "DequantizeLinear":
            first = first or Dequantised(owner[0], node, transposed)
        elif node.op_type in MOVERS:
            parts = node.input if node.op_type == "Concat" else node.input[:1]
            turned = transposed or node.op_type == "Transpose"
            stack.extend((owner[0], part, turned) for part in reversed(parts))
        else:
            return None
    return None


def quantised_type(scope: Scope, node: onnx.NodeProto) -> str:
    """Return the ONNX name of the type that a DequantizeLinear reads.

    The stored tensor says it, the zero point, or the QuantizeLinear in front: by its own zero point, by
    `output_dtype`, or by ONNX's default, uint8.
    """
    found = _stored_type(scope, node.input[0])
    if found is None and len(node.input) > 2 and node.input[2]:
        found = _stored_type(scope, node.input[2])
    return found or _made_type(scope, node.input[0]) or "uint8"


def _stored_type(scope: Scope, value: str) -> str | None:
    tensor = stored_tensor(scope, value)
    return None if tensor is None else DTYPE_NAMES.get(tensor.data_type, "unknown")


def _made_type(scope: Scope, value: str) -> str | None:
    """Return the type that a QuantizeLinear in front gives, or that an input of the model has."""
    for _ in range(_MOST_STEPS):
        owner = scope.owner(value)
        if owner is None:
            return None
        scope, value = owner
        node = scope.producers.get(value)
        if node is None:
            inputs = () if scope.name else scope.model.proto.graph.input
            return next(
                (DTYPE_NAMES.get(i.type.tensor_type.elem_type) for i in inputs if i.name == value), None
            )
        if node.op_type == "QuantizeLinear":
            zero = _stored_type(scope, node.input[2]) if len(node.input) > 2 and node.input[2] else None
            number = int(scope.node_attributes(node).get("output_dtype", 0))
            return zero or (DTYPE_NAMES.get(number, "unknown") if number else "uint8")
        if node.op_type == "Cast":
            return DTYPE_NAMES.get(int(scope.node_attributes(node).get("to", 0)), "unknown")
        if node.op_type not in MOVERS:
            return None
        value = node.input[0]
    return None
