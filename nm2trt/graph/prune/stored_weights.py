"""Stored tensors that are weights: their readers, and the obstacles to changing them."""

from __future__ import annotations

from dataclasses import dataclass

from nm2trt.graph.analysis.constant_values import Source
from nm2trt.graph.analysis.operator_cost import Opaque
from nm2trt.graph.analysis.stored_sources import INDEX_TYPES, stored_places
from nm2trt.graph.analysis.weight_operands import Consumer, consumers
from nm2trt.graph.prune.magnitude import Reading
from nm2trt.graph.storage.light_onnx import onnx
from nm2trt.graph.storage.model import Model
from nm2trt.graph.verify.group_counts import read_weight
from nm2trt.graph.verify.stored_readers import Readers, changeable_tensor, readers
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
        known: Who reads each value of the model.
    """

    name: str
    group: tuple[tuple[Consumer, Source | None], ...]
    known: Readers

    def open(self) -> Candidate:
        """Return the weight with its readings.

        Raises:
            ModelError: A stored tensor is damaged.
        """
        source = self.group[0][1]
        tensor, obstacle = changeable_tensor(source)
        readings: list[Reading] = []
        for consumer, _ in self.group:
            reading = _reading(consumer)
            if isinstance(reading, Reading):
                readings.append(reading)
            else:
                obstacle = obstacle or reading
        parts: list[tuple[Source, onnx.TensorProto]] = []
        if source is not None and not obstacle:
            weights = {(c.scope.name, id(c.node), c.input_index) for c, _ in self.group}
            obstacle = self.known.foreign(source, weights)
            for part in _parts(self.group[0][0], source):
                stored, why = changeable_tensor(part)
                why = why or self.known.foreign(part, weights)
                if stored is not None:
                    parts.append((part, stored))
                if why and not obstacle:
                    obstacle = f"it is joined with {part.scope.name + part.name}: {why}"
        return Candidate(
            name=self.name,
            tensor=tensor,
            source=source,
            shape=source.shape if source else (),
            dtype=source.dtype if source else "unknown",
            consumers=tuple(consumer.label for consumer, _ in self.group),
            readings=tuple(readings) if len(readings) == len(self.group) else (),
            obstacle=obstacle,
            parts=tuple(parts),
        )


def stored_weights(model: Model) -> list[StoredWeight]:
    """List the stored weights in the order of their first consumers; none is read yet.

    Raises:
        ModelError: The graph breaks a rule of the format.
    """
    groups: dict[str, list[tuple[Consumer, Source | None]]] = {}
    for consumer in consumers(model):
        groups.setdefault(consumer.weight_name, []).append((consumer, consumer.source))
    return [StoredWeight(name, tuple(group), readers(model)) for name, group in groups.items()]


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
        if source.dtype in INDEX_TYPES or (source.scope is main.scope and source.name == main.name):
            continue
        places = stored_places(consumer.scope, consumer.value, source)
        if places is None or places.shape != whole.shape:
            continue
        if bool((places >= 0).any()) and not bool(((places >= 0) & (whole >= 0)).any()):
            found.append(source)
    return found


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
