"""Stored tensors that are weights: their readers, and the obstacles to changing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nm2trt.graph.analysis.constant_values import Source
from nm2trt.graph.analysis.operator_cost import Opaque
from nm2trt.graph.analysis.scopes import walk
from nm2trt.graph.analysis.stored_sources import stored_places
from nm2trt.graph.analysis.value_states import Scope
from nm2trt.graph.analysis.weight_operands import Consumer, consumers
from nm2trt.graph.prune.magnitude import Reading
from nm2trt.graph.storage.light_onnx import onnx
from nm2trt.graph.storage.model import Model
from nm2trt.graph.verify.group_counts import read_weight
from nm2trt.nm.axes import onnx_weight


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One stored tensor that at least one operator reads as a weight.

    Args:
        name: Its name, with its scope in front.
        tensor: Where it is stored, when that can be changed.
        source: The same, with its scope.
        shape: Its stored shape; () when it cannot be told.
        dtype: ONNX name of its element type.
        consumers: Labels of the nodes that read it as a weight.
        readings: How they do, if all of them are known.
        obstacle: The clause that says why it cannot be changed, or "".
        parts: The other stored tensors of a weight that a Concat joins, with where each is stored.
    """

    name: str
    tensor: onnx.TensorProto | None
    source: Source | None
    shape: tuple[int, ...]
    dtype: str
    consumers: tuple[str, ...]
    readings: tuple[Reading, ...]
    obstacle: str
    parts: tuple[tuple[Source, onnx.TensorProto], ...] = ()

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the parts, with their scopes in front."""
        return tuple(source.scope.name + source.name for source, _ in self.parts)


@dataclass(frozen=True, slots=True, eq=False)
class StoredWeight:
    """A stored weight by name; `open` looks at it, and evaluates what its consumers read.

    Args:
        name: Its name, with its scope in front.
        group: Its consumers, with where each finds its numbers.
        readers: Who reads each value of the model.
    """

    name: str
    group: tuple[tuple[Consumer, Source | None], ...]
    readers: Readers

    def open(self) -> Candidate:
        """Return the weight with its readings.

        Raises:
            ModelError: A stored tensor is damaged.
        """
        return _candidate(self.name, self.group, self.readers)


def stored_weights(model: Model) -> list[StoredWeight]:
    """List the stored weights in the order of their first consumers; none is read yet.

    Raises:
        ModelError: The graph breaks a rule of the format.
    """
    groups: dict[str, list[tuple[Consumer, Source | None]]] = {}
    for consumer in consumers(model):
        groups.setdefault(consumer.weight_name, []).append((consumer, consumer.source))
    readers = Readers(model)
    return [StoredWeight(name, tuple(group), readers) for name, group in groups.items()]


def _candidate(name: str, group: Sequence[tuple[Consumer, Source | None]], readers: Readers) -> Candidate:
    source = group[0][1]
    tensor, obstacle = _stored(source)
    readings: list[Reading] = []
    for consumer, _ in group:
        reading = _reading(consumer)
        if isinstance(reading, Reading):
            readings.append(reading)
        else:
            obstacle = obstacle or reading
    parts: list[tuple[Source, onnx.TensorProto]] = []
    if source is not None and not obstacle:
        weights = {(c.scope.name, id(c.node), c.input_index) for c, _ in group}
        obstacle = readers.foreign(source, weights)
        for part in _parts(group[0][0], source):
            stored, why = _stored(part)
            why = why or readers.foreign(part, weights)
            if stored is not None:
                parts.append((part, stored))
            if why and not obstacle:
                obstacle = f"it is joined with {part.scope.name + part.name}: {why}"
    return Candidate(
        name=name,
        tensor=tensor,
        source=source,
        shape=source.shape if source else (),
        dtype=source.dtype if source else "unknown",
        consumers=tuple(consumer.label for consumer, _ in group),
        readings=tuple(readings) if len(readings) == len(group) else (),
        obstacle=obstacle,
        parts=tuple(parts),
    )


def _parts(consumer: Consumer, main: Source) -> list[Source]:
    """Return the stored tensors that a Concat joins to the main one."""
    sources = consumer.sources
    if len(sources) < 2 or consumer.state.kind != "constant":
        return []
    whole = stored_places(consumer.scope, consumer.value, main)
    if whole is None or bool((whole >= 0).all()):
        return []
    found = []
    for source in sources:
        if source is main or source.dtype in ("bool", "int64", "int32", "string"):
            continue
        if (source.scope is main.scope) and source.name == main.name:
            continue
        places = stored_places(consumer.scope, consumer.value, source)
        if places is None or places.shape != whole.shape:
            continue
        if bool((places >= 0).any()) and not bool(((places >= 0) & (whole >= 0)).any()):
            found.append(source)
    return found


def _stored(source: Source | None) -> tuple[onnx.TensorProto | None, str]:
    if source is None:
        return None, "no stored tensor carries its numbers"
    if source.name in source.scope.initializers:
        return source.scope.initializers[source.name], ""
    if source.name in source.scope.sparse:
        return None, "it is stored as a sparse tensor"
    for attribute in source.scope.producers[source.name].attribute:
        if attribute.name == "value" and not attribute.ref_attr_name:
            return attribute.t, ""
    return None, "its Constant node does not hold it as a tensor"


def _reading(consumer: Consumer) -> Reading | str:
    """Return how a consumer reads its weight, or the clause that says why that is not known."""
    if consumer.state.kind != "constant":
        return consumer.state.why
    try:
        weight = read_weight(consumer)
    except Opaque as why:
        return str(why)
    rank = len(weight.shape)
    how = onnx_weight(consumer.domain, consumer.operator, consumer.input_index, rank, consumer.attributes)
    if how is None:
        return f"{consumer.operator} reduces no single axis of a weight of shape {list(weight.shape)}"
    return Reading(weight, how)


class Readers:
    """Who reads each value of a model, in every scope."""

    def __init__(self, model: Model) -> None:
        self._readers: dict[tuple[str, str], list[tuple[Scope, onnx.NodeProto, int]]] = {}
        self._outputs = {value.name for value in model.proto.graph.output}
        # Scopes hold the nodes' wrappers, whose identity names a node here and in `Consumer`.
        for scope, node in walk(model):
            if (node.domain, node.op_type) in scope.functions:
                continue  # its body's nodes are the readers
            for slot, value in enumerate(node.input):
                owner = scope.owner(value) if value else None
                if owner is not None:
                    self._readers.setdefault((owner[0].name, owner[1]), []).append((scope, node, slot))

    def foreign(self, source: Source, weights: set[tuple[str, int, int]]) -> str:
        """Name a reader of a stored tensor as anything but one of `weights`, or ""."""
        seen: set[tuple[str, str]] = set()
        stack = [(source.scope.name, source.name)]
        while stack:
            key = stack.pop()
            if key in seen:
                continue
            seen.add(key)
            if key[0] == "" and key[1] in self._outputs:
                return "it is also an output of the model"
            for scope, node, slot in self._readers.get(key, ()):
                if (scope.name, id(node), slot) in weights:
                    continue
                inside = [name for name in node.output if name]
                if not inside or any(scope.state(name).kind != "constant" for name in inside):
                    return f"{node.op_type} at {scope.label(node)} reads it too, which multiplies no matrix"
                stack.extend((scope.name, name) for name in inside)
        return ""
