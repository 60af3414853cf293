"""Scopes of a model: the main graph, If/Loop/Scan bodies, and local functions at each call.

What a scope knows of its values is in `value_states`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from nm2trt.errors import ModelError
from nm2trt.graph.analysis.value_states import CONSTANT, Scope, State, define, settle
from nm2trt.graph.storage.light_onnx import is_default, onnx
from nm2trt.graph.storage.model import Model, opset
from nm2trt.graph.storage.node_parts import bodies, renamed
from nm2trt.limits.bounds import bounds

# A bound that no real model reaches: a file that needs more is built to exhaust its reader.
_MOST_NESTING = 64


def walk(model: Model) -> Sequence[tuple[Scope, onnx.NodeProto]]:
    """Return every node with its scope: bodies after their node, functions at each call.

    The scopes are shared by all who ask until the model changes.

    Raises:
        ModelError: A name is defined twice, nodes form a cycle, functions call themselves, or the model
            unfolds to more nodes than any real one has.
    """
    return model.once("walk", lambda: tuple(_walk(model)))


def first_node(model: Model, operators: Collection[str], domain: str | None = None) -> str:
    """Return the first node of one of the operators, or of a domain, in words; "" without one."""
    for scope, node in walk(model):
        if (node.domain, node.op_type) in scope.functions:
            continue
        if node.op_type in operators or node.domain == domain:
            return f"{node.op_type} at {scope.label(node)}"
    return ""


def main_scope(model: Model) -> Scope:
    """Return the scope of the main graph, the one of `walk`.

    Raises:
        ModelError: A name is defined twice, or nodes form a cycle.
    """

    def found() -> Scope:
        check_unfolding(model)
        return _graph_scope(model, model.proto.graph, "", None, "the graph input")

    return model.once("main scope", found)


def _walk(model: Model) -> Iterator[tuple[Scope, onnx.NodeProto]]:
    main = main_scope(model)
    stack: list[tuple[Scope, Iterator[onnx.NodeProto]]] = [(main, iter(main.nodes))]
    while stack:
        scope, nodes = stack[-1]
        node = next(nodes, None)
        if node is None:
            stack.pop()
            continue
        yield scope, node
        called = scope.called.get(id(node))
        if called is not None:
            stack.append((called, iter(called.nodes)))
        for name, body in reversed(list(bodies(node))):
            label = f"{scope.label(node)}/{name}"
            inner = _graph_scope(
                model,
                body,
                f"{label}/",
                scope,
                f"the input of the body {label}",
                _turn_by_turn(scope, node, body),
                carried(scope, node, body),
            )
            stack.append((inner, iter(inner.nodes)))


def inner_outputs(scope: Scope, node: onnx.NodeProto) -> list[tuple[Scope, list[str]]]:
    """Return the scopes where an If makes its outputs, with their names there; [] for any other node."""
    if node.op_type != "If" or not is_default(node):
        return []
    return [
        (
            _graph_scope(scope.model, body, f"{scope.label(node)}/{name}/", scope, f"an input of {name}"),
            [value.name for value in body.output],
        )
        for name, body in bodies(node)
    ]


_Call = tuple[str, str, str]


def _call(node: onnx.NodeProto) -> _Call:
    return node.domain, node.op_type, getattr(node, "overload", "")


def _functions(model: Model) -> dict[_Call, onnx.FunctionProto]:
    return model.once(
        "functions",
        lambda: {(f.domain, f.name, getattr(f, "overload", "")): f for f in model.proto.functions},
    )


def check_unfolding(model: Model) -> None:
    """Raise ModelError if functions call themselves, or unfold to more nodes than any real model has."""
    if not model.proto.functions:
        return
    total = unfolded(model, lambda _: 1)
    most = bounds().unfolded_nodes + len(model.proto.graph.node)
    if total > most:
        raise ModelError(
            f"{model.name}: its functions unfold to {total:,} nodes, more than {most:,}; inline them"
        )


def unfolded(model: Model, cost: Callable[[onnx.NodeProto], int]) -> int:
    """Return the cost of all nodes of a model, those of a function once for each call.

    Args:
        model: The model.
        cost: The cost of one node; those in its bodies are counted too.

    Raises:
        ModelError: Functions call themselves, or one another over too many levels.
    """
    functions = _functions(model)
    sizes: dict[_Call, int] = {}

    def size(nodes: Iterable[onnx.NodeProto], calls: tuple[_Call, ...]) -> int:
        total = 0
        for node in nodes:
            total += cost(node) + sum(size(body.node, calls) for _, body in bodies(node))
            key = _call(node)
            if key not in functions:
                continue
            if key in calls:
                raise ModelError(f"{model.name}: function {node.op_type!r} calls itself")
            if key not in sizes:
                if len(calls) >= _MOST_NESTING:
                    raise ModelError(
                        f"{model.name}: functions call one another over {_MOST_NESTING} levels deep"
                    )
                sizes[key] = size(functions[key].node, (*calls, key))
            total += sizes[key]
        return total

    return size(model.proto.graph.node, ())


def _turn_by_turn(scope: Scope, node: onnx.NodeProto, body: onnx.GraphProto) -> dict[str, State]:
    """Return the inputs of a body through which a constant comes in slices: weights, though not one tensor.

    A Scan cuts its last inputs itself; a Loop's body picks by the number of the turn.
    """
    if not is_default(node) or node.op_type not in ("Scan", "Loop"):
        return {}
    attributes = scope.node_attributes(node)
    label = scope.label(node)
    if node.op_type == "Loop":
        turn = body.input[0].name if body.input else ""
        why = f"{label} picks another part of it at each iteration"
        return {turn: State("turn", why)} if turn else {}
    cut = max(0, int(attributes.get("num_scan_inputs", 0)))
    pairs = list(zip(node.input[_is_batched(scope, node) :], body.input, strict=False))
    return {
        inner.name: State("opaque", f"{label} cuts {outer!r} into one part per iteration")
        for outer, inner in (pairs[-cut:] if cut else [])
        if scope.state(outer).kind != "dynamic"
    }


class Carried(NamedTuple):
    """A value that a Loop or Scan hands from one iteration to the next.

    Args:
        slot: The loop's input that it starts from.
        outer: The name of that input.
        formal: Its name in the body.
        final: The loop's output that it ends as, or "".
        unchanged: Whether the body hands it on as it is.
    """

    slot: int
    outer: str
    formal: str
    final: str
    unchanged: bool


def carried(scope: Scope, node: onnx.NodeProto, body: onnx.GraphProto) -> list[Carried]:
    """Return the values that a loop carries; of a Scan of opset 8, whose values have a batch, none.

    Converters of TensorFlow, and exports of scripted loops, hand weights to the body in that way.
    """
    if not is_default(node) or node.op_type not in ("Scan", "Loop") or _is_batched(scope, node):
        return []
    # A Loop's body begins with the number of the iteration and a condition, and gives the condition.
    before = 2 if node.op_type == "Loop" else 0
    cut = int(scope.node_attributes(node).get("num_scan_inputs", 0)) if node.op_type == "Scan" else 0
    moved = {
        inner.output[0]: inner.input[0]
        for inner in body.node
        if inner.op_type == "Identity" and is_default(inner)
    }
    found = []
    pairs = zip(
        list(node.input)[before : len(node.input) - max(cut, 0)],
        body.input[before:],
        body.output[before // 2 :],
        strict=False,
    )
    for place, (outer, given, returned) in enumerate(pairs):
        value, steps = returned.name, 0
        while value in moved and steps < len(moved):
            value, steps = moved[value], steps + 1
        if outer:
            final = node.output[place] if place < len(node.output) else ""
            found.append(Carried(before + place, outer, given.name, final, value == given.name))
    return found


def _is_batched(scope: Scope, node: onnx.NodeProto) -> bool:
    """Tell whether a node is a Scan of opset 8: lengths stand before its inputs, which have a batch."""
    return node.op_type == "Scan" and (opset(scope.model.proto) or 0) < 9


def _graph_scope(
    model: Model,
    graph: onnx.GraphProto,
    name: str,
    parent: Scope | None,
    input_kind: str,
    known: dict[str, State] | None = None,
    handed: Sequence[Carried] = (),
) -> Scope:
    functions = parent.functions if parent else frozenset((f.domain, f.name) for f in model.proto.functions)
    scope = Scope(model, name, [], parent=parent, functions=functions, in_body=parent is not None)
    for tensor in graph.initializer:
        define(scope, tensor.name, CONSTANT)
        scope.initializers[tensor.name] = tensor
    for sparse in graph.sparse_initializer:
        define(scope, sparse.values.name, CONSTANT)
        scope.sparse[sparse.values.name] = sparse
    for item in handed:
        (scope.bindings if item.unchanged else scope.starts)[item.formal] = (parent or scope, item.outer)
    for value in graph.input:
        if value.name in scope.bindings:
            continue
        given = State("dynamic", f"it depends on {input_kind} {value.name!r}")
        # An initializer of the same name is the input's default, which is what will run.
        scope.states.setdefault(value.name, (known or {}).get(value.name, given))
    settle(scope, list(graph.node), _enter)
    return scope


def _enter(caller: Scope, call: onnx.NodeProto) -> tuple[Scope, Sequence[str]] | None:
    """Return the scope of a call of a local function with its outputs there; None for any other node."""
    function = _functions(caller.model).get(_call(call))
    if function is None:
        return None
    name = f"{caller.label(call)}/"
    scope = Scope(caller.model, name, [], functions=caller.functions, in_body=caller.in_body)
    for position, formal in enumerate(function.input):
        given = position < len(call.input) and call.input[position]
        scope.bindings[formal] = (caller, call.input[position]) if given else None
    scope.attributes = {attribute.name: attribute for attribute in getattr(function, "attribute_proto", [])}
    for attribute in call.attribute:
        if attribute.ref_attr_name:
            supplied = caller.attributes.get(attribute.ref_attr_name)
            if supplied is not None:
                scope.attributes[attribute.name] = renamed(supplied, attribute.name)
        else:
            scope.attributes[attribute.name] = attribute
    settle(scope, list(function.node), _enter)
    return scope, function.output
