"""Weight operands: what a Conv, Gemm, MatMul or relative multiplies that is stored in the file.

Most are constant. One that an input chooses or scales, or that an operator of an unknown domain reads, is
an operand too: it cannot be judged, and a report that left it out would vouch for an unchecked weight.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nm2trt.errors import ModelError
from nm2trt.graph.analysis.constant_values import Source
from nm2trt.graph.analysis.runtime_weights import StoredBehind, is_matrix, stored_behind
from nm2trt.graph.analysis.scopes import walk
from nm2trt.graph.analysis.shapes import Shapes, infer_shapes
from nm2trt.graph.analysis.stored_sources import main_source, stored_sources
from nm2trt.graph.analysis.value_states import Scope, State
from nm2trt.graph.storage.light_onnx import onnx, schemas
from nm2trt.graph.storage.model import Model
from nm2trt.nm.axes import ONNX_WEIGHTS

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

# These inputs are weights even if they are not constant; a product of two activations has none.
_ALWAYS_WEIGHT = frozenset(
    """Conv ConvTranspose ConvInteger DeformConv QLinearConv FusedConv NhwcFusedConv LSTM GRU RNN Attention
    QAttention MatMulNBits""".split()
)
# Operators of ONNX Runtime's domain whose tables are looked up or rotated by, and multiply no matrix.
_TABLES = frozenset(
    """RotaryEmbedding GroupQueryAttention EmbedLayerNormalization SkipLayerNormalization RelativePositionBias
    GatherBlockQuantized QuantizeLinear DequantizeLinear LayerNormalization SimplifiedLayerNormalization
    SkipSimplifiedLayerNormalization BiasGelu BiasAdd BiasSplitGelu GroupNorm SkipGroupNorm CropAndResize
    Gather PagedAttention SparseAttention MultiHeadAttention QLinearAdd QLinearMul QLinearConcat
    QLinearWhere""".split()
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
        carrier: The stored tensor behind an operand that depends on an input; None for any other.
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
    carrier: StoredBehind | None = None

    @property
    def operator(self) -> str:
        """The node's type."""
        return self.node.op_type

    @property
    def source(self) -> Source | None:
        """The stored tensor that carries the operand's numbers; None if only activations make it."""
        return next(iter(self.sources), None)

    @property
    def sources(self) -> tuple[Source, ...]:
        """Every stored tensor that the operand is made of, `source` first."""
        if self.carrier is None and self.state.kind in ("dynamic", "turn"):
            return ()
        where = (self.scope, self.value) if self.carrier is None else (self.carrier.scope, self.carrier.value)
        # Many operands may read one value, a long way behind what is stored.
        return self.scope.model.once(("sources", *where), lambda: tuple(stored_sources(*where)))

    @property
    def weight_name(self) -> str:
        """The name of `source` with its scope in front, or the operand's own."""
        source = self.source
        return self.scope.name + self.value if source is None else source.scope.name + source.name


def consumers(model: Model) -> Iterator[Consumer]:
    """Yield every weight operand, in graph order; a weight with several consumers comes up once for each.

    Raises:
        ModelError: The graph breaks a rule of the format; see `nm2trt.graph.analysis.scopes.walk`.
    """
    yield from model.once("consumers", lambda: tuple(_consumers(model)))


def _consumers(model: Model) -> Iterator[Consumer]:
    shapes = functools.cache(lambda: infer_shapes(model))
    for scope, node in walk(model):
        domain = "" if node.domain == "ai.onnx" else node.domain
        if (node.domain, node.op_type) in scope.functions:
            continue
        slots: tuple[int, ...]
        if (domain, node.op_type) == ("", "Einsum"):
            slots = tuple(range(len(node.input)))
        else:
            slots = tuple(ONNX_WEIGHTS.get((domain, node.op_type), ()))
        if slots:
            yield from _operands(scope, node, domain, slots, shapes)
        elif _is_foreign(node, domain):
            yield from _foreign_operands(scope, node, domain, shapes)


def _operands(
    scope: Scope, node: onnx.NodeProto, domain: str, slots: tuple[int, ...], shapes: Callable[[], Shapes]
) -> Iterator[Consumer]:
    attributes = scope.node_attributes(node)
    for name, kind in _ATTRIBUTE_TYPES.items():
        if not isinstance(attributes.get(name, kind()), kind):
            raise ModelError(
                f"{name} of {node.op_type} at {scope.label(node)} is {attributes[name]!r}, not one "
                f"{'number' if kind is int else 'text'}; the model is not valid ONNX"
            )
    zero_points = _ZERO_POINTS.get((domain, node.op_type), {})
    found = [
        (slot, scope.state(node.input[slot])) for slot in slots if slot < len(node.input) and node.input[slot]
    ]
    if len(found) > 1 and found[0][0] == 0 and all(state.kind == "constant" for _, state in found):
        fixed = [(slot, state) for slot, state in found if not _replaceable(scope, node.input[slot])]
        if len(fixed) in (0, len(found)):
            return  # a product of constants: its result is the weight of whoever reads it
        found = fixed  # a state with a default, which a caller may give, times a weight
    carriers = _carriers(scope, node, found, shapes)
    for slot, state in found:
        carrier = carriers.get(slot)
        if state.kind in ("dynamic", "turn") and carrier is None and node.op_type not in _ALWAYS_WEIGHT:
            continue
        where = zero_points.get(slot, -1)
        yield Consumer(
            scope=scope,
            node=node,
            label=scope.label(node),
            domain=domain,
            input_index=slot,
            value=node.input[slot],
            state=State(state.kind, carrier.why) if carrier is not None and carrier.why else state,
            attributes=attributes,
            zero_point=node.input[where] if 0 <= where < len(node.input) else "",
            carrier=carrier,
        )


def _replaceable(scope: Scope, value: str) -> bool:
    """Tell whether a constant is computed from an input that has a default."""
    graph = scope.model.proto.graph
    inputs = scope.model.once("inputs", lambda: frozenset(given.name for given in graph.input))
    waiting: list[tuple[Scope, str]] = [(scope, value)]
    seen: set[tuple[int, str]] = set()
    while waiting:
        reader, read = waiting.pop()
        owner = reader.owner(read)
        if owner is None or (id(owner[0]), owner[1]) in seen:
            continue
        where, name = owner
        seen.add((id(where), name))
        if where.name == "" and name in inputs:
            return True
        node = where.producers.get(name)
        waiting += [(where, one) for one in (node.input if node is not None else ()) if one]
    return False


def _carriers(
    scope: Scope, node: onnx.NodeProto, found: list[tuple[int, State]], shapes: Callable[[], Shapes]
) -> dict[int, StoredBehind]:
    """Return what is stored behind operands that depend on an input, by their slot.

    In a product with a constant the other operand is the activation, even one that was looked up in a table.
    """
    always = node.op_type in _ALWAYS_WEIGHT
    if not always and any(state.kind in ("constant", "opaque") for _, state in found):
        return {}
    behind = {
        slot: carrier
        for slot, state in found
        if state.kind in ("dynamic", "turn")
        and (carrier := stored_behind(scope, node.input[slot], shapes)) is not None
        and is_matrix(main_source(carrier.scope, carrier.value))
    }
    if always or len(behind) < len(found):
        return behind
    return {slot: carrier for slot, carrier in behind.items() if carrier.whole}


def _is_foreign(node: onnx.NodeProto, domain: str) -> bool:
    """Tell whether an operator is not one of ONNX's own: what it multiplies is unknown here."""
    if domain == "com.microsoft" and node.op_type in _TABLES:
        return False
    return not schemas().has_schema(node.op_type, domain)


def _foreign_operands(
    scope: Scope, node: onnx.NodeProto, domain: str, shapes: Callable[[], Shapes]
) -> Iterator[Consumer]:
    """Yield the stored matrices that an operator of an unknown kind reads."""
    if all(scope.state(value).kind != "dynamic" for value in node.input if value):
        return  # a constant of constants: its result is the weight of whoever reads it
    kind = f"of domain {domain}" if domain else "not an operator of ONNX"
    # Here a name may mean anything: no reader of `group` or `equation` should meet a value of another type.
    attributes = {
        name: value
        for name, value in scope.node_attributes(node).items()
        if isinstance(value, _ATTRIBUTE_TYPES.get(name, object))
    }
    for slot, value in enumerate(node.input):
        if not value or scope.owner(value) is None:
            continue
        carrier = stored_behind(scope, value, shapes)
        if carrier is None or not is_matrix(main_source(carrier.scope, carrier.value)):
            continue
        why = f"{node.op_type} at {scope.label(node)} is {kind}: how it reads its weight is unknown"
        yield Consumer(
            scope=scope,
            node=node,
            label=scope.label(node),
            domain=domain,
            input_index=slot,
            value=value,
            state=State("opaque", f"{why}; {carrier.why}" if carrier.why else why),
            attributes=attributes,
            zero_point="",
            carrier=carrier,
        )
