"""`nm2trt infer`: run one artefact once and save what comes out."""

from __future__ import annotations

import argparse
from pathlib import Path

from nm2trt.cli.output import print_json, print_table

__all__ = ["configure", "run"]

_EPILOG = """examples:
  nm2trt infer model.onnx
  nm2trt infer model.onnx --data inputs.npz -o outputs.npz
  nm2trt infer http://localhost:8000/resnet --data image.npy
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog, parser.formatter_class = _EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "artefact", help="ONNX model, engine, .pt2 program, http://HOST:PORT/MODEL or grpc://..."
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="outputs by their names (default: ARTEFACT.outputs.npz beside it)",
    )
    parser.add_argument(
        "--data",
        metavar="FILE",
        help=".npz, .npy, Polygraphy's .json or a recipe (default: random inputs of the declared shapes)",
    )
    parser.add_argument("--batch", type=int, metavar="N", help="samples to draw, or to run at once")
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME:SIZES",
        help="whole shape of a random input, as in x:1x3x224x224",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of random inputs (default: 0)")
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="threads of ONNX Runtime (default: its own choice)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from nm2trt.pipeline.infer import infer

    result = infer(
        arguments.artefact,
        arguments.output,
        data=arguments.data,
        batch=arguments.batch,
        shapes=arguments.shape,
        seed=arguments.seed,
        threads=arguments.threads,
    )
    if arguments.json:
        print_json(result.to_json())
        return 0
    rows = [
        [
            tensor.name,
            tensor.dtype,
            "x".join(str(size) for size in tensor.shape),
            *("-" if value is None else f"{value:.4g}" for value in (tensor.low, tensor.high, tensor.mean)),
            str(tensor.not_finite) if tensor.not_finite else "-",
        ]
        for tensor in result.tensors
    ]
    print_table(["output", "dtype", "shape", "min", "max", "mean", "NaN or inf"], rows)
    for sentence in result.conversions:
        print(f"converted: {sentence}")
    print(f"\n{result.output}  ({result.milliseconds:.1f} ms; inputs: {result.source})")
    return 0
