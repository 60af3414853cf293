"""`nm2trt cast`: what stays in float32 and why, what rounding does, and the file that was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nm2trt.cli.output import print_json, print_notes, print_table
from nm2trt.options.field import keywords
from nm2trt.options.models import CastCommand
from nm2trt.tables import Column, Row, Table

if TYPE_CHECKING:
    from nm2trt.graph.cast.cast_model import CastReport

__all__ = ["OPTIONS", "run"]

OPTIONS = CastCommand

_MOST_ROWS = 20


def run(options: CastCommand) -> int:
    """Cast, print, and return 0."""
    from nm2trt.pipeline.cast import cast

    report = cast(**keywords(options))
    print_notes(report.notes)
    if options.json:
        print_json(report.to_json())
    else:
        _print(report, every_row=options.every_row)
    return 0


def _print(report: CastReport, *, every_row: bool) -> None:
    if report.kept:
        found: dict[tuple[str, str], list[str]] = {}
        for node in report.kept:
            found.setdefault((node.operator, node.reason), []).append(node.node)
        columns = (Column("kept in fp32"), Column("nodes", "number"), Column("first", "name"))
        kept = (
            Row((operator, str(len(nodes)), nodes[0]), "", reason)
            for (operator, reason), nodes in found.items()
        )
        print_table(Table(columns, tuple(kept), noun="operators"), every_row=every_row)
        print()
    if report.tensors:
        headers = ("elements", "largest", "overflow", "subnormal", "to zero")
        heads = (Column("tensor", "name"), *(Column(header, "number") for header in headers))
        tensors = (
            Row(
                (
                    item.name,
                    str(item.size),
                    f"{item.largest:.3g}",
                    str(item.overflow),
                    str(item.subnormal),
                    str(item.lost),
                ),
                "" if item.cast else "doubt",
                "" if item.cast else "kept in fp32",
            )
            for item in report.tensors[: None if every_row else _MOST_ROWS]
        )
        print_table(Table(heads, tuple(tensors), noun="tensors"), every_row=True)
        more = 0 if every_row else len(report.tensors) - _MOST_ROWS
        print(f"and {more} more tensors; --all shows them\n" if more > 0 else "")
    for value, largest in report.overflowing.items():
        print(f"value {value} reaches {largest:.4g}: kept in fp32")
    if report.samples:
        print(f"{len(report.overflowing)} values overflow on {report.samples} samples")
    print(
        f"{report.cast_nodes} nodes compute in {report.to}, {len(report.kept)} stay in fp32; {report.casts} "
        f"casts added; masks: {report.relation}"
    )
    for item in report.differences:
        print(item.sentence)
    print(report.comparison)
    print(f"wrote {report.output}")
