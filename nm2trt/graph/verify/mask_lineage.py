"""How a rewritten model's masks relate to its parent's: zeros added, channels permuted, or masks rebuilt."""

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
        if before.pattern == "holds" and after.pattern != "holds":
            raise LineageError(
                f"{what}: {before.weight} held {before.wanted} and no longer does: {after.sentence}; "
                "nothing was written"
            )
        if None not in (before.zero_share, after.zero_share) and (
            (after.zero_share or 0.0) < (before.zero_share or 0.0)
        ):
            raise LineageError(f"{what}: {before.weight} has fewer zeros than before; nothing was written")
    return "equal" if parent.mask_sha256 == child.mask_sha256 else "subset"


def check_permuted(parent: VerifyReport, child: VerifyReport, what: str) -> Relation:
    """Return "permuted" if every weight kept its shape, its number of zeros, and the pattern that it held.

    Args:
        parent: The report on the model that was read.
        child: The report on the model that was written, read back.
        what: The operation, for the message.

    Raises:
        LineageError: A weight is missing, has another shape, has more or fewer zeros than before, or no
            longer holds its pattern.
    """
    for before, after in _pairs(parent, child, what):
        _check_shape(before, after, what)
        if before.zero_share != after.zero_share:
            raise LineageError(
                f"{what}: {before.weight} has {percent(after.zero_share or 0.0)} zeros, and had "
                f"{percent(before.zero_share or 0.0)}; a permutation keeps their number; nothing was written"
            )
        _check_holds(before, after, what)
    return "permuted"


def check_rebuilt(parent: VerifyReport, child: VerifyReport, what: str) -> Relation:
    """Return "rebuilt" if every weight kept its shape and those that held their pattern still hold it.

    Args:
        parent: The report on the model that was read.
        child: The report on the model that was written, read back.
        what: The operation, for the message.

    Raises:
        LineageError: A weight is missing, has another shape, or no longer holds its pattern.
    """
    for before, after in _pairs(parent, child, what):
        _check_shape(before, after, what)
        _check_holds(before, after, what)
    return "rebuilt"


def _pairs(
    parent: VerifyReport, child: VerifyReport, what: str
) -> Iterator[tuple[WeightVerdict, WeightVerdict]]:
    if len(parent.weights) != len(child.weights):
        raise LineageError(
            f"{what}: {counted(len(parent.weights), 'weight')} became {len(child.weights)}; nothing was "
            "written"
        )
    return zip(parent.weights, child.weights, strict=True)


def _check_shape(before: WeightVerdict, after: WeightVerdict, what: str) -> None:
    if before.shape != after.shape:
        raise LineageError(
            f"{what}: {before.weight} had shape {list(before.shape)} and has {list(after.shape)} now; "
            "nothing was written"
        )


def _check_holds(before: WeightVerdict, after: WeightVerdict, what: str) -> None:
    if before.pattern == "holds" and after.pattern == "broken":
        raise LineageError(
            f"{what}: {before.weight} held {before.wanted} and no longer does: {after.sentence}; "
            "nothing was written"
        )
