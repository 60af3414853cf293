"""`nm2trt run`: a recipe, from weights to a probed deployment."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nm2trt.recipe.result import RunResult

__all__ = ["configure", "run"]

_EPILOG = """examples:
  nm2trt init model.onnx                     # writes model.yaml
  nm2trt run model.yaml --dry-run
  nm2trt run model.yaml
  nm2trt run model.yaml --from build --until validate
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog, parser.formatter_class = _EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("recipe", metavar="RECIPE.yaml", help="the recipe; `nm2trt init MODEL` writes one")
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="folder of the run (default: the recipe's, or runs/NAME)"
    )
    parser.add_argument(
        "--from", dest="first", metavar="STAGE", help="run it and all behind it, even where they are done"
    )
    parser.add_argument("--until", metavar="STAGE", help="stop behind it")
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and why; write nothing")
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="folder that the recipe's paths are relative to and may not leave (default: its own)",
    )
    parser.add_argument(
        "--allow-functions", action="store_true", help="run Python code that the recipe names"
    )
    parser.add_argument("--json", action="store_true", help="print what became of the stages as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the recipe, print what became of its stages, and return 0."""
    from nm2trt.cli.live import live_view
    from nm2trt.cli.output import print_json
    from nm2trt.recipe.runner import run_recipe, stage_names

    with live_view([] if arguments.dry_run else stage_names(arguments.recipe)) as view:
        result = run_recipe(
            arguments.recipe,
            output=arguments.output,
            root=arguments.root,
            first=arguments.first,
            until=arguments.until,
            dry_run=arguments.dry_run,
            allow_functions=arguments.allow_functions,
            view=view,
        )
    if arguments.json:
        print_json(result.to_json())
    else:
        _print(result, dry_run=arguments.dry_run)
    if result.failure is not None:
        raise result.failure
    return 0


def _print(result: RunResult, *, dry_run: bool) -> None:
    from nm2trt.cli.output import print_table

    print_table(
        ("stage", "status", "time", "why" if dry_run else "result"),
        (
            (
                stage.name,
                stage.status,
                "" if stage.seconds is None else f"{stage.seconds:.1f} s",
                stage.sentence,
            )
            for stage in result.stages
        ),
    )
    if not dry_run:
        print(f"\n{result.run}  in {result.seconds:.1f} s")
    if result.report is not None:
        print(result.report)
