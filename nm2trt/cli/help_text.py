"""Text of `--help`: taken from the parsers once, kept in `help.txt`, laid out for the terminal.

A line of the file is a letter, a space and a text: `@` begins a command, `u` is a part of its usage, `d` its
description, `g` the title of a group, `o` an argument, a tab and its help, `e` a line of the examples.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

_STORED = os.path.join(os.path.dirname(__file__), "help.txt")  # noqa: PTH118, PTH120 - pathlib is slow
_COLUMN = 24  # where help begins, beside an argument that is short enough


def print_stored(command: list[str]) -> bool:
    """Print the help of one command, or of all for []; False if that failed and nothing was printed."""
    if len(command) > 1 or sys.stdout is None:
        return False
    name = command[0] if command else ""
    with open(_STORED, encoding="utf-8") as file:  # noqa: PTH123 - as above
        before, found, text = file.read().partition(f"@ {name}\n")
    if not found or (before and not before.endswith("\n")):
        return False
    try:
        sys.stdout.write(lay_out(text.partition("\n@ ")[0].splitlines(), columns()))
        sys.stdout.flush()
    except (OSError, ValueError):
        return False  # the slow way says what is wrong with the stream
    return True


def describe(parser: argparse.ArgumentParser) -> list[str]:
    """Return the lines that the file keeps of a parser, without the one that names it."""
    options = [action for action in parser._actions if action.option_strings]
    values = [action for action in parser._actions if not action.option_strings]
    lines = [f"u {parser.prog}"]
    for action in options:
        words = " ".join(filter(None, (action.option_strings[0], _placeholder(action))))
        lines.append(f"u {words}" if action.required else f"u [{words}]")
    for action in values:
        words = _placeholder(action) + " ..." * (action.nargs in ("*", "+", "A..."))
        lines.append(f"u [{words}]" if action.nargs in ("*", "?") else f"u {words}")
    lines.append(f"d {parser.description}")
    for group in parser._action_groups:
        if not group._group_actions:
            continue
        lines.append(f"g {group.title}")
        for action in group._group_actions:
            shown = getattr(action, "_choices_actions", None)  # commands, each with its summary
            lines += [f"o {_invocation(part)}\t{_help(part)}" for part in (shown or [action])]
    return lines + [f"e {line}" for line in (parser.epilog or "").splitlines()]


def _placeholder(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if action.metavar is not None:
        return str(action.metavar)
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return action.dest.upper() if action.option_strings else action.dest


def _invocation(action: argparse.Action) -> str:
    *first, last = action.option_strings or [""]
    return ", ".join([*first, " ".join(filter(None, (last, _placeholder(action))))])


def _help(action: argparse.Action) -> str:
    return (action.help or "").replace("%%", "%")


def lay_out(lines: Iterable[str], width: int) -> str:
    """Return the help for a terminal of `width` columns."""
    told = [(line[:1], line[2:]) for line in lines]
    usage = [text for kind, text in told if kind == "u"]
    start = f"usage: {usage[0]} "
    rows = wrapped(usage[1:], width - len(start))
    text = [start + rows[0], *(" " * len(start) + row for row in rows[1:])]
    for kind, words in told:
        if kind == "d":
            text += ["", *wrapped(words.split(), width)]
        elif kind == "g":
            text += ["", *wrapped(f"{words}:".split(), width)]
        elif kind == "o":
            name, _, clause = words.partition("\t")
            text += _argument(name, clause, width)
    examples = _examples([text for kind, text in told if kind == "e"], width)
    return "\n".join(text + ([""] if examples else []) + examples) + "\n"


def _examples(lines: list[str], width: int) -> list[str]:
    """Return commands, which are indented, as they are, and the sentences between them wrapped."""
    text: list[str] = []
    sentences: list[str] = []
    for line in [*lines, ""]:
        if line and not line.startswith(" "):
            sentences += line.split()
            continue
        text += wrapped(sentences, width) if sentences else []
        text.append(line)
        sentences = []
    return text[:-1]


def _argument(name: str, words: str, width: int) -> list[str]:
    rows = [" " * _COLUMN + row for row in wrapped(words.split(), max(width - _COLUMN, 11))]
    if len(name) > _COLUMN - 4:
        return [f"  {name}", *rows]
    return [f"  {name:{_COLUMN - 2}}{rows[0].lstrip()}", *rows[1:]]


def wrapped(words: list[str], width: int) -> list[str]:
    """Return words as lines of at most `width` columns; a longer word has a line to itself."""
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] += f" {word}" if lines[-1] else word
    return lines


def columns() -> int:
    """Return the columns that help may take, as argparse counts them."""
    try:
        count = int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        count = 0
    if count <= 0:
        try:
            count = os.get_terminal_size(sys.__stdout__.fileno()).columns  # type: ignore[union-attr]
        except (AttributeError, ValueError, OSError):
            count = 80
    return max(count or 80, 30) - 2
