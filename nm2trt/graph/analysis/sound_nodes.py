"""Nodes held to the signatures of ONNX's operators, before a pass relies on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from nm2trt.errors import ModelError
from nm2trt.graph.storage.light_onnx import is_default, onnx, schema_at, schemas
from nm2trt.graph.storage.model import Model
from nm2trt.graph.storage.node_parts import node_name
from nm2trt.nm.axes import is_einsum

# Attributes that count something, whatever the operator; many readers divide by them.
_COUNTS = frozenset({"group", "hidden_size", "blocksize", "num_outputs"})


@dataclass(frozen=True, slots=True)
class _Signature:
    """What an operator takes, read from its schema once: each question to the schema costs time.

    Args:
        inputs: Fewest and most inputs.
        outputs: Fewest and most outputs.
        names: Names of the inputs that it needs, in their places; "" for the others.
        attributes: Attributes that it needs.
        kinds: Type of each attribute, by ONNX's number and name.
    """

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    names: tuple[str, ...]
    attributes: tuple[str, ...]
    kinds: Mapping[str, tuple[int, str]]


@dataclass(frozen=True, slots=True)
class _Called:
    """What a local function takes.

    Args:
        inputs: Names of its inputs.
        needed: Those that an operator of its body cannot do without.
        outputs: How many outputs it has.
    """

    inputs: tuple[str, ...]
    needed: frozenset[str]
    outputs: int

    @classmethod
    def of(cls, function: onnx.FunctionProto) -> _Called:
        """Read it from the function."""
        versions = {"" if i.domain == "ai.onnx" else i.domain: i.version for i in function.opset_import}
        needed: set[str] = set()
        for node in function.node:
            signature = _signature(node.op_type, versions) if is_default(node) else None
            if signature is not None:
                required = zip(node.input, signature.names[: signature.inputs[0]], strict=False)
                needed |= {value for value, formal in required if formal}
        return cls(tuple(function.input), frozenset(needed), len(function.output))

    def wrong(self, node: onnx.NodeProto) -> str:
        """Return what is wrong with a call, in words, or ""."""
        for what, number, most in (
            ("inputs", len(node.input), len(self.inputs)),
            ("outputs", len(node.output), self.outputs),
        ):
            if number > most:
                return f"has {number} {what}, and takes {most}"
        if self.outputs and not any(node.output):
            return "has no output with a name"
        given = {formal for formal, value in zip(self.inputs, node.input, strict=False) if value}
        lacking = next((name for name in self.inputs if name in self.needed and name not in given), None)
        return "" if lacking is None else f"lacks its input {lacking}"


def check_nodes(model: Model) -> None:
    """Raise if a node lacks an input, an output or an attribute, or has one too many.

    Nodes are ONNX's own operators and calls of local functions. A model is checked once, until it changes.

    Operators of other domains, and those that the model's opset does not have, are passed over.

    Raises:
        ModelError: The model is not valid ONNX.
    """
    model.once("sound nodes", lambda: _check(model))


def _check(model: Model) -> None:
    proto = model.proto
    functions: dict[tuple[str, str, str], _Called] = {}
    if proto.functions:
        functions = {(f.domain, f.name, getattr(f, "overload", "")): _Called.of(f) for f in proto.functions}
    for place, nodes, opsets in (
        ("", proto.graph.node, proto.opset_import),
        *((f"{function.name}/", function.node, function.opset_import) for function in proto.functions),
    ):
        versions = {"" if item.domain == "ai.onnx" else item.domain: item.version for item in opsets}
        known: dict[str, _Signature | None] = {}
        for label, node in _all(nodes, place):
            if is_default(node):
                if node.op_type not in known:
                    known[node.op_type] = _signature(node.op_type, versions)
                signature = known[node.op_type]
                wrong = "" if signature is None else _wrong(node, signature)
            else:
                called = functions.get((node.domain, node.op_type, getattr(node, "overload", "")))
                wrong = "" if called is None else called.wrong(node)
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


def _signature(operator: str, versions: Mapping[str, int]) -> _Signature | None:
    schema = schema_at(operator, versions.get("", 0))
    if schema is None or schema.deprecated:
        return None
    single = schemas().OpSchema.FormalParameterOption.Single
    attributes = schema.attributes  # made anew at each reading, with every default value
    return _Signature(
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        tuple(formal.name if formal.option == single else "" for formal in schema.inputs),
        tuple(name for name, expected in attributes.items() if expected.required),
        {name: (expected.type.value, expected.type.name) for name, expected in attributes.items()},
    )


def _wrong(node: onnx.NodeProto, signature: _Signature) -> str:
    """Return what is wrong with a node, in words, or ""."""
    for what, number, (least, most) in (
        ("inputs", len(node.input), signature.inputs),
        ("outputs", len(node.output), signature.outputs),
    ):
        if not least <= number <= most:
            allowed = str(least) if least == most else f"{least} to {most}"
            return f"has {number} {what}, and takes {allowed}"
    for name, needed in zip(node.input, signature.names, strict=False):
        if needed and not name:
            return f"lacks its input {needed}"
    if node.output and not any(node.output):
        return "has no output with a name"
    given = set()
    for attribute in node.attribute:
        given.add(attribute.name)
        number, kind = signature.kinds.get(attribute.name, (attribute.type, ""))
        if attribute.type != number and not attribute.ref_attr_name:
            return f"has an attribute {attribute.name} of another type than {kind}"
        if attribute.name in _COUNTS and not attribute.ref_attr_name and attribute.i < 1:
            return f"has the {attribute.name} {attribute.i}, and takes 1 or more"
        if (node.op_type, attribute.name) == ("Einsum", "equation") and not attribute.ref_attr_name:
            equation = attribute.s.decode(errors="replace")
            if not is_einsum(equation):  # onnx's inference, ONNX Runtime's too, never ends at some
                return f"has the equation {equation!r}, which Einsum does not take"
    lacking = next((name for name in signature.attributes if name not in given), None)
    return "" if lacking is None else f"lacks its attribute {lacking}"
