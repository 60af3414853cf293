"""`nm2trt explain`: why is my engine not faster?"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.cli.output import print_json, printable

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
    parser.add_argument("file", type=Path, metavar="ENGINE|MODEL", help="an engine or an ONNX model")
    parser.add_argument("--log", type=Path, metavar="FILE", help="the builder's verbose log")
    parser.add_argument("--layers", type=Path, metavar="FILE", help="the engine inspector's JSON")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="a profiler's list of kernels")
    parser.add_argument(
        "--version",
        metavar="X.Y",
        help="version that wrote log and layers; default: what they say",
    )
    parser.add_argument(
        "--backend",
        choices=("trt", "trt-rtx"),
        help="judge a model for this builder; default: as nm2trt build",
    )
    parser.add_argument("--target", metavar="LIST", help="judge a model for these, as in sm80,sm86")
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME:SHAPE",
        help="shape of a model's input, as in x:8",
    )
    parser.add_argument("--json", action="store_true", help="print the explanation as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Collect the reasons and print them."""
    from nm2trt.pipeline.explain import explain

    found = explain(
        arguments.file,
        log=arguments.log,
        layers=arguments.layers,
        trace=arguments.trace,
        version=arguments.version,
        backend=arguments.backend,
        targets=arguments.target,
        shapes=arguments.shape,
    )
    for note in found.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    if arguments.json:
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
