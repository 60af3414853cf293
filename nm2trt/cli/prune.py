"""`nm2trt prune`: one row a weight, and the file that was written."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nm2trt.cli.output import print_json, print_table

if TYPE_CHECKING:
    from nm2trt.graph.prune.prune_model import PruneReport

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", help="ONNX file")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="file to write (default: MODEL.pruned.onnx beside the model)"
    )
    parser.add_argument(
        "--pattern", default="2:4", metavar="N:M", help="N weights of every M are kept (default: 2:4)"
    )
    parser.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="GLOB",
        help="prune only weights whose name matches; may be repeated (default: all that can be)",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="GLOB",
        help="keep weights whose name matches dense; may be repeated, stronger than --include",
    )
    parser.add_argument(
        "--min-channels",
        type=int,
        default=16,
        metavar="N",
        help="keep weights with fewer input channels dense (default: 16)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Prune, print, and return 0."""
    from nm2trt.pipeline.prune import prune

    report = prune(
        arguments.model,
        arguments.output,
        pattern=arguments.pattern,
        include=arguments.include,
        exclude=arguments.exclude,
        min_channels=arguments.min_channels,
    )
    if arguments.json:
        print_json(report.to_json())
    else:
        _print(report)
    return 0


def _print(report: PruneReport) -> None:
    print_table(
        ("weight", "shape", "dtype", "axis", "result", "why"),
        (
            (
                weight.weight,
                "x".join(map(str, weight.shape)),
                weight.dtype,
                "-" if weight.axis is None else str(weight.axis),
                weight.status,
                weight.reason,
            )
            for weight in report.weights
        ),
    )
    counts = report.counts
    print(
        f"\n{counts['pruned']} weights pruned to {report.pattern}, {counts['kept']} held it already, "
        f"{counts['dense']} stay dense"
    )
    print(f"wrote {report.output}")
