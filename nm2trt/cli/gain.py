"""`nm2trt gain`: which layers of a model would pay for 2:4 on one GPU."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from nm2trt.cli.output import print_json, print_table, printable
from nm2trt.options.command_line import add_arguments, options_from
from nm2trt.options.engines import GainCommand
from nm2trt.options.field import keywords

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
    add_arguments(parser, GainCommand)


def run(arguments: argparse.Namespace) -> int:
    """Look the layers up and print the answers."""
    options = options_from(arguments, GainCommand)
    from nm2trt.pipeline.gain import gain

    report = gain(**keywords(options))
    for note in report.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    if options.json:
        print_json(report.to_json())
    else:
        _print(report)
    return 0


def _print(report: GainReport) -> None:
    rows = []
    for layer in report.layers:
        product = "x".join("?" if size is None else str(size) for size in (layer.m, layer.n, layer.k))
        speedup = "-" if layer.speedup is None else f"{layer.speedup:.2f}x"
        rows.append((layer.weight, product, layer.dtype, speedup, layer.pays, layer.eligible, layer.sentence))
    print_table(("weight", "m x n x k", "type", "nearest", "pays", "eligible", "why"), rows)
    paying = sum(layer.pays == "yes" for layer in report.layers)
    where = f"{printable(report.device)} (from {report.at_least:.2f}x)"
    print(
        f"\n{paying} of {len(report.layers)} layers pay on {where}, {len(report.exclude)} weights do not; "
        "--json lists them under exclude, for sparsify(gain=...)"
    )
