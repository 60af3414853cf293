"""The first tensor inside two ONNX models that differs, and the node that makes it.

Both graphs run node by node in ONNX Runtime, on the same inputs, with inner tensors as outputs. Tensors are
matched by name; if names differ, by position: between tensors that match by name, nodes of the same
operator in the same order are taken for the same.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.compare.outputs import difference
from nm2trt.compare.tolerance import TOLERANCE
from nm2trt.errors import BackendError, DifferenceError, ModelError
from nm2trt.figures import counted, percent
from nm2trt.graph.analysis.output_kinds import lowest_type
from nm2trt.graph.execute.model_session import run_graph
from nm2trt.graph.storage.light_onnx import onnx
from nm2trt.graph.storage.model import Model, load
from nm2trt.json_value import JsonValue

Match = Literal["name", "position"]

# Tensors fetched in one run: together they set the memory that a run needs.
_AT_ONCE = 32
_MOST_FLIPPED = 0.01
# Their outputs are not tensors.
_SEQUENCES = frozenset(
    """SplitToSequence SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceMap
    Optional""".split()
)


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first tensor that differs.

    Args:
        tensor: Its name in the candidate.
        reference_tensor: Its name in the reference.
        matched_by: "name" or "position".
        node: Name of the node that makes it in the candidate, or its first output if it has no name.
        operator: That node's operator.
        reference_node: The node that makes it in the reference.
        metric: What differs: "max relative difference", "share of unequal values", "shape" or "NaN or
            infinity".
        value: How much; None for a shape or NaN.
        tolerance: How much was allowed.
        sentence: All of it in words.
    """

    tensor: str
    reference_tensor: str
    matched_by: Match
    node: str
    operator: str
    reference_node: str
    metric: str
    value: float | None
    tolerance: float
    sentence: str


@dataclass(frozen=True, slots=True)
class Bisection(JsonValue):
    """What the comparison of inner tensors found.

    Args:
        first: The first tensor that differs; None if none does.
        compared: Tensors that were compared, up to the first that differs.
        by_position: How many of them were matched by position.
        unmatched: Tensors of the candidate, up to there, that have no counterpart.
        largest_before: Largest relative difference among those that agree.
        tolerance: Largest relative difference that is allowed.
        sentence: The finding in words.
    """

    first: Divergence | None
    compared: int
    by_position: int
    unmatched: int
    largest_before: float
    tolerance: float
    sentence: str


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    node: str
    operator: str


@dataclass(frozen=True, slots=True)
class _Pair:
    candidate: _Tensor
    reference: _Tensor
    matched_by: Match


def bisect_models(
    candidate: Path,
    reference: Path,
    candidate_feeds: Arrays,
    reference_feeds: Arrays,
    *,
    tolerance: float | None = None,
) -> Bisection:
    """Compare inner tensors in the candidate's order, and stop at the first that differs.

    Tensors inside the branches of If and the bodies of Loop and Scan are not compared.

    Args:
        candidate: The model in question.
        reference: The model it is held against.
        candidate_feeds: Inputs of the candidate.
        reference_feeds: The same inputs, in the reference's dtypes.
        tolerance: Largest difference relative to a tensor's largest value; by default that of the lower
            precision of the two, `nm2trt.compare.tolerance.TOLERANCE`.

    Raises:
        InputError: A file is missing.
        ModelError: A file is no ONNX model, or ONNX Runtime cannot load it.
        BackendError: It fails in a run.
        DifferenceError: No tensor of one has a counterpart in the other.
    """
    models = [load(candidate), load(reference)]
    tensors = [_tensors(model.proto.graph) for model in models]
    pairs = _paired(*tensors)
    if not pairs:
        raise DifferenceError(
            f"{candidate} and {reference} have no inner tensor in common, neither by name nor by operator "
            "and position; nothing can be compared inside them"
        )
    limit = _tolerance(models) if tolerance is None else tolerance
    compared: list[_Pair] = []
    matched, largest = 0, 0.0
    for pair, own, other in _values(models, pairs, (candidate_feeds, reference_feeds)):
        matched += 1
        if not all(value.dtype.kind in "biuf" for value in (own, other)):
            continue
        first, relative = _judged(pair, own, other, limit)
        compared.append(pair)
        if first is not None:
            return _result(tensors[0], compared, matched, largest, limit, first)
        largest = max(largest, relative)
    return _result(tensors[0], compared, matched, largest, limit, None)


def _result(
    tensors: Sequence[_Tensor],
    compared: Sequence[_Pair],
    matched: int,
    largest: float,
    limit: float,
    first: Divergence | None,
) -> Bisection:
    """Sum up; `matched` counts the tensors that have a counterpart, of numbers or not."""
    agreeing = len(compared) - (first is not None)
    reached = len(tensors) if first is None else [t.name for t in tensors].index(first.tensor) + 1
    agree = (
        counted(agreeing, "tensor before it agrees", "tensors before it agree")
        if first
        else f"all {agreeing} inner tensors agree"
    )
    sentence = f"{agree} within {limit:g} of their largest value"
    if agreeing:
        sentence += f"; the largest difference among them is {largest:.3g}"
    return Bisection(
        first=first,
        compared=len(compared),
        by_position=sum(pair.matched_by == "position" for pair in compared),
        unmatched=reached - matched,
        largest_before=largest,
        tolerance=limit,
        sentence=f"{first.sentence}; {sentence}" if first else sentence,
    )


def _tensors(graph: onnx.GraphProto) -> list[_Tensor]:
    """Return every output of every node, in the graph's order, which ONNX requires to be topological."""
    return [
        _Tensor(name, node.name or node.output[0], node.op_type)
        for node in graph.node
        if node.op_type != "Constant" and node.op_type not in _SEQUENCES
        for name in node.output
        if name
    ]


def _paired(candidate: Sequence[_Tensor], reference: Sequence[_Tensor]) -> list[_Pair]:
    by_name = {tensor.name: tensor for tensor in reference}
    shared = {tensor.name for tensor in candidate} & by_name.keys()
    keys = [
        [f"name {tensor.name}" if tensor.name in shared else f"operator {tensor.operator}" for tensor in side]
        for side in (candidate, reference)
    ]
    aligned: dict[str, _Tensor] = {}
    matcher = difflib.SequenceMatcher(None, keys[0], keys[1], autojunk=False)
    for block in matcher.get_matching_blocks():
        for offset in range(block.size):
            own, other = candidate[block.a + offset], reference[block.b + offset]
            if own.name not in shared:
                aligned[own.name] = other
    pairs = []
    for tensor in candidate:
        if tensor.name in shared:
            pairs.append(_Pair(tensor, by_name[tensor.name], "name"))
        elif tensor.name in aligned:
            pairs.append(_Pair(tensor, aligned[tensor.name], "position"))
    return pairs


def _values(
    models: Sequence[Model], pairs: Sequence[_Pair], feeds: tuple[Arrays, Arrays]
) -> Iterator[tuple[_Pair, Array, Array]]:
    for start in range(0, len(pairs), _AT_ONCE):
        group = pairs[start : start + _AT_ONCE]
        own = _fetched(models[0], [pair.candidate.name for pair in group], feeds[0])
        other = _fetched(models[1], [pair.reference.name for pair in group], feeds[1])
        for pair in group:
            yield pair, own[pair.candidate.name], other[pair.reference.name]


def _fetched(model: Model, names: Sequence[str], feeds: Arrays) -> Arrays:
    """Run the graph with these tensors as its outputs."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
    try:
        return run_graph(Model(proto, model.path, model.root, changed=True), feeds)
    except (ModelError, BackendError) as error:
        error.args = (f"{model.name}, run with its inner tensors as outputs: {error}",)
        raise


def _judged(pair: _Pair, own: Array, other: Array, limit: float) -> tuple[Divergence | None, float]:
    """Return the divergence, or None and the relative difference."""
    if own.shape != other.shape:
        return _divergence(pair, "shape", None, limit, f"shape {own.shape} against {other.shape}"), 0.0
    if own.dtype.kind != "f" or other.dtype.kind != "f":
        share = float(np.mean(own != other)) if own.size else 0.0
        if share > _MOST_FLIPPED:
            words = f"{percent(share, 2)} of its values are unequal"
            return _divergence(pair, "share of unequal values", share, _MOST_FLIPPED, words), share
        return None, 0.0
    try:
        found = difference(pair.candidate.name, own, other)
    except DifferenceError:
        words = "NaN or infinity although the other is finite"
        return _divergence(pair, "NaN or infinity", None, limit, words), 0.0
    if found.max_relative <= limit:
        return None, found.max_relative
    words = f"max relative difference {found.max_relative:.3g}, more than {limit:g}"
    return _divergence(pair, "max relative difference", found.max_relative, limit, words), 0.0


def _divergence(pair: _Pair, metric: str, value: float | None, limit: float, words: str) -> Divergence:
    own, other = pair.candidate, pair.reference
    by = "" if pair.matched_by == "name" else f" (matched by position with {other.name!r})"
    return Divergence(
        tensor=own.name,
        reference_tensor=other.name,
        matched_by=pair.matched_by,
        node=own.node,
        operator=own.operator,
        reference_node=other.node,
        metric=metric,
        value=value,
        tolerance=limit,
        sentence=f"first to differ: tensor {own.name!r}{by}, made by {own.operator} {own.node!r}: {words}",
    )


def _tolerance(models: Sequence[Model]) -> float:
    return max(TOLERANCE[lowest_type(model.proto) or "float32"] for model in models)
