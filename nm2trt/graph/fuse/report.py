"""Report of a fusion: what it did, and what it left and why."""

from __future__ import annotations

from dataclasses import dataclass

from nm2trt.compare.output_difference import OutputDifference, difference_lines
from nm2trt.figures import counted
from nm2trt.graph.fuse.branch_merge import Merging
from nm2trt.graph.pass_report import PassReport
from nm2trt.nm.lineage import relation_in_words
from nm2trt.tables.table import Column, Row, Table


@dataclass(frozen=True, slots=True)
class DeclinedFusion:
    """One place that was left as it is.

    Args:
        node: The node.
        fusion: "fold" of a BatchNormalization, or "merge" of a branch.
        reason: One clause that says why.
    """

    node: str
    fusion: str
    reason: str


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class FuseReport(PassReport):
    """What `fuse_model` did.

    Args:
        nodes_before: Nodes of the main graph before.
        nodes_after: And after.
        constants_evaluated: Weights whose masks and casts were evaluated.
        batchnorms_folded: BatchNormalizations that are gone.
        branches_merged: Branches that another convolution took in.
        merges: Each convolution that took branches in.
        declined: What was left as it is, and why.
        differences: How far each output moved; () when not measured.
        not_measured: Why the outputs were not compared, or "".
    """

    json_names = (
        "model output nodes_before nodes_after constants_evaluated batchnorms_folded branches_merged merges "
        "declined differences not_measured parent_mask_sha256 mask_sha256 relation notes"
    )

    nodes_before: int
    nodes_after: int
    constants_evaluated: int
    batchnorms_folded: int
    branches_merged: int
    merges: tuple[Merging, ...]
    declined: tuple[DeclinedFusion, ...]
    differences: tuple[OutputDifference, ...]
    not_measured: str

    def tables(self) -> tuple[Table, ...]:
        """Return what was merged, and what was left and why."""
        columns = (
            Column("convolution", "name"),
            Column("took in", "name", rank=1),
            Column("weight", "name"),
            Column("holds"),
        )
        merges = tuple(
            Row(
                (m.node, ", ".join(m.branches), m.weight, _holds(m.patterns, m.broken)),
                "bad" if m.broken else "",
            )
            for m in self.merges
        )
        left = tuple(Row((item.node, item.fusion), "no", item.reason) for item in self.declined)
        found = (
            Table(columns, merges, noun="convolutions"),
            Table((Column("left as it is", "name"), Column("fusion")), left, noun="nodes"),
        )
        return tuple(table for table in found if table.rows)

    def remarks(self) -> tuple[str, ...]:
        """Return what was done, and how far the outputs are apart."""
        return (
            (
                f"{counted(self.batchnorms_folded, 'BatchNormalization')} folded, "
                f"{counted(self.branches_merged, 'branch', 'branches')} merged, "
                f"{counted(self.constants_evaluated, 'constant weight')} evaluated, "
                f"{len(self.declined):,} left; {self.nodes_before:,} nodes are now {self.nodes_after:,}"
            ),
            *difference_lines(self.differences, self.not_measured),
            f"masks: {relation_in_words(self.relation)}",
            *self.written,
        )


def _holds(patterns: tuple[str, ...], broken: bool) -> str:
    if not patterns:
        return "-"
    return f"no longer {', '.join(patterns)}" if broken else ", ".join(patterns)
