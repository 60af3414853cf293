"""`nm2trt run`: a recipe, from weights to a probed deployment."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from nm2trt.options.command_line import words
from nm2trt.options.field import keywords
from nm2trt.options.runs import RunCommand
from nm2trt.tables.table import Mark
from nm2trt.terminal_text import shell_line

if TYPE_CHECKING:
    from nm2trt.recipe.result import RunResult

# The colour of a verdict's answer.
MARKS: dict[str, Mark] = {"yes": "good", "no": "bad", "open": "doubt"}

OPTIONS = RunCommand

EPILOG = """examples:
  nm2trt init model.onnx                     # writes model.yaml
  nm2trt run model.yaml --dry-run
  nm2trt run model.yaml
  nm2trt run model.yaml --from build --until validate
  nm2trt run model.yaml prune.pattern=1:4 -o runs/one-of-four
"""


def run(options: RunCommand) -> int:
    """Run the recipe, print what became of its stages, and return 0."""
    from nm2trt.cli.live import live_view
    from nm2trt.cli.output import print_json
    from nm2trt.recipe.runner import run as run_recipe
    from nm2trt.recipe.runner import stage_names

    with live_view([] if options.dry_run else stage_names(options.recipe, options.overrides)) as view:
        result = run_recipe(options.recipe, **keywords(options, "recipe"), view=view)
    if options.json:
        print_json(result.to_json())
    else:
        _print(result, options)
    if result.failure is not None:
        raise result.failure
    return 0


def _print(result: RunResult, options: RunCommand) -> None:
    from nm2trt.cli.output import plain_table, print_verdict, say

    dry_run = options.dry_run
    # On a terminal the stages stand above already, as they went.
    if dry_run or not (sys.stdout.isatty() and sys.stderr.isatty()):
        plain_table(
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
        say()
        say(f"{result.run}  in {result.seconds:.1f} s")
    if result.report is not None:
        say(str(result.report))
    if result.outlook:
        say(result.outlook)
    if dry_run:
        print_verdict("", shell_line(["nm2trt", *words("run", replace(options, dry_run=False))]))
        return
    from nm2trt.reporting.collect import collect
    from nm2trt.reporting.ship import ship

    verdict = ship(collect(result.run))
    print_verdict(verdict.line, verdict.next_step, MARKS[verdict.answer])
