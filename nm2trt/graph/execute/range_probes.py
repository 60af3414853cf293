"""A model that gives what its inner values reach, for calibration; its weights stay in the file.

Extremes are reduced where a value is made: each reduction stands directly after the node that makes the
value, and ONNX Runtime runs the nodes in that order, so that no value waits in memory for the end of the run.
At the end of the file, thousands of reductions take it time that grows with the square of their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from nm2trt.arrays import Arrays
from nm2trt.backends.ort import OrtSession, open_onnx
from nm2trt.calibration.collectors import Method, Observed
from nm2trt.calibration.ranges import Ranges, calibrate
from nm2trt.calibration.stream import SampleStream
from nm2trt.graph.analysis.pinned_values import all_names, free_name
from nm2trt.graph.storage.light_onnx import onnx
from nm2trt.graph.storage.model import Model, serialized
from nm2trt.graph.storage.model_hash import model_hash

# One batch: what a model was fed, and what it gave.
Run: TypeAlias = tuple[Arrays, Arrays]

# Their results are never negative, so only the largest is needed.
_NOT_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Sqrt"})


@dataclass(frozen=True, slots=True)
class Observable:
    """A model with outputs added.

    Args:
        data: The model's bytes, without large weights.
        weights_folder: Where it finds them.
        observed: The outputs that were added, and what each says.
    """

    data: bytes
    weights_folder: Path | None
    observed: Mapping[str, Observed]

    def open(self) -> OrtSession:
        """Open it in ONNX Runtime."""
        return open_onnx(self.data, weights_folder=self.weights_folder, in_order=True)


def value_ranges(
    model: Model,
    values: Sequence[str],
    samples: SampleStream,
    cache: Path | None,
    first: list[Run] | None,
    *,
    method: Method = "minmax",
    percentile: float = 99.99,
    infinite: bool = False,
) -> Ranges:
    """Run calibration samples, and return the range of each of these values.

    Args:
        model: The float32 model.
        values: Values of its main graph.
        samples: The samples.
        cache: File that keeps what was found.
        first: Takes the first batch; None keeps nothing.
        method: As `calibrate` takes it.
        percentile: As `calibrate` takes it.
        infinite: As `calibrate` takes it.
    """
    seen = observable(model, values, whole=method != "minmax")
    given = [value.name for value in model.proto.graph.output]

    def keep(feeds: Arrays, outputs: Arrays) -> None:
        if first is not None:
            first.append((feeds, {name: outputs[name].copy() for name in given}))

    return calibrate(
        seen.open,
        seen.observed,
        samples,
        method=method,
        percentile=percentile,
        model_sha256=model_hash(model),
        cache=cache,
        first=keep,
        infinite=infinite,
    )


def observable(model: Model, values: Sequence[str], *, whole: bool) -> Observable:
    """Return a model that also gives the extremes, or all numbers, of some of its values.

    Args:
        model: The model; it is left as it was.
        values: The values of its main graph.
        whole: Give whole values; otherwise their smallest and largest number.

    Raises:
        ModelError: It is too large to be run from memory.
    """
    graph = model.proto.graph
    nodes = list(graph.node)  # held, since `id` names an object only while it lives
    places = {id(node): place for place, node in enumerate(nodes)}
    makers = {name: node for node in nodes for name in node.output}
    given = {value.name for value in graph.output}
    taken = all_names(graph)
    observed: dict[str, Observed] = {}
    count, outputs = len(nodes), len(graph.output)
    for value in reversed(values):
        if whole:
            observed[value] = Observed(value, "all")
            if value not in given:
                graph.output.append(onnx.ValueInfoProto(name=value))
            continue
        maker = makers.get(value)
        for operator, kind in (("ReduceMin", "min"), ("ReduceMax", "max")):
            if kind == "min" and maker is not None and maker.op_type in _NOT_NEGATIVE:
                continue
            name = free_name(f"{value}/{kind}", taken)
            graph.node.append(onnx.helper.make_node(operator, [value], [name], name, keepdims=0))
            nodes.append(graph.node[-1])
            places[id(nodes[-1])] = -1 if maker is None else places[id(maker)]
            graph.output.append(onnx.ValueInfoProto(name=name))
            observed[name] = Observed(value, "min" if kind == "min" else "max")
    graph.node.sort(key=lambda node: places[id(node)])
    try:
        return Observable(serialized(model), model.root, observed)
    finally:
        places = {id(node): place for place, node in enumerate(nodes)}
        graph.node.sort(key=lambda node: places[id(node)])
        del graph.node[count:]
        del graph.output[outputs:]
