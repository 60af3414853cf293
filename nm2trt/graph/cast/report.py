"""Report of `cast`: nodes that stay in float32, stored tensors, and the whole report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nm2trt.compare.output_difference import OutputDifference
from nm2trt.figures import counted
from nm2trt.graph.analysis.shapes import infer_body_types
from nm2trt.graph.cast.cast_rules import Low, low_slots
from nm2trt.graph.edit.editor import Editor
from nm2trt.graph.pass_report import PassReport
from nm2trt.graph.storage.light_onnx import TensorProto, graphs_of
from nm2trt.graph.storage.model import opset
from nm2trt.graph.storage.node_parts import node_name
from nm2trt.json_value import JsonValue
from nm2trt.nm.lineage import relation_in_words
from nm2trt.tables.table import Column, Mark, Row, Table

_MOST_TENSORS = 10


@dataclass(frozen=True, slots=True)
class KeptNode(JsonValue):
    """One node that stays in float32.

    Args:
        node: Its name.
        operator: Its type.
        reason: Why.
    """

    node: str
    operator: str
    reason: str


@dataclass(frozen=True, slots=True)
class CastTensor(JsonValue):
    """What rounding does to one stored tensor.

    Args:
        name: Its name.
        size: Elements.
        largest: Largest magnitude before.
        overflow: Elements beyond the type's largest number.
        subnormal: Elements that lose digits, since they are below its smallest normal number.
        lost: Non-zero elements that become zero.
        cast: Whether it was cast; a tensor that overflows is not.
    """

    name: str
    size: int
    largest: float
    overflow: int
    subnormal: int
    lost: int
    cast: bool


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class CastReport(PassReport):
    """What `cast_model` did.

    Args:
        to: "fp16" or "bf16".
        cast_nodes: Nodes that compute in that type.
        kept: Nodes that stay in float32, and why.
        casts: Cast nodes that were added.
        tensors: Stored tensors in which rounding overflows, loses digits or makes zeros.
        overflowing: Values that calibration, or a trial on random inputs, saw beyond the type's range, with
            their largest magnitude.
        samples: Calibration samples; 0 if there was no calibration.
        differences: How far each output is from the float32 model's.
        comparison: How outputs were compared, or why not.
    """

    json_names = (
        "model output to cast_nodes casts overflowing samples comparison notes parent_mask_sha256 "
        "mask_sha256 relation differences kept tensors"
    )

    to: str
    cast_nodes: int
    kept: tuple[KeptNode, ...]
    casts: int
    tensors: tuple[CastTensor, ...]
    overflowing: Mapping[str, float]
    samples: int
    differences: tuple[OutputDifference, ...]
    comparison: str

    def tables(self) -> tuple[Table, ...]:
        """Return what stays in float32 and why, and the tensors that rounding changes most."""
        found: dict[tuple[str, str], list[str]] = {}
        for node in self.kept:
            found.setdefault((node.operator, node.reason), []).append(node.node)
        columns = (Column("kept in fp32"), Column("nodes", "number"), Column("first", "name"))
        kept = tuple(
            Row((operator, str(len(nodes)), nodes[0]), "", reason)
            for (operator, reason), nodes in found.items()
        )
        headers = ("elements", "largest", "overflow", "subnormal", "to zero")
        heads = (Column("tensor", "name"), *(Column(header, "number") for header in headers))
        changed = sorted(self.tensors, key=lambda t: (t.overflow, t.lost, t.subnormal / t.size), reverse=True)
        tensors = tuple(map(_tensor_row, changed))
        title = f"stored values in {self.to}"
        made = (
            Table(columns, kept, noun="operators"),
            Table(heads, tensors, title, noun="tensors", most=_MOST_TENSORS),
        )
        return tuple(table for table in made if table.rows)

    def remarks(self) -> tuple[str, ...]:
        """Return how much computes in the type, and how far the outputs are apart."""
        overflowing = (
            f"value {value} reaches {largest:.4g}: kept in fp32"
            for value, largest in self.overflowing.items()
        )
        values = counted(len(self.overflowing), "value overflows", "values overflow")
        return (
            *overflowing,
            *([f"{values} on {counted(self.samples, 'sample')}"] if self.samples else []),
            (
                f"{counted(self.cast_nodes, 'node computes', 'nodes compute')} in {self.to}, "
                f"{counted(len(self.kept), 'stays', 'stay')} in fp32; "
                f"{counted(self.casts, 'cast')} added; masks: {relation_in_words(self.relation)}"
            ),
            *(item.sentence for item in self.differences),
            self.comparison,
            *self.written,
        )


def _tensor_row(item: CastTensor) -> Row:
    counts = (str(item.overflow), str(item.subnormal), str(item.lost))
    mark: Mark = "" if item.cast else "doubt"
    why = "" if item.cast else "kept in fp32"
    return Row((item.name, str(item.size), f"{item.largest:.3g}", *counts), mark, why)


def body_nodes(editor: Editor, types: Mapping[str, int], low: Low) -> Iterator[KeptNode]:
    """Yield the float32 nodes inside bodies of If, Loop and Scan, which stay as they are.

    Args:
        editor: The main graph.
        types: Element type of each of its values, by ONNX's numbers.
        low: The type that the main graph is cast to.
    """
    if not any(graphs_of(node) for _, node in editor.live()):
        return
    version = opset(editor.model.proto) or 0
    known = {**types, **infer_body_types(editor.model)}
    for index, holder in editor.live():
        bodies = graphs_of(holder)[::-1]
        # A node that the cast added has no label, and no body either.
        reason = f"it stands in a body of {holder.op_type} {editor.label(index)!r}" if bodies else ""
        while bodies:
            for position, node in enumerate(bodies.pop().node):
                bodies += reversed(graphs_of(node))
                slots = low_slots(node, version, low)
                if slots is None or node.op_type == "Cast":
                    continue
                if any(
                    known.get(node.input[slot]) == TensorProto.FLOAT for slot in slots[0] if node.input[slot]
                ):
                    yield KeptNode(node_name(node, position), node.op_type, reason)
