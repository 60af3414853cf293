"""`nm2trt sparsify`: a recipe in, weights and ONNX out, one row a weight."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nm2trt.cli.output import print_json, print_table

if TYPE_CHECKING:
    from nm2trt.pipeline.sparsify import SparsifyResult

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("recipe", metavar="RECIPE.yaml", help="names model, weights, calibration and method")
    parser.add_argument(
        "-o",
        "--output",
        metavar="STEM",
        help="path of the results without suffix (default: the recipe's output, or WEIGHTS.sparse)",
    )
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="folder that the calibration recipe's paths are relative to (default: its own)",
    )
    parser.add_argument(
        "--allow-functions",
        action="store_true",
        help="run the Python code that the recipe names; without it, a recipe is refused",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Sparsify, print, and return 0."""
    from nm2trt.pipeline.sparsify import sparsify_file

    result = sparsify_file(
        arguments.recipe,
        arguments.output,
        data_root=arguments.data_root,
        allow_functions=arguments.allow_functions,
    )
    if arguments.json:
        print_json(result.to_json())
    else:
        _print(result)
    return 0


def _print(result: SparsifyResult) -> None:
    layers = result.report["layers"]
    print_table(
        ("weight", "shape", "pattern", "zeros", "why"),
        (
            (
                entry.weight,
                "x".join(map(str, entry.shape)),
                "anywhere" if entry.unstructured else str(entry.pattern or "dense"),
                f"{layers[entry.weight]['sparsity']:.1%}" if entry.weight in layers else "-",
                entry.reason,
            )
            for entry in result.plan
        ),
    )
    report = result.report
    if "loss_after" in report:
        print(f"\n{report['rate_of_all']:.1%} of all weights are zero")
        print(
            f"distillation loss {report['loss_before']:.4g} after pruning, {report['loss_after']:.4g} after "
            f"repair ({report['samples']} samples, {result.seconds:.0f} s)"
        )
        if report["resumed_at"]:
            print(f"went on from step {report['resumed_at']} of a stopped run")
    else:
        print(f"\n{report['sparsity']:.1%} of the sparse layers' weights are zero")
    print(f"wrote {result.weights} and {result.onnx}")
