"""`nm2trt build`: an ONNX model to an engine."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from nm2trt.cli.ladder import print_ladder
from nm2trt.cli.output import keep_json, print_json, printable, short_count
from nm2trt.errors import SparsityError
from nm2trt.options.command_line import add_arguments, options_from
from nm2trt.options.engines import BuildCommand

if TYPE_CHECKING:
    from nm2trt.engine.build import BuildResult

__all__ = ["configure", "run"]

_EPILOG = """examples:
  nm2trt build model.onnx --sparsity
  nm2trt build model.onnx --sparsity -o out/model.rtx --target sm80,sm86 --profile x:1,16,64
  nm2trt build model.onnx --sparsity --dry-run --json
  nm2trt build model.onnx --sparsity --precision int8 --calib inputs.npz
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog, parser.formatter_class = _EPILOG, argparse.RawDescriptionHelpFormatter
    add_arguments(parser, BuildCommand)


def run(arguments: argparse.Namespace) -> int:
    """Build and print the ladder."""
    options = options_from(arguments, BuildCommand)
    from nm2trt.pipeline.build import build_command

    sources = (str(options.model), options.calib)
    try:
        with keep_json(options.report, printed=options.json, sources=sources) as keep:
            result = keep(build_command(options))
    except SparsityError as error:
        ladder = getattr(error, "ladder", ())
        if options.json:
            print_json({"error": str(error), "ladder": [row.to_json() for row in ladder]})
        elif ladder:
            print_ladder(ladder)
        raise
    for note in result.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    if options.json:
        print_json(result.to_json())
    else:
        _print_result(result)
    return 0


def _print_result(result: BuildResult) -> None:
    options = result.options
    if result.ladder:
        print_ladder(result.ladder)
        print()
    targets = ", ".join(options.targets)
    name = f"{result.backend} {result.backend_version}, {targets}, sparsity {options.sparsity}"
    if result.written:
        print(
            f"{result.engine}  {result.engine_bytes / 1e6:.1f} MB in {result.build_ms / 1e3:.1f} s  ({name})"
        )
    else:
        print(f"dry run: {result.engine} would be built  ({name}); nothing was written")
        _print_steps(result)
    print(result.kind)
    if any(rung.answer == "not measured" for row in result.ladder for rung in row.rungs):
        print(
            "not measured: the kernels are chosen on the GPU that loads the engine, and none was asked here"
        )
    for profile in options.profiles:
        for shapes in profile:
            print(f"profile {shapes.input}: {shapes}")
    _print_forecast(result)


def _print_steps(result: BuildResult) -> None:
    holding = sum(row.pattern.answer == "yes" for row in result.ladder)
    allowed = "no sparse kernels" if result.options.sparsity == "disable" else "sparse kernels allowed"
    first = "prune to 2:4" if result.options.sparsity == "force" else "take the weights as they are"
    print(f"  1. {first}: {holding} of {len(result.ladder)} weights hold 2:4")
    print(f"  2. build for {', '.join(result.options.targets)} with {allowed}")
    print(f"  3. write {result.engine} and {result.engine.name}.json")


def _print_forecast(result: BuildResult) -> None:
    work = result.forecast
    if not result.ladder or not work.macs:
        return
    unknown = f"; of {work.unknown_weights} weights the work is not known" if work.unknown_weights else ""
    parts = (
        f"work: {short_count(work.macs)} multiply-accumulates at the optimum profile",
        f"{work.share(work.holding):.0%} hold 2:4",
        f"{work.share(work.eligible):.0%} eligible",
        f"{work.share(work.likely):.0%} with nothing against a sparse kernel{unknown}",
    )
    print(", ".join(parts))
    if result.options.sparsity != "disable":
        print(result.outlook)
