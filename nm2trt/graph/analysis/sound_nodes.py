"""Nodes held to the signatures of ONNX's operators, before a pass relies on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nm2trt.errors import ModelError
from nm2trt.graph.analysis.scopes import node_name
from nm2trt.graph.storage.light_onnx import onnx, schemas
from nm2trt.graph.storage.model import Model

__all__ = ["check_nodes"]


def check_nodes(model: Model) -> None:
    """Raise if a node of ONNX's own operators lacks an input, an output or an attribute, or has one too many.

    Operators of other domains, and those that the model's opset does not have, are passed over.

    Raises:
        ModelError: The model is not valid ONNX.
    """
    proto = model.proto
    for place, nodes, opsets in (
        ("", proto.graph.node, proto.opset_import),
        *((f"{function.name}/", function.node, function.opset_import) for function in proto.functions),
    ):
        versions = {"" if item.domain == "ai.onnx" else item.domain: item.version for item in opsets}
        known: dict[str, onnx.defs.OpSchema | None] = {}
        for label, node in _all(nodes, place):
            if node.domain not in ("", "ai.onnx"):
                continue
            if node.op_type not in known:
                known[node.op_type] = _schema(node.op_type, versions)
            schema = known[node.op_type]
            wrong = "" if schema is None else _wrong(node, schema)
            if wrong:
                where = f"{model.name}: {node.op_type} at {label}"
                raise ModelError(f"{where} {wrong}; the model is not valid ONNX")


def _all(nodes: Iterable[onnx.NodeProto], place: str) -> Iterator[tuple[str, onnx.NodeProto]]:
    for position, node in enumerate(nodes):
        label = place + node_name(node, position)
        yield label, node
        for attribute in node.attribute:
            for body in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _all(body.node, f"{label}/{attribute.name}/")


def _schema(operator: str, versions: Mapping[str, int]) -> onnx.defs.OpSchema | None:
    try:
        schema = schemas().get_schema(operator, versions.get("", 0), "")
    except (schemas().SchemaError, TypeError, ValueError, OverflowError):
        return None
    return None if schema.deprecated else schema


def _wrong(node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> str:
    """Return what is wrong with a node, in words, or ""."""
    for what, names, least, most in (
        ("inputs", node.input, schema.min_input, schema.max_input),
        ("outputs", node.output, schema.min_output, schema.max_output),
    ):
        if not least <= len(names) <= most:
            allowed = str(least) if least == most else f"{least} to {most}"
            return f"has {len(names)} {what}, and takes {allowed}"
    required = schemas().OpSchema.FormalParameterOption.Single
    for name, parameter in zip(node.input, schema.inputs, strict=False):
        if not name and parameter.option == required:
            return f"lacks its input {parameter.name}"
    if node.output and not any(node.output):
        return "has no output with a name"
    given = {attribute.name: attribute for attribute in node.attribute}
    for name, expected in schema.attributes.items():
        attribute = given.get(name)
        if attribute is None:
            if expected.required:
                return f"lacks its attribute {name}"
            continue
        kind: Any = expected.type
        if not attribute.ref_attr_name and attribute.type != kind.value:
            return f"has an attribute {name} of another type than {kind.name}"
    return ""
