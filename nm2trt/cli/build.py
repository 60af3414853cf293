"""`nm2trt build`: an ONNX model to an engine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.cli.builder_arguments import add_builder, builder_options
from nm2trt.cli.calibration_arguments import add_calibration
from nm2trt.cli.ladder import print_ladder
from nm2trt.cli.output import print_json, printable, short_count
from nm2trt.errors import InputError, SparsityError

if TYPE_CHECKING:
    from nm2trt.engine.build import BuildResult
    from nm2trt.pipeline.lowering import Lowering

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
    parser.add_argument("model", type=Path, help="the ONNX model")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the engine; default: model.rtx beside the model"
    )
    parser.add_argument(
        "--sparsity",
        choices=("disable", "enable", "force"),
        default="disable",
        help="enable allows sparse kernels where weights hold 2:4, force prunes them by magnitude first; "
        "default: disable, and enable when no value is given",
    )
    add_builder(parser)
    parser.add_argument(
        "--backend",
        choices=("trt", "trt-rtx", "ort"),
        help="the builder; default: trt if TensorRT and a GPU are here, else trt-rtx, which needs none",
    )
    parser.add_argument(
        "--require-sparse",
        metavar="PCT",
        help="fail, with exit status 3 and no engine, where sparse kernels run less than this share of the "
        "eligible work, as in 80%%, or where this machine cannot know",
    )
    precision = parser.add_argument_group("precision, brought into a float32 model before it is built")
    precision.add_argument(
        "--precision",
        choices=("fp16", "bf16", "int8", "fp8"),
        help="what the engine computes in; default: the types that the file has",
    )
    add_calibration(precision, required=False)
    precision.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="GLOB",
        help="layers that keep the precision they have; may be repeated",
    )
    precision.add_argument(
        "--float-depthwise",
        action="store_true",
        help="so do depthwise convolutions, which never have sparse kernels, in int8 and fp8",
    )
    precision.add_argument(
        "--keep", action="store_true", help="keep the ONNX file in that precision beside the engine"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, build nothing, write nothing"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Build and print the ladder."""
    from nm2trt.pipeline.build import build

    options = builder_options(arguments, arguments.sparsity)
    try:
        result = build(
            arguments.model,
            arguments.output,
            options,
            backend=arguments.backend,
            dry_run=arguments.dry_run,
            require_sparse=arguments.require_sparse,
            precision=_lowering(arguments),
        )
    except SparsityError as error:
        ladder = getattr(error, "ladder", ())
        if arguments.json:
            print_json({"error": str(error), "ladder": [row.to_json() for row in ladder]})
        elif ladder:
            print_ladder(ladder)
        raise
    for note in result.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    if arguments.json:
        print_json(result.to_json())
    else:
        _print_result(result)
    return 0


def _lowering(arguments: argparse.Namespace) -> Lowering | None:
    from nm2trt.pipeline.lowering import Lowering

    if arguments.precision is None:
        given = [name for name in ("calib", "exclude", "keep") if getattr(arguments, name)]
        if given:
            raise InputError(f"--{given[0]} says how to reach a precision; give --precision too")
        return None
    return Lowering(
        arguments.precision,
        calib=arguments.calib,
        method=arguments.method,
        percentile=arguments.percentile,
        exclude=tuple(arguments.exclude),
        float_depthwise=arguments.float_depthwise,
        batch=arguments.batch,
        data_root=arguments.data_root,
        allow_functions=arguments.allow_functions,
        keep=arguments.keep,
    )


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
    first = (
        "prune by magnitude to 2:4" if result.options.sparsity == "force" else "take the weights as they are"
    )
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
