"""`nm2trt quantize`: what stays float and why, and the file that was written."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from nm2trt.cli.calibration_arguments import add_calibration
from nm2trt.cli.output import print_json, print_table

if TYPE_CHECKING:
    from nm2trt.graph.quantize.report import QuantizeReport

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", help="float32 ONNX file")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="file to write (default: MODEL.int8.onnx beside the model)"
    )
    parser.add_argument(
        "--to", choices=("int8", "fp8"), default="int8", help="number format; fp8 is E4M3FN (default: int8)"
    )
    add_calibration(parser, required=True)
    parser.add_argument(
        "--cache", metavar="FILE", help="what calibration found (default: .ranges.npz beside the output)"
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="GLOB",
        help="keep layers whose node or weight matches in float; may be repeated",
    )
    parser.add_argument(
        "--float-depthwise",
        action="store_true",
        help="leave depthwise convolutions, which never have sparse kernels, in float",
    )
    parser.add_argument(
        "--float-weights",
        action="store_true",
        help="keep weights in float behind a Q/DQ pair, as older parsers want them",
    )
    parser.add_argument("--no-compare", action="store_true", help="do not compare outputs on the first batch")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Quantise, print, and return 0."""
    from nm2trt.pipeline.quantize import quantize

    report = quantize(
        arguments.model,
        arguments.output,
        calib=arguments.calib,
        to=arguments.to,
        method=arguments.method,
        percentile=arguments.percentile,
        exclude=arguments.exclude,
        float_weights=arguments.float_weights,
        float_depthwise=arguments.float_depthwise,
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


def _print(report: QuantizeReport) -> None:
    left = [layer for layer in report.layers if not layer.quantised]
    islands = {island.consumer for island in report.islands}
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
    whole = sum(layer.layer not in islands for layer in report.layers)
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
