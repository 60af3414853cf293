"""`nm2trt init`: a first recipe."""

from __future__ import annotations

import argparse

from nm2trt.options.command_line import add_arguments, options_from
from nm2trt.options.field import keywords
from nm2trt.options.runs import InitCommand

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_arguments(parser, InitCommand)


def run(arguments: argparse.Namespace) -> int:
    """Write the recipe and return 0."""
    options = options_from(arguments, InitCommand)
    from nm2trt.cli.output import print_json, printable
    from nm2trt.recipe.starter import write_recipe

    result = write_recipe(**keywords(options))
    if options.json:
        print_json(result.to_json())
    else:
        print(f"{result.recipe}: {result.holds} of {result.weights} weights hold 2:4")
        print(printable(result.outlook))
        print(f"next: nm2trt run {result.recipe}")
    return 0
