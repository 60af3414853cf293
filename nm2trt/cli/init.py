"""`nm2trt init`: a first recipe."""

from __future__ import annotations

import argparse

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="the ONNX model")
    parser.add_argument(
        "-o", "--output", metavar="RECIPE.yaml", help="the recipe (default: NAME.yaml beside the model)"
    )
    parser.add_argument("--force", action="store_true", help="replace a recipe that is there")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Write the recipe and return 0."""
    from nm2trt.cli.output import print_json
    from nm2trt.recipe.starter import write_recipe

    result = write_recipe(arguments.model, arguments.output, force=arguments.force)
    if arguments.json:
        print_json(result.to_json())
    else:
        print(f"{result.recipe}: {result.holds} of {result.weights} weights hold 2:4")
        print(f"next: nm2trt run {result.recipe}")
    return 0
