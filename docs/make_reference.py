"""Write docs/reference/commands.md and the help that commands print from the options of the commands.

python docs/make_reference.py            # writes both; run it again when an option changes
python docs/make_reference.py --check    # fails if one is stale
"""

from __future__ import annotations

import sys
from pathlib import Path

import nm2trt.cli
from nm2trt.cli import COMMANDS
from nm2trt.cli.dispatch import chosen_parser, command_parser
from nm2trt.cli.help_text import describe
from nm2trt.options import checks, engines, models, precision, pruning, runs, serving
from nm2trt.options.field import Option, options_of

HELP = Path(nm2trt.cli.__file__).with_name("help.txt")
PAGE = Path(__file__).with_name("reference") / "commands.md"
CLASSES = {
    name.removesuffix("Command").lower(): getattr(module, name)
    for module in (models, pruning, precision, engines, checks, serving, runs)
    for name in vars(module)
    if name.endswith("Command") and name != "BuilderCommand"
}


def flag(known: Option) -> str:
    """Return how an option is typed."""
    if not known.flag:
        return known.metavar or known.name.upper()
    value = "" if known.kind is bool else f" {known.metavar or 'VALUE'}"
    return ", ".join(filter(None, (known.short, known.flag))) + value


def values(known: Option) -> str:
    """Return what an option takes, in words."""
    if known.kind is bool:
        return "-"
    what = (
        ", ".join(f"`{choice}`" for choice in known.choices)
        or {
            "str": "text",
            "Path": "path",
            "int": "whole number",
            "float": "number",
        }[known.kind.__name__]
    )
    return f"{what}, {known.range_text()}" if known.range_text() else what


def default(known: Option) -> str:
    """Return an option's default, in words."""
    if known.required:
        return "required"
    if known.kind is bool or known.default in (None, "", ()):
        return "-"
    return f"`{','.join(map(str, known.default)) if known.many else known.default}`"


def page() -> str:
    """Return the page."""
    parts = [
        "# Commands",
        "",
        "Made by `docs/make_reference.py` from the options of the commands. An option of the command line, a",
        "key in a recipe and a keyword in Python are one field.",
        "*Keyword* is its name in Python, *key* in recipes.",
        "`nm2trt COMMAND --help` says the same. `-v` shows more, `-vv` tracebacks.",
    ]
    for command, summary in COMMANDS.items():
        parts += ["", f"## nm2trt {command}", "", f"{summary[0].upper()}{summary[1:]}.", ""]
        parts += ["| option | takes | default | keyword | key | what it does |", "|---|---|---|---|---|---|"]
        for known in options_of(CLASSES[command]):
            cells = (
                f"`{flag(known)}`",
                values(known),
                default(known),
                f"`{known.name}`" if known.keyword else "-",
                f"`{known.stage}`" if known.stage and command in STAGES else "-",
                known.help,
            )
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(parts) + "\n"


def help_file() -> str:
    """Return the help of all commands as `nm2trt.cli.help_text` keeps it."""
    parts = ["@ ", *describe(command_parser(None)[0])]
    for command in COMMANDS:
        parts += [f"@ {command}", *describe(chosen_parser(command))]
    return "\n".join(parts) + "\n"


STAGES = (
    "sparsify fuse permute prune cast quantize verify build prove explain validate bench gain deploy probe"
).split()


def main() -> int:
    """Write the page, or check it."""
    if "--check" in sys.argv:
        return int(PAGE.read_text() != page() or HELP.read_text() != help_file())
    PAGE.write_text(page())
    HELP.write_text(help_file())
    return 0


if __name__ == "__main__":
    sys.exit(main())
