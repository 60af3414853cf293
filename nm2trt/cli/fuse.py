"""`nm2trt fuse`: what was fused, what was left and why, and how far the outputs moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nm2trt.cli.output import keep_json, print_differences, print_json, print_table
from nm2trt.options.field import keywords
from nm2trt.options.models import FuseCommand
from nm2trt.tables import Column, Row, Table

if TYPE_CHECKING:
    from nm2trt.graph.fuse.fuse_model import FuseReport

__all__ = ["OPTIONS", "run"]

OPTIONS = FuseCommand


def run(options: FuseCommand) -> int:
    """Fuse, print, and return 0."""
    from nm2trt.pipeline.fuse import fuse

    with keep_json(options.report, printed=options.json, sources=(options.model,)) as keep:
        report = keep(fuse(**keywords(options)))
    if options.json:
        print_json(report.to_json())
    else:
        _print(report, every_row=options.every_row)
    return 0


def _print(report: FuseReport, *, every_row: bool) -> None:
    if report.merges:
        columns = (
            Column("convolution", "name"),
            Column("took in", "name", rank=1),
            Column("weight", "name"),
            Column("holds"),
        )
        merges = (
            Row(
                (m.node, ", ".join(m.branches), m.weight, _holds(m.patterns, m.broken)),
                "bad" if m.broken else "",
            )
            for m in report.merges
        )
        print_table(Table(columns, tuple(merges), noun="convolutions"), every_row=True)
        print()
    if report.declined:
        left = (Row((item.node, item.fusion), "no", item.reason) for item in report.declined)
        table = Table((Column("left as it is", "name"), Column("fusion")), tuple(left), noun="nodes")
        print_table(table, every_row=every_row)
        print()
    print(
        f"{report.batchnorms_folded} BatchNormalizations folded, {report.branches_merged} branches merged, "
        f"{report.constants_evaluated} constant weights evaluated, {len(report.declined)} left; "
        f"{report.nodes_before} nodes are now {report.nodes_after}"
    )
    print_differences(report.differences, report.not_measured)
    print(f"masks: {report.relation}")
    print(f"wrote {report.output}")


def _holds(patterns: tuple[str, ...], broken: bool) -> str:
    if not patterns:
        return "-"
    return f"no longer {', '.join(patterns)}" if broken else ", ".join(patterns)
