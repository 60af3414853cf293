"""`nm2trt cast`: what stays in float32 and why, what rounding does, and the file that was written."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from nm2trt.cli.output import print_json, print_table

if TYPE_CHECKING:
    from nm2trt.graph.cast.cast_model import CastReport

__all__ = ["configure", "run"]

_MOST_ROWS = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", help="float32 ONNX file")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="file to write (default: MODEL.fp16.onnx beside the model)"
    )
    parser.add_argument("--to", choices=("fp16", "bf16"), default="fp16", help="type (default: fp16)")
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="GLOB",
        help="keep nodes whose name matches, or operators of this type, in float32 too; may be repeated",
    )
    parser.add_argument("--io", action="store_true", help="cast inputs and outputs too (default: kept)")
    parser.add_argument(
        "--calib",
        metavar="SAMPLES",
        help="INPUTS.npz or RECIPE.yaml: run these and keep what overflows in float32",
    )
    parser.add_argument("--batch", type=int, metavar="N", help="samples of a batch (default: few)")
    parser.add_argument(
        "--cache", metavar="FILE", help="what calibration found (default: .ranges.npz beside the output)"
    )
    parser.add_argument(
        "--data-root", metavar="DIR", help="folder that the recipe's paths are relative to (default: its own)"
    )
    parser.add_argument("--allow-functions", action="store_true", help="run a source of kind function")
    parser.add_argument("--no-compare", action="store_true", help="do not compare outputs in ONNX Runtime")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Cast, print, and return 0."""
    from nm2trt.pipeline.cast import cast

    report = cast(
        arguments.model,
        arguments.output,
        to=arguments.to,
        keep=arguments.keep,
        io=arguments.io,
        calib=arguments.calib,
        batch=arguments.batch,
        cache=arguments.cache,
        data_root=arguments.data_root,
        allow_functions=arguments.allow_functions,
        compare=not arguments.no_compare,
    )
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    if arguments.json:
        print_json(report.to_json())
    else:
        _print(report)
    return 0


def _print(report: CastReport) -> None:
    if report.kept:
        found: dict[tuple[str, str], list[str]] = {}
        for node in report.kept:
            found.setdefault((node.operator, node.reason), []).append(node.node)
        print_table(
            ("kept in fp32", "nodes", "first", "why"),
            ((operator, str(len(nodes)), nodes[0], reason) for (operator, reason), nodes in found.items()),
        )
        print()
    if report.tensors:
        print_table(
            ("tensor", "elements", "largest", "overflow", "subnormal", "to zero"),
            (
                (
                    item.name,
                    str(item.size),
                    f"{item.largest:.3g}",
                    f"{item.overflow}, kept in fp32" if not item.cast else str(item.overflow),
                    str(item.subnormal),
                    str(item.lost),
                )
                for item in report.tensors[:_MOST_ROWS]
            ),
        )
        more = len(report.tensors) - _MOST_ROWS
        print(f"and {more} more tensors; --json has them all\n" if more > 0 else "")
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
