"""Base of the reports of all passes: the files, their masks, and the verdicts on the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nm2trt.graph.verify.report import VerifyReport
from nm2trt.json_value import JsonValue
from nm2trt.nm.lineage import Relation
from nm2trt.tables.result import Result


@dataclass(frozen=True, slots=True)
class PrunedWeight(JsonValue):
    """What was done with one stored tensor.

    Args:
        weight: Its name.
        consumers: The nodes that read it as a weight.
        shape: Its shape as the first consumer reads it; () when it cannot be told.
        dtype: ONNX name of its stored element type.
        axis: Reduction axis in `shape`; None when it cannot be told.
        status: "pruned"; "kept" when it held the pattern already; "dense"; from samples also "refitted" when
            dense values were fitted to the pruned inputs.
        reason: One clause that says why.
    """

    weight: str
    consumers: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    axis: int | None
    status: Literal["pruned", "refitted", "kept", "dense"]
    reason: str


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
