"""`nm2trt quantize`: what stays float and why, and the file that was written."""

from __future__ import annotations

import argparse
import sys

from nm2trt.cli.output import print_json, print_verdict, show
from nm2trt.options.command_line import add_arguments, options_from
from nm2trt.options.field import keywords
from nm2trt.options.models import QuantizeCommand

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
        return 0
    from nm2trt.pipeline.next_step import next_step

    show(report, every_row=options.every_row)
    step = next_step(report.output)
    print_verdict(step.verdict, step.command, step.mark)
    return 0
