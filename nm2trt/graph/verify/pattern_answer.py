"""Whether a weight holds its pattern, in words; of a broken one, the pattern that it holds instead."""

from __future__ import annotations

from nm2trt.figures import counted
from nm2trt.graph.storage.element_types import ElementType
from nm2trt.graph.verify.group_counts import Finding, ReadWeight, count_groups
from nm2trt.nm.axes import OnnxWeight
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.verdict import PatternStatus

# Looked for if the pattern asked for is broken.
_KNOWN = tuple(NMPattern(n, m) for n, m in ((2, 4), (4, 8), (8, 16)))


def pattern_answer(
    weight: ReadWeight, how: OnnxWeight, wanted: NMPattern, finding: Finding, *, rounded: ElementType | None
) -> tuple[PatternStatus, str, str]:
    """Return status, reason code and sentence.

    Args:
        weight: The weight.
        how: The axis that its operator reduces.
        wanted: The pattern that it should hold.
        finding: Its counted groups.
        rounded: The type that its numbers were rounded to before they were counted, or None.
    """
    if finding.size == 0:
        return "not-groupable", "empty", f"a weight of shape {list(weight.shape)} has no elements"
    if not finding.groups:
        per_group = " a group" if how.runs > 1 else ""
        length = weight.shape[how.axis] // how.runs
        sentence = (
            f"axis {how.axis} has {counted(length, 'element')}{per_group}, not a multiple of {wanted.m}"
        )
        return "not-groupable", "not-a-multiple", sentence
    if not finding.broken:
        after = f" after rounding to {rounded.name}" if rounded is not None else ""
        return "holds", "holds", f"{wanted} holds along axis {how.axis}{after}"
    place = finding.stored_at or finding.first_broken or ()
    stored = finding.stored_at is not None
    where = "stored tensor" if stored else f"weight as {weight.consumer.operator} reads it"
    sentence = (
        f"{finding.broken:,} of {finding.groups:,} groups of {wanted.m} along axis {how.axis} have more "
        f"than {wanted.n} non-zeros, the first at {list(place)} of the {where}"
    )
    return "broken", "broken", sentence + _held_instead(weight, how, wanted, finding, rounded)


def _held_instead(
    weight: ReadWeight, how: OnnxWeight, wanted: NMPattern, finding: Finding, rounded: ElementType | None
) -> str:
    """Say what a broken weight holds: another pattern, or the same on another axis; "" if neither."""
    share = finding.zeros / finding.size
    # Something else may have lost zeros too, so a few more groups may be broken.
    if share >= wanted.sparsity - 0.01:
        for axis, size in enumerate(weight.shape):
            if axis != how.axis and size >= wanted.m and size % wanted.m == 0:
                turned = OnnxWeight(axis, convolution=how.convolution)
                if not count_groups(weight, turned, wanted, rounded=rounded).broken:
                    operator = weight.consumer.operator
                    return f"; it holds {wanted} along axis {axis}, which {operator} does not reduce"
    length = weight.shape[how.axis] // how.runs
    for other in _KNOWN:
        if wanted.admits(other) or length % other.m or share < other.sparsity - 1e-9:
            continue
        if not count_groups(weight, how, other, rounded=rounded).broken:
            return (
                f"; it holds {other}, which is not {wanted}: up to {min(other.n, wanted.m)} non-zeros "
                f"of a group of {other.m} may stand in one group of {wanted.m}"
            )
    return ""
