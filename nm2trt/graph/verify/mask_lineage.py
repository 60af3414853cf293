"""Whether a rewritten model's masks come from its parent's by adding zeros alone."""

from __future__ import annotations

from nm2trt.errors import LineageError
from nm2trt.graph.storage.stage_metadata import Relation
from nm2trt.graph.verify.verify_model import VerifyReport

__all__ = ["check_descent"]


def check_descent(parent: VerifyReport, child: VerifyReport, what: str) -> Relation:
    """Return how the masks of a model relate to its parent's, weight by weight in the order of consumers.

    Args:
        parent: What was read.
        child: What was written, read back.
        what: What was done, for the message.

    Raises:
        LineageError: A weight is missing, has fewer zeros than before, or no longer holds its pattern.
    """
    if len(parent.weights) != len(child.weights):
        raise LineageError(
            f"{what}: {len(parent.weights)} weights became {len(child.weights)}; nothing was written"
        )
    for before, after in zip(parent.weights, child.weights, strict=True):
        if before.pattern == "holds" and after.pattern != "holds":
            raise LineageError(
                f"{what}: {before.weight} held {before.wanted} and does not any more: {after.sentence}; "
                "nothing was written"
            )
        if None not in (before.zero_share, after.zero_share) and (
            (after.zero_share or 0.0) < (before.zero_share or 0.0)
        ):
            raise LineageError(f"{what}: {before.weight} has fewer zeros than before; nothing was written")
    return "equal" if parent.mask_sha256 == child.mask_sha256 else "subset"
