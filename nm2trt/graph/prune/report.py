"""Report of a pruning: what it did with each stored weight."""

from __future__ import annotations

from dataclasses import dataclass

from nm2trt.figures import counted
from nm2trt.graph.pass_report import PassReport, PrunedWeight
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import Plan
from nm2trt.tables.table import Column, Row, Table


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class PruneReport(PassReport):
    """What `prune_model` did.

    Args:
        pattern: The pattern.
        weights: One entry per stored weight, in the order of their consumers.
        plan: The plan that was written.
    """

    json_names = "model output pattern counts weights parent_mask_sha256 mask_sha256 relation"

    pattern: NMPattern
    weights: tuple[PrunedWeight, ...]
    plan: Plan

    @property
    def counts(self) -> dict[str, int]:
        """Number of weights by status."""
        statuses = [weight.status for weight in self.weights]
        return {status: statuses.count(status) for status in ("pruned", "kept", "dense")}

    def tables(self) -> tuple[Table, ...]:
        """Return one row per stored weight."""
        columns = (
            Column("weight", "name"),
            Column("shape"),
            Column("dtype", rank=2, fold=True),
            Column("axis", "number", rank=1),
            Column("result"),
        )
        rows = (
            Row(
                (
                    w.weight,
                    "x".join(map(str, w.shape)),
                    w.dtype,
                    "-" if w.axis is None else str(w.axis),
                    w.status,
                ),
                "" if w.status == "dense" else "good",
                w.reason if w.status == "dense" else "",
            )
            for w in self.weights
        )
        return (Table(columns, tuple(rows)),)

    def remarks(self) -> tuple[str, ...]:
        """Return what was done, and where it is."""
        counts = self.counts
        pruned, dense = counted(counts["pruned"], "weight"), counted(counts["dense"], "stays", "stay")
        integers = any(weight.dtype.startswith(("int", "uint", "float8")) for weight in self.weights)
        caution = (
            "magnitude repairs nothing, and compact networks often lose most of their accuracy to it; "
            + ("on the float model " if integers else "")
            + "--calib SAMPLES rebuilds masks and values from about 100 unlabelled samples"
        )
        done = f"{pruned} pruned to {self.pattern}, {counts['kept']} held it already, {dense} dense"
        return (done, *([caution] if counts["pruned"] else []), *self.written)
