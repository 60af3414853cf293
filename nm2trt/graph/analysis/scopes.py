"""Names and what they stand for: in the main graph, in If/Loop/Scan bodies, and in local functions.

A scope knows, for every value it can see, whether it is constant, depends on an input, or comes from
something that cannot be evaluated. That is settled once, in topological order and without recursion.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nm2trt.bounds import bounds
from nm2trt.errors import ModelError
from nm2trt.graph.storage.light_onnx import attribute_value, onnx, schemas
from nm2trt.graph.storage.model import Model

# A bound that no real model reaches: a file that needs more is built to exhaust its reader.
_MOST_NESTING = 64

_NONDETERMINISTIC = frozenset(
    {
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Multinomial",
        "Bernoulli",
        "Dropout",
    }
)

# Types of attributes that hold no graph.
_PLAIN = frozenset(
    getattr(onnx.AttributeProto, kind)
    for kind in ("FLOAT", "INT", "STRING", "TENSOR", "FLOATS", "INTS", "STRINGS")
)


@dataclass(frozen=True, slots=True)
class State:
    """Whether a value is known before anything runs.

    Args:
        kind: "constant", "dynamic" when it depends on an input, "opaque" if it depends on no input but
            something on the way cannot be evaluated, "turn" if it depends only on the loop's iteration.
        why: The clause that says what stands in the way; "" for a constant.
    """

    kind: Literal["constant", "dynamic", "opaque", "turn"]
    why: str = ""


CONSTANT = State("constant")


@dataclass(slots=True, eq=False)
class Scope:
    """One graph, or one call of a local function.

    Args:
        model: The model.
        name: "" for the main graph, else the path of node names that leads here, ending in "/".
        nodes: Its nodes, in topological order.
        initializers: Dense initializers by name.
        sparse: Sparse initializers by name.
        parent: The scope whose names a body sees too; a function sees none.
        bindings: A function's inputs: formal name to the caller's scope and name; None for one left out.
        attributes: A function call's attributes, for `ref_attr_name`.
        functions: Domain and name of every local function.
        positions: Position of a node, by identity, in the file.
        producers: The node that makes each output.
        states: What is known of each value that is defined here.
    """

    model: Model
    name: str
    nodes: list[onnx.NodeProto]
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    sparse: dict[str, onnx.SparseTensorProto] = field(default_factory=dict)
    parent: Scope | None = None
    bindings: dict[str, tuple[Scope, str] | None] = field(default_factory=dict)
    attributes: dict[str, onnx.AttributeProto] = field(default_factory=dict)
    functions: frozenset[tuple[str, str]] = frozenset()
    positions: dict[int, int] = field(default_factory=dict)
    producers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)

    def owner(self, value: str) -> tuple[Scope, str] | None:
        """Return the scope that defines a value, and its name there; None when nothing does."""
        scope: Scope | None = self
        while scope is not None:
            if value in scope.bindings:
                bound = scope.bindings[value]
                if bound is None:
                    return None
                scope, value = bound
                continue
            if value in scope.states:
                return scope, value
            scope = scope.parent
        return None

    def state(self, value: str) -> State:
        """Return what is known of a value that this scope can see."""
        found = self.owner(value)
        if found is None:
            return State("dynamic", f"nothing defines {value!r}")
        return found[0].states[found[1]]

    def node_attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        """Return a node's attributes as Python values, with those that a function call supplies."""
        values: dict[str, Any] = {}
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                supplied = self.attributes.get(attribute.ref_attr_name)
                if supplied is None:
                    continue
                attribute = _renamed(supplied, attribute.name)
            value = attribute_value(attribute)
            values[attribute.name] = value.decode(errors="replace") if isinstance(value, bytes) else value
        return values

    def label(self, node: onnx.NodeProto) -> str:
        """Return a node's name with its scope in front; an unnamed node gets its type and position."""
        return self.name + node_name(node, self.positions[id(node)])


def node_name(node: onnx.NodeProto, position: int) -> str:
    """Return a node's name, or its type and position if it has no name."""
    return node.name or f"{node.op_type}#{position}"


def walk(model: Model) -> Sequence[tuple[Scope, onnx.NodeProto]]:
    """Return every node with its scope: bodies after their node, functions at each call.

    The scopes are shared by all who ask until the model changes; `main_scope` makes one to change.

    Raises:
        ModelError: A name is defined twice, nodes form a cycle, functions call themselves, or the model
            unfolds to more nodes than any real one has.
    """
    return model.once("walk", lambda: tuple(_walk(model)))


def main_scope(model: Model) -> Scope:
    """Return a scope of the main graph, which the caller may add to.

    Raises:
        ModelError: A name is defined twice, or nodes form a cycle.
    """
    return _graph_scope(model, model.proto.graph, "", None, "the graph input")


def _walk(model: Model) -> Iterator[tuple[Scope, onnx.NodeProto]]:
    check_unfolding(model)
    functions = _functions(model)
    main = main_scope(model)
    stack: list[tuple[Scope, Iterator[onnx.NodeProto]]] = [(main, iter(main.nodes))]
    while stack:
        scope, nodes = stack[-1]
        node = next(nodes, None)
        if node is None:
            stack.pop()
            continue
        yield scope, node
        function = functions.get(_call(node))
        if function is not None:
            inner = _function_scope(scope, node, function)
            stack.append((inner, iter(inner.nodes)))
        for name, body in reversed(list(_bodies(node))):
            label = f"{scope.label(node)}/{name}"
            inner = _graph_scope(
                model,
                body,
                f"{label}/",
                scope,
                f"the input of the body {label}",
                _turn_by_turn(scope, node, body),
            )
            stack.append((inner, iter(inner.nodes)))


def inner_outputs(scope: Scope, node: onnx.NodeProto) -> list[tuple[Scope, list[str]]]:
    """Return the scopes where an If or a call of a local function makes its outputs, with their names there.

    Args:
        scope: Where the node stands; `walk` has yielded it, so that functions are known to end.
        node: The node; any other has none.
    """
    function = next((f for f in scope.model.proto.functions if (f.domain, f.name) == _call(node)[:2]), None)
    if function is not None:
        return [(_function_scope(scope, node, function), list(function.output))]
    if node.op_type != "If" or node.domain not in ("", "ai.onnx"):
        return []
    return [
        (
            _graph_scope(scope.model, body, f"{scope.label(node)}/{name}/", scope, f"an input of {name}"),
            [value.name for value in body.output],
        )
        for name, body in _bodies(node)
    ]


_Call = tuple[str, str, str]


def _call(node: onnx.NodeProto) -> _Call:
    return node.domain, node.op_type, getattr(node, "overload", "")


def _bodies(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    for attribute in node.attribute:
        kind = attribute.type
        if kind in _PLAIN:
            continue
        if kind == onnx.AttributeProto.GRAPH:
            yield attribute.name, attribute.g
        for graph in attribute.graphs:
            yield attribute.name, graph


def _functions(model: Model) -> dict[_Call, onnx.FunctionProto]:
    return {(f.domain, f.name, getattr(f, "overload", "")): f for f in model.proto.functions}


def check_unfolding(model: Model) -> None:
    """Raise if functions call themselves, or unfold to more nodes than any real model has.

    Raises:
        ModelError: They do.
    """
    functions = _functions(model)
    sizes: dict[_Call, int] = {}

    def size(nodes: Iterable[onnx.NodeProto], calls: tuple[_Call, ...]) -> int:
        total = 0
        for node in nodes:
            total += 1 + sum(size(body.node, calls) for _, body in _bodies(node))
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

    total = size(model.proto.graph.node, ())
    most = bounds().unfolded_nodes + len(model.proto.graph.node)
    if functions and total > most:
        raise ModelError(
            f"{model.name}: its functions unfold to {total} nodes, more than {most}; inline them"
        )


def _turn_by_turn(scope: Scope, node: onnx.NodeProto, body: onnx.GraphProto) -> dict[str, State]:
    """Return the inputs of a body through which a constant comes in slices: weights, though not one tensor.

    A Scan cuts its last inputs itself; a Loop's body picks by the number of the turn. What a loop carries
    from one iteration to the next, the state, is not a weight even if it starts as a constant.
    """
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("Scan", "Loop"):
        return {}
    attributes = scope.node_attributes(node)
    label = scope.label(node)
    if node.op_type == "Loop":
        turn = body.input[0].name if body.input else ""
        why = f"{label} picks another part of it at each iteration"
        return {turn: State("turn", why)} if turn else {}
    cut = max(0, int(attributes.get("num_scan_inputs", 0)))
    pairs = list(zip(node.input, body.input, strict=False))
    return {
        inner.name: State("opaque", f"{label} cuts {outer!r} into one part per iteration")
        for outer, inner in (pairs[-cut:] if cut else [])
        if scope.state(outer).kind != "dynamic"
    }


def _graph_scope(
    model: Model,
    graph: onnx.GraphProto,
    name: str,
    parent: Scope | None,
    input_kind: str,
    known: dict[str, State] | None = None,
) -> Scope:
    functions = (
        frozenset((f.domain, f.name) for f in model.proto.functions) if parent is None else parent.functions
    )
    scope = Scope(model, name, [], parent=parent, functions=functions)
    for tensor in graph.initializer:
        _define(scope, tensor.name, CONSTANT)
        scope.initializers[tensor.name] = tensor
    for sparse in graph.sparse_initializer:
        _define(scope, sparse.values.name, CONSTANT)
        scope.sparse[sparse.values.name] = sparse
    for value in graph.input:
        # An initializer of the same name is the input's default, which is what will run.
        state = (known or {}).get(value.name) or State(
            "dynamic", f"it depends on {input_kind} {value.name!r}"
        )
        scope.states.setdefault(value.name, state)
    _settle(scope, list(graph.node))
    return scope


def _function_scope(caller: Scope, call: onnx.NodeProto, function: onnx.FunctionProto) -> Scope:
    scope = Scope(caller.model, f"{caller.label(call)}/", [], functions=caller.functions)
    for position, formal in enumerate(function.input):
        given = position < len(call.input) and call.input[position]
        scope.bindings[formal] = (caller, call.input[position]) if given else None
    scope.attributes = {attribute.name: attribute for attribute in getattr(function, "attribute_proto", [])}
    for attribute in call.attribute:
        if attribute.ref_attr_name:
            supplied = caller.attributes.get(attribute.ref_attr_name)
            if supplied is not None:
                scope.attributes[attribute.name] = _renamed(supplied, attribute.name)
        else:
            scope.attributes[attribute.name] = attribute
    _settle(scope, list(function.node))
    return scope


def _renamed(attribute: onnx.AttributeProto, name: str) -> onnx.AttributeProto:
    copy = onnx.AttributeProto()
    copy.CopyFrom(attribute)
    copy.name = name
    return copy


def _define(scope: Scope, value: str, state: State) -> None:
    if value in scope.states:
        raise ModelError(
            f"{scope.model.name} defines {scope.name + value!r} twice; the model is not valid ONNX"
        )
    scope.states[value] = state


def _settle(scope: Scope, nodes: list[onnx.NodeProto]) -> None:
    """Order the nodes and settle the state of every output."""
    for position, node in enumerate(nodes):
        scope.positions[id(node)] = position
        for output in node.output:
            if output:
                if output in scope.producers or output in scope.states or output in scope.bindings:
                    raise ModelError(
                        f"{scope.model.name} defines {scope.name + output!r} twice, again at "
                        f"{scope.label(node)}; the model is not valid ONNX"
                    )
                scope.producers[output] = node
    scope.nodes = _topological(scope, nodes)
    for node in scope.nodes:
        state = _node_state(scope, node)
        for output in node.output:
            if output:
                scope.states[output] = state


def _topological(scope: Scope, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Sort nodes by their inputs; a sorted list, as ONNX demands, comes back as it is."""
    if _is_sorted(scope, nodes):
        return nodes
    waiting: dict[int, int] = {}
    readers: dict[int, list[onnx.NodeProto]] = {}
    for node in nodes:
        sources = {id(scope.producers[name]) for name in _reads(node) if name in scope.producers}
        waiting[id(node)] = len(sources)
        for source in sources:
            readers.setdefault(source, []).append(node)
    done: set[int] = set()
    order: list[onnx.NodeProto] = []
    for first in nodes:
        ready = [first] if waiting[id(first)] == 0 and id(first) not in done else []
        while ready:
            node = ready.pop()
            done.add(id(node))
            order.append(node)
            for reader in readers.get(id(node), ()):
                waiting[id(reader)] -= 1
                # A node further on is met in its turn, so that a sorted list keeps its order.
                if waiting[id(reader)] == 0 and scope.positions[id(reader)] < scope.positions[id(first)]:
                    ready.append(reader)
    if len(order) < len(nodes):
        stuck = next(node for node in nodes if id(node) not in done)
        raise ModelError(f"{scope.model.name}: the nodes around {scope.label(stuck)} form a cycle")
    return order


def _is_sorted(scope: Scope, nodes: Iterable[onnx.NodeProto]) -> bool:
    made: set[str] = set()
    for node in nodes:
        for name in _reads(node):
            if name not in made and name in scope.producers:
                return False
        made.update(node.output)
    return True


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the values that a node reads, those that its bodies capture included."""
    yield from node.input
    for _, body in _bodies(node):
        for inner in body.node:
            yield from _reads(inner)
        yield from (value.name for value in body.output)


def _node_state(scope: Scope, node: onnx.NodeProto) -> State:
    states = [scope.state(name) for name in visible(scope, node)]
    for state in states:
        if state.kind == "dynamic":
            return state
    turns = [state for state in states if state.kind == "turn"]
    if turns and (node.op_type != "Gather" or len(states) < 2 or states[0].kind == "turn"):
        return turns[0]
    if turns:
        return State("opaque", turns[0].why)
    for state in states:
        if state.kind == "opaque":
            return state
    label = scope.label(node)
    if node.op_type in _NONDETERMINISTIC:
        return State("opaque", f"{node.op_type} at {label} draws random numbers")
    if any(_bodies(node)):
        return State("opaque", f"{node.op_type} at {label} runs a body, which is not evaluated")
    if (node.domain, node.op_type) in scope.functions:
        return State("opaque", f"it is computed by the local function {node.op_type} at {label}")
    if not any(node.input) and _needs_input(node):
        return State("opaque", f"{node.op_type} at {label} has no input; the model is not valid ONNX")
    return CONSTANT


def _needs_input(node: onnx.NodeProto) -> bool:
    """Tell whether an operator of ONNX's own cannot compute anything of nothing, as Constant can."""
    if node.domain not in ("", "ai.onnx") or not schemas().has_schema(node.op_type):
        return False
    return bool(schemas().get_schema(node.op_type).min_input)


def visible(scope: Scope, node: onnx.NodeProto) -> Iterator[str]:
    """Yield what a node reads from its own scope; names that its bodies define themselves are left out."""
    yield from (name for name in node.input if name)
    if any(_bodies(node)):
        yield from (name for name in _reads(node) if name and scope.owner(name) is not None)
