"""Verdict on one weight and one of its consumers: two questions, two answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from nm2trt.json_value import JsonValue
from nm2trt.nm.pattern import NMPattern

PatternStatus = Literal["holds", "broken", "dense-by-plan", "not-groupable", "untraceable"]
Eligible = Literal["yes", "no", "unknown"]
Basis = Literal["measured", "cited", "assumed"]


@dataclass(frozen=True, slots=True)
class WeightFacts(JsonValue):
    """What the hardware rules of `nm2trt.nm.eligibility` may look at.

    Args:
        operator: ONNX operator type.
        shape: Shape as the consumer reads it.
        axis: Reduction axis.
        dtype: Type that the kernel would compute in, e.g. "float16"; "int8" if weight and input both
            come out of Q/DQ pairs.
        conv_groups: A convolution's group count; 1 otherwise.
        pattern: The pattern that the weight holds, or None.
        constant_input_index: The consumer's input that the weight feeds.
        convolution: Whether the consumer is a convolution, so that dimensions may be kernel positions.
        island: What keeps a layer of a quantised model from computing in INT8 from end to end, or "".
        unread: The first node of the model that TensorRT's parsers do not read, or "".
        unread_by_rtx: The first that the parser of TensorRT for RTX does not read, or "".
        opset: The model's opset; 0 if it is not known.
        nested: Whether the consumer stands in a body, which no pass that takes samples changes.
        fixed: Why `nm2trt prune` leaves the stored numbers as they are, as far as the graph tells, or "".
        rebuilt: Whether `nm2trt prune --calib` finds the numbers as a stored float tensor.
    """

    operator: str
    shape: tuple[int, ...]
    axis: int
    dtype: str
    conv_groups: int
    pattern: NMPattern | None
    constant_input_index: int = 1
    convolution: bool = False
    island: str = ""
    unread: str = ""
    unread_by_rtx: str = ""
    opset: int = 0
    nested: bool = False
    fixed: str = ""
    rebuilt: bool = True

    @property
    def inputs(self) -> int:
        """Channels that one result sums over, without a convolution's kernel positions."""
        return self.shape[self.axis]

    @property
    def positions(self) -> int:
        """A convolution's kernel positions; 1 otherwise."""
        return math.prod(self.shape[2:]) if self.convolution else 1

    @property
    def outputs(self) -> int:
        """Channels of the result: the other matrix dimension, or a convolution's output channels."""
        if self.convolution:
            return self.shape[1 - self.axis]
        rank = len(self.shape)
        return next((self.shape[i] for i in (-1, -2) if rank > 1 and i % rank != self.axis), 1)


@dataclass(frozen=True, slots=True)
class Eligibility:
    """Whether the hardware rules let a sparse kernel run a weight.

    Args:
        answer: "yes", "no" or "unknown".
        code: Short stable name of the rule that decided, e.g. "group-conv".
        sentence: The rule applied to this weight.
        source: Where the rule comes from.
        basis: "measured", "cited" or "assumed".
        rung: Rung of the ladder that the rule speaks of: "pattern", "shape" or "dtype"; "" if all passed.
        remedy: What to do about it; "" if all passed.
    """

    answer: Eligible
    code: str
    sentence: str
    source: str
    basis: Basis
    rung: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightVerdict(JsonValue):
    """One (weight, consumer) pair.

    Args:
        weight: Name of the tensor that holds the weight's numbers.
        consumer: Name of the node that reads it, with its scope in front, e.g. "If_3/else/conv1".
        operator: Operator type, e.g. "Conv".
        shape: Shape as the consumer reads it.
        dtype: ONNX name of the stored element type, e.g. "float16".
        axis: Reduction axis in `shape`; None when untraceable.
        wanted: The pattern that was asked for, as text; "" when the plan wants it dense.
        pattern: Whether the weight holds it.
        groups: Groups of M; 0 if there are no groups to judge.
        broken_groups: Groups with more than N non-zeros.
        first_broken: Index in the stored tensor of the first element of the first broken group.
        zero_share: Share of elements that are zero, 0..1; None when unread.
        nonfinite: NaN and infinite elements.
        parameters: Elements.
        macs: Multiply-accumulates per inference at batch 1, if shapes are known; else None.
        eligible: Whether a sparse kernel may run it.
        reason: Short stable code of what decided, e.g. "holds", "broken", "group-conv".
        sentence: The reason in words.
        source: The eligibility rule's source, or "" when the pattern decided.
        basis: How far to trust it: "measured", "cited" or "assumed"; "" when the pattern decided.
        facts: What the rules looked at; None when untraceable.
        node: Name that TensorRT's parser gives the consumer: its own, or `node_of_` and its first output.
        parts: The other stored tensors that the weight is made of: joined parts, masks, scales.
    """

    weight: str
    consumer: str
    operator: str
    shape: tuple[int, ...]
    dtype: str
    axis: int | None
    wanted: str
    pattern: PatternStatus
    groups: int = 0
    broken_groups: int = 0
    first_broken: tuple[int, ...] | None = None
    zero_share: float | None = None
    nonfinite: int = 0
    parameters: int
    macs: int | None = None
    eligible: Eligible
    reason: str
    sentence: str
    source: str = ""
    basis: str = ""
    facts: WeightFacts | None = None
    node: str = ""
    parts: tuple[str, ...] = ()
