"""`nm2trt gain`: which layers of a model would pay for 2:4 on one GPU."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.cli.output import print_json, print_table, printable

if TYPE_CHECKING:
    from nm2trt.engine.gain import GainReport

__all__ = ["configure", "run"]

_EPILOG = """examples:
  nm2trt gain model.onnx --table rtx3090.json --shape x:8
  nm2trt gain model.onnx --table rtx3090.json --as int8 --json > gain.json    then sparsify(gain="gain.json")

The table is measured by benchmarks/gpu_gain.py on the GPU that the model is for.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog, parser.formatter_class = _EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", type=Path, help="the ONNX model, sparse or not")
    parser.add_argument("--table", type=Path, required=True, metavar="FILE", help="the gain table")
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME:SHAPE",
        help="shape of an input, as in x:8x3x224x224, or x:8 where only the batch is free; default: batch 1",
    )
    parser.add_argument(
        "--as",
        dest="as_dtype",
        choices=("fp16", "bf16", "int8"),
        help="look up this type instead of the model's own: for one that is still to be cast or quantised",
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="GPU or architecture that the model is for; default: the GPU that is here",
    )
    parser.add_argument(
        "--at-least", type=float, metavar="X", help="speed-up from which a layer pays; default: 1.05"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Look the layers up and print the answers."""
    from nm2trt.pipeline.gain import gain

    report = gain(
        arguments.model,
        arguments.table,
        shapes=arguments.shape,
        as_dtype=arguments.as_dtype,
        device=arguments.device,
        at_least=arguments.at_least,
    )
    for note in report.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    if arguments.json:
        print_json(report.to_json())
    else:
        _print(report)
    return 0


def _print(report: GainReport) -> None:
    rows = []
    for layer in report.layers:
        product = "x".join("?" if size is None else str(size) for size in (layer.m, layer.n, layer.k))
        speedup = "-" if layer.speedup is None else f"{layer.speedup:.2f}x"
        rows.append((layer.weight, product, layer.dtype, speedup, layer.pays, layer.sentence))
    print_table(("weight", "m x n x k", "type", "nearest", "pays", "why"), rows)
    paying = sum(layer.pays == "yes" for layer in report.layers)
    where = f"{printable(report.device)} (from {report.at_least:.2f}x)"
    print(
        f"\n{paying} of {len(report.layers)} layers pay on {where}, {len(report.exclude)} weights do not; "
        "--json lists them under exclude, for sparsify(gain=...)"
    )
