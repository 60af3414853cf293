"""Values of a graph that may not vanish, and names that are taken."""

from __future__ import annotations

from collections.abc import Iterator

from nm2trt.graph.storage.light_onnx import graphs_of, onnx


def pins(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Yield the values of the main graph that may not vanish, with the clause that says why."""
    graph = model.graph
    for node in graph.node:
        for name in _captured(node):
            yield name, f"a body of {node.op_type} {node.name!r} reads {name!r}"
    for training in model.training_info:
        bindings = [*training.initialization_binding, *training.update_binding]
        names = [name for entry in bindings for name in (entry.key, entry.value)]
        names += [name for node in training.algorithm.node for name in node.input]
        for name in filter(None, names):
            yield name, f"the training information names {name!r}"
    for annotation in graph.quantization_annotation:
        yield annotation.tensor_name, f"{annotation.tensor_name!r} has a quantization annotation"
        for entry in annotation.quant_parameter_tensor_names:
            yield entry.value, f"a quantization annotation names {entry.value!r}"
    for value in graph.output:
        yield value.name, f"{value.name!r} is an output of the model"


def _captured(node: onnx.NodeProto) -> Iterator[str]:
    stack = graphs_of(node)
    while stack:
        body = stack.pop()
        yield from (value.name for value in body.output)
        for inner in body.node:
            yield from (name for name in inner.input if name)
            stack += graphs_of(inner)


def all_names(graph: onnx.GraphProto) -> set[str]:
    """Return every name that stands in a graph, or that its bodies read."""
    names = {value.name for value in [*graph.input, *graph.output, *graph.value_info]}
    names.update(tensor.name for tensor in graph.initializer)
    names.update(sparse.values.name for sparse in graph.sparse_initializer)
    for node in graph.node:
        names.update(node.output)
        names.update(_captured(node))
    return names


def free_name(wanted: str, taken: set[str]) -> str:
    """Return a name that is not taken, with a sign at its end for each that is, and take it."""
    while wanted in taken:
        wanted += "_"
    taken.add(wanted)
    return wanted


def numbered_name(wanted: str, taken: set[str], joint: str = "_") -> str:
    """Return a name that is not taken, if need be with a number from 2 on at its end, and take it."""
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}{joint}{count}"
    taken.add(name)
    return name
