"""What was found out about one weight and one of its consumers: two questions, two answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Eligibility", "Eligible", "PatternStatus", "WeightVerdict"]

PatternStatus = Literal["holds", "broken", "dense-by-plan", "not-groupable", "untraceable"]
Eligible = Literal["yes", "no", "unknown"]


@dataclass(frozen=True, slots=True)
class Eligibility:
    """Whether the hardware rules let a sparse kernel run a weight.

    Args:
        answer: "yes", "no" or "unknown".
        code: Short stable name of the rule that decided, e.g. "group-conv".
        sentence: The rule applied to this weight.
        source: Where the rule comes from.
        basis: "measured", "cited" or "assumed".
    """

    answer: Eligible
    code: str
    sentence: str
    source: str
    basis: Literal["measured", "cited", "assumed"]


@dataclass(frozen=True, slots=True)
class WeightVerdict:
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
        groups: Groups of M; 0 when there are none to judge.
        broken_groups: Groups with more than N non-zeros.
        first_broken: Index in the stored tensor of the first element of the first broken group.
        zero_share: Share of elements that are zero, 0..1; None when unread.
        nonfinite: NaN and infinite elements.
        parameters: Elements.
        macs: Multiply-accumulates an inference at batch 1, where shapes are known; else None.
        eligible: Whether a sparse kernel may run it.
        reason: Short stable code of what decided, e.g. "holds", "broken", "group-conv".
        sentence: The reason in words.
        source: The eligibility rule's source, or "" when the pattern decided.
    """

    weight: str
    consumer: str
    operator: str
    shape: tuple[int, ...]
    dtype: str
    axis: int | None
    wanted: str
    pattern: PatternStatus
    groups: int
    broken_groups: int
    first_broken: tuple[int, ...] | None
    zero_share: float | None
    nonfinite: int
    parameters: int
    macs: int | None
    eligible: Eligible
    reason: str
    sentence: str
    source: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)
