"""`nm2trt init`: a first recipe."""

from __future__ import annotations

from nm2trt.options.field import keywords
from nm2trt.options.runs import InitCommand
from nm2trt.terminal_text import shell_path

OPTIONS = InitCommand

EPILOG = """examples:
  nm2trt init model.onnx --calib inputs.npz && nm2trt run model.yaml
"""


def run(options: InitCommand) -> int:
    """Write the recipe and return 0."""
    from nm2trt.cli.output import print_json, print_verdict, say
    from nm2trt.recipe.starter import write_recipe

    result = write_recipe(**keywords(options))
    if options.json:
        print_json(result.to_json())
    else:
        say(f"{result.recipe}: {result.holds} of {result.weights} weights hold 2:4")
        print_verdict(result.outlook, f"nm2trt run {shell_path(result.recipe)}")
    return 0
