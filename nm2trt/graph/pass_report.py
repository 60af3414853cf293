"""What the reports of all passes say: the files, their masks, and the verdicts on the result."""

from __future__ import annotations

from dataclasses import dataclass

from nm2trt.graph.verify.report import VerifyReport
from nm2trt.nm.lineage import Relation
from nm2trt.tables.result import Result


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class PassReport(Result):
    """What a pass did with a model.

    Args:
        model: The model that was read.
        output: The model that was written; "" if it stays in memory.
        parent_mask_sha256: Mask hash of the model that was read.
        mask_sha256: Mask hash of the result.
        relation: How the masks relate.
        notes: What else there is to know, one sentence each.
        verified: The verdicts on the result.
    """

    model: str
    output: str
    parent_mask_sha256: str
    mask_sha256: str
    relation: Relation
    notes: tuple[str, ...] = ()
    verified: VerifyReport | None = None

    @property
    def written(self) -> tuple[str, ...]:
        """The line that says where the result is; () if it stays in memory."""
        return (f"wrote {self.output}",) if self.output else ()
