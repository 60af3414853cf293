"""Values of one scope, and whether each is known before anything runs.

A scope is the main graph, an If/Loop/Scan body, or one call of a local function. It knows, for every value it
can see, whether it is constant, depends on an input, or comes from something that cannot be evaluated. That
is settled once, in topological order; without recursion, but for functions that call functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from nm2trt.errors import ModelError
from nm2trt.graph.storage.light_onnx import attribute_value, is_default, onnx, schemas
from nm2trt.graph.storage.model import Model, opset
from nm2trt.graph.storage.node_parts import bodies, node_name, renamed
from nm2trt.graph.storage.tensors import read_tensor

_NONDETERMINISTIC = frozenset(
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli Dropout".split()
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
        bindings: What stands in another scope, by its name here, with that scope and the name there: a
            function's inputs at its caller, what a call returns in the function; None for one left out.
        called: The scope of each call of a local function, by the calling node's identity.
        starts: What a loop carries and its body changes: name in the body to scope and name of its start.
        attributes: A function call's attributes, for `ref_attr_name`.
        functions: Domain and name of every local function.
        in_body: Whether it is a body, or called in one.
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
    called: dict[int, Scope] = field(default_factory=dict)
    starts: dict[str, tuple[Scope, str]] = field(default_factory=dict)
    attributes: dict[str, onnx.AttributeProto] = field(default_factory=dict)
    functions: frozenset[tuple[str, str]] = frozenset()
    in_body: bool = False
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

    def tensor(self, name: str) -> onnx.TensorProto | None:
        """Return the tensor that an initializer or a Constant node of this scope holds; None without one."""
        node = self.producers.get(name)
        if node is None or node.op_type != "Constant" or not is_default(node):
            return self.initializers.get(name)
        given = (item for item in node.attribute if item.name == "value" and not item.ref_attr_name)
        return next((item.t for item in given), None)

    def node_attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        """Return a node's attributes as Python values, with those that a function call supplies."""
        values: dict[str, Any] = {}
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                supplied = self.attributes.get(attribute.ref_attr_name)
                if supplied is None:
                    continue
                attribute = renamed(supplied, attribute.name)
            value = attribute_value(attribute)
            values[attribute.name] = value.decode(errors="replace") if isinstance(value, bytes) else value
        return values

    def label(self, node: onnx.NodeProto) -> str:
        """Return a node's name with its scope in front; an unnamed node gets its type and position."""
        return self.name + node_name(node, self.positions[id(node)])


def define(scope: Scope, value: str, state: State) -> None:
    """Note what is known of a value that a scope begins with.

    Raises:
        ModelError: The scope has a value of that name.
    """
    if value in scope.states:
        raise ModelError(
            f"{scope.model.name} defines {scope.name + value!r} twice; the model is not valid ONNX"
        )
    scope.states[value] = state


def settle(
    scope: Scope,
    nodes: list[onnx.NodeProto],
    enter: Callable[[Scope, onnx.NodeProto], tuple[Scope, Iterable[str]] | None],
) -> None:
    """Order the nodes and settle the state of every output.

    Args:
        scope: The scope, with what it begins with.
        nodes: Its nodes.
        enter: Returns the scope of a call of a local function, and the names of its outputs there.

    Raises:
        ModelError: A name is defined twice, or nodes form a cycle.
    """
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
        entered = enter(scope, node)
        if entered is not None:
            inner, returned = entered
            scope.called[id(node)] = inner
            scope.bindings.update(
                (output, (inner, name)) for output, name in zip(node.output, returned, strict=False) if output
            )
            continue
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
                # A later node is reached by the loop, so that a sorted list keeps its order.
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
    """Yield the values that a node reads, those that its bodies capture included.

    A name that a body defines is its own, even if a value outside has it too: optimum gives the outputs of
    an If and of its branches the same names.
    """
    yield from node.input
    for _, body in bodies(node):
        own = {value.name for value in (*body.input, *body.initializer)}
        own.update(sparse.values.name for sparse in body.sparse_initializer)
        own.update(output for inner in body.node for output in inner.output)
        inside = (name for inner in body.node for name in _reads(inner))
        yield from (name for name in (*inside, *(value.name for value in body.output)) if name not in own)


def _node_state(scope: Scope, node: onnx.NodeProto) -> State:
    states = []
    for name in visible(scope, node):
        state = scope.state(name)
        if state.kind == "dynamic":
            return state
        states.append(state)
    turns = [state for state in states if state.kind == "turn"]
    if turns and (node.op_type != "Gather" or len(states) < 2 or states[0].kind == "turn"):
        return turns[0]
    if turns:
        return State("opaque", turns[0].why)
    for state in states:
        if state.kind == "opaque":
            return state
    label = scope.label(node)
    if node.op_type in _NONDETERMINISTIC and not _is_idle_dropout(scope, node):
        return State("opaque", f"{node.op_type} at {label} draws random numbers")
    if any(bodies(node)):
        return State("opaque", f"{node.op_type} at {label} runs a body, which is not evaluated")
    if not any(node.input) and _needs_input(node):
        return State("opaque", f"{node.op_type} at {label} has no input; the model is not valid ONNX")
    return CONSTANT


def _is_idle_dropout(scope: Scope, node: onnx.NodeProto) -> bool:
    """Tell whether a node is a Dropout that does not train; below opset 7 one trains unless it says so."""
    if node.op_type != "Dropout":
        return False
    if any(node.input[2:]):
        found = scope.owner(node.input[2])
        training = None if found is None else found[0].tensor(found[1])
        return training is not None and not read_tensor(training, scope.model.root).any()
    return (opset(scope.model.proto) or 0) >= 7 or bool(scope.node_attributes(node).get("is_test", 0))


def _needs_input(node: onnx.NodeProto) -> bool:
    """Tell whether an operator of ONNX's own cannot compute anything of nothing, as Constant can."""
    if not is_default(node) or not schemas().has_schema(node.op_type):
        return False
    return bool(schemas().get_schema(node.op_type).min_input)


def visible(scope: Scope, node: onnx.NodeProto) -> Iterator[str]:
    """Yield what a node reads from its own scope; names that its bodies define themselves are left out."""
    yield from (name for name in node.input if name)
    if any(bodies(node)):
        yield from (name for name in _reads(node) if name and scope.owner(name) is not None)
