"""`nm2trt permute`: how much N:M keeps in each channel space before and after, and the file written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nm2trt.cli.output import print_differences, print_json, print_table
from nm2trt.options.field import keywords
from nm2trt.options.models import PermuteCommand
from nm2trt.tables import Column, Row, Table

if TYPE_CHECKING:
    from nm2trt.graph.permute.permute_model import PermuteReport

__all__ = ["OPTIONS", "run"]

OPTIONS = PermuteCommand


def run(options: PermuteCommand) -> int:
    """Permute, print, and return 0."""
    from nm2trt.pipeline.permute import permute

    report = permute(**keywords(options))
    if options.json:
        print_json(report.to_json())
    else:
        _print(report, every_row=options.every_row)
    return 0


def _print(report: PermuteReport, *, every_row: bool) -> None:
    columns = (
        Column("channels of", "name"),
        Column("number", "number"),
        Column("weights", "name", rank=1),
        Column("kept before", "number"),
        Column("kept after", "number"),
    )
    rows = (
        Row(
            (
                space.space,
                str(space.channels),
                ", ".join(space.weights),
                f"{space.kept_before:.2%}",
                f"{space.kept_after:.2%}" if space.moved else "-",
            ),
            "good" if space.moved else "",
            space.reason,
        )
        for space in report.spaces
    )
    print_table(Table(columns, tuple(rows), noun="channel spaces"), every_row=every_row)
    print(
        f"\n{report.moved} of {len(report.spaces)} channel spaces permuted; {report.pattern} keeps "
        f"{report.kept_after:.2%} of the weights' magnitude, before {report.kept_before:.2%}"
    )
    print_differences(report.differences, report.not_measured)
    print(f"masks: {report.relation}")
    print(f"wrote {report.output}")
