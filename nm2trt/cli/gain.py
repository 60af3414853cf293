"""`nm2trt gain`: which layers of a model would pay for 2:4 on one GPU."""

from __future__ import annotations

import argparse
import sys

from nm2trt.cli.output import print_json, printable, show
from nm2trt.options.command_line import add_arguments, options_from
from nm2trt.options.engines import GainCommand
from nm2trt.options.field import keywords

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
        show(report, every_row=options.every_row)
    return 0
