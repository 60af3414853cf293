"""`nm2trt quantize`: what stays float and why, and the file that was written."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from nm2trt.cli.output import print_json, print_table
from nm2trt.options.command_line import add_arguments, options_from
from nm2trt.options.field import keywords
from nm2trt.options.models import QuantizeCommand

if TYPE_CHECKING:
    from nm2trt.graph.quantize.report import QuantizeReport

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_arguments(parser, QuantizeCommand)


def run(arguments: argparse.Namespace) -> int:
    """Quantise, print, and return 0."""
    options = options_from(arguments, QuantizeCommand)
    from nm2trt.pipeline.quantize import quantize

    report = quantize(**keywords(options))
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    if options.json:
        print_json(report.to_json())
    else:
        _print(report)
    return 0


def _print(report: QuantizeReport) -> None:
    left = [layer for layer in report.layers if not layer.quantised]
    if left:
        print_table(
            ("left in float", "op", "weight", "why"),
            ((layer.layer, layer.operator, layer.weight, layer.reason) for layer in left),
        )
        print()
    partial = [i for i in report.islands if i.consumer not in {layer.layer for layer in left}]
    if partial:
        print_table(
            ("Q/DQ island", "op", "cause", "why"),
            ((item.consumer, item.operator, item.code, item.sentence) for item in partial),
        )
        print()
    whole = sum(layer.whole for layer in report.layers)
    ranges = report.ranges
    lost = sum(layer.lost for layer in report.layers)
    parameters = sum(layer.parameters for layer in report.layers)
    print(
        f"{len(report.layers) - len(left)} of {len(report.layers)} layers compute in {report.options.to}, "
        f"{whole} of them in and out; {len(report.scales)} values quantised"
    )
    print(
        f"ranges by {ranges.method} over {ranges.samples} samples"
        + (f", {ranges.reused} of them from the cache" if ranges.reused else "")
    )
    print(f"{lost} of {parameters} weights were rounded to zero; masks: {report.relation}")
    for item in report.differences:
        print(item.sentence)
    if report.not_measured:
        print(report.not_measured)
    print(f"wrote {report.output}")
