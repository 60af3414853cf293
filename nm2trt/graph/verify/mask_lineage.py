"""Lineage of masks from a model to a rewritten one: zeros added, channels permuted, or masks rebuilt."""

from __future__ import annotations

from collections.abc import Iterator

from nm2trt.errors import LineageError
from nm2trt.figures import counted, percent
from nm2trt.graph.verify.report import VerifyReport
from nm2trt.nm.lineage import Relation
from nm2trt.nm.verdict import WeightVerdict


def check_descent(parent: VerifyReport, child: VerifyReport, what: str) -> Relation:
    """Return how the masks of a model relate to its parent's, weight by weight in the order of consumers.

    Args:
        parent: What was read.
        child: What was written, read back.
        what: What was done, for the message.

    Raises:
        LineageError: A weight is missing, has fewer zeros than before, or no longer holds its pattern.
    """
    for before, after in _pairs(parent, child, what):
        if None not in (before.zero_share, after.zero_share) and (
            (after.zero_share or 0.0) < (before.zero_share or 0.0)
        ):
            raise LineageError(f"{what}: {before.weight} has fewer zeros than before; nothing was written")
    return "equal" if parent.mask_sha256 == child.mask_sha256 else "subset"


def check_permuted(parent: VerifyReport, child: VerifyReport) -> Relation:
    """Return "permuted" if every weight kept its shape, its number of zeros, and the pattern that it held.

    Args:
        parent: The report on the model that was read.
        child: The report on the model that was written, read back.

    Raises:
        LineageError: A weight is missing, has another shape, has more or fewer zeros than before, or no
            longer holds its pattern.
    """
    for before, after in _pairs(parent, child, "permute", same_shape=True):
        if before.zero_share != after.zero_share:
            raise LineageError(
                f"permute: {before.weight} has {percent(after.zero_share or 0.0)} zeros, and had "
                f"{percent(before.zero_share or 0.0)}; a permutation keeps their number; nothing was written"
            )
    return "permuted"


def check_rebuilt(parent: VerifyReport, child: VerifyReport) -> Relation:
    """Return "rebuilt" if every weight kept its shape and those that held their pattern still hold it.

    Args:
        parent: The report on the model that was read.
        child: The report on the model that was written, read back.

    Raises:
        LineageError: A weight is missing, has another shape, or no longer holds its pattern.
    """
    list(_pairs(parent, child, "reconstruct", same_shape=True))
    return "rebuilt"


def _pairs(
    parent: VerifyReport, child: VerifyReport, what: str, *, same_shape: bool = False
) -> Iterator[tuple[WeightVerdict, WeightVerdict]]:
    """Yield the verdicts on each weight before and after; raise if one is missing or lost its pattern."""
    if len(parent.weights) != len(child.weights):
        raise LineageError(
            f"{what}: {counted(len(parent.weights), 'weight')} became {len(child.weights)}; nothing was "
            "written"
        )
    for before, after in zip(parent.weights, child.weights, strict=True):
        if same_shape and before.shape != after.shape:
            raise LineageError(
                f"{what}: {before.weight} had shape {list(before.shape)} and has {list(after.shape)} now; "
                "nothing was written"
            )
        if before.pattern == "holds" and after.pattern != "holds":
            raise LineageError(
                f"{what}: {before.weight} held {before.wanted} and no longer does: {after.sentence}; "
                "nothing was written"
            )
        yield before, after
