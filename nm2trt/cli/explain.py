"""`nm2trt explain`: why is my engine not faster?"""

from __future__ import annotations

import argparse
import sys
import textwrap
from typing import TYPE_CHECKING

from nm2trt.cli.output import print_json, printable
from nm2trt.options.command_line import add_arguments, options_from
from nm2trt.options.engines import ExplainCommand
from nm2trt.options.field import keywords

if TYPE_CHECKING:
    from nm2trt.engine.ladder.explain import Explanation, Reason

__all__ = ["configure", "run"]

_EPILOG = """examples:
  nm2trt explain model.onnx --shape x:8 --target sm86
  nm2trt explain model.engine
  nm2trt explain model.onnx --log trtexec.log --layers layers.json --trace nsys.csv

--log is a builder's verbose log (trtexec --verbose), --layers what trtexec --exportLayerInfo wrote with
--profilingVerbosity=detailed, --trace a CSV report of nsys stats or a JSON trace of torch.profiler.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog, parser.formatter_class = _EPILOG, argparse.RawDescriptionHelpFormatter
    add_arguments(parser, ExplainCommand)


def run(arguments: argparse.Namespace) -> int:
    """Collect the reasons and print them."""
    options = options_from(arguments, ExplainCommand)
    from nm2trt.pipeline.explain import explain

    found = explain(options.file, **keywords(options, "file"))
    for note in found.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    if options.json:
        print_json(found.to_json())
    else:
        _print(found)
    return 0


def _print(found: Explanation) -> None:
    where = " ".join(filter(None, (found.builder, ",".join(found.targets))))
    print(f"{found.subject}{f'  (for {where})' if where else ''}")
    for number, reason in enumerate(found.reasons, start=1):
        _print_reason(number, reason)
    if not found.reasons:
        print("nothing speaks against it: every eligible layer runs a sparse kernel")
    share = "not measured" if found.sparse_share is None else f"{found.sparse_share:.0%}"
    print(f"\neligible work that runs sparse kernels: {share}")


def _print_reason(number: int, reason: Reason) -> None:
    whom = ""
    if reason.weights:
        more = f" and {len(reason.weights) - 1} more" if len(reason.weights) > 1 else ""
        whom = f", {printable(reason.weights[0])}{more}"
    share = "" if reason.share is None else f", {reason.share:.0%} of the work"
    print(f"\n{number}. {reason.rung}{share}{whom}")
    lines = [reason.sentence, f"do: {reason.remedy}"]
    if reason.source:
        lines.append(
            f"source: {reason.source} ({reason.basis})" if reason.basis else f"source: {reason.source}"
        )
    for line in lines:
        for part in textwrap.wrap(printable(line), 100):
            print(f"   {part}")
