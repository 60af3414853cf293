"""Every `nm2trt` line that a page, a sample or a help text prints is one that the command line takes."""

import re
import shlex

import pytest

from nm2trt.cli import COMMANDS
from nm2trt.cli.dispatch import _ordered, chosen_parser, command_parser
from tests.docs.markdown import PAGES, ROOT, SAMPLES, blocks

# A span of code in a sentence; a command in it may be cut short.
_SPAN = re.compile(r"(?<!`)`nm2trt ([^`\n]+)`")
# What stands for words that the reader has to know, and is not a word of the command line.
_LEFT_OUT = {"...", "…", "COMMAND"}


def printed(page):
    """Yield the lines of a page's blocks that call nm2trt, continued lines joined."""
    for block in blocks(page):
        if block.language == "sh":
            for line in block.text.replace("\\\n", " ").splitlines():
                for part in re.split(r" && | \| |; ", line.removeprefix("$ ").strip()):
                    words = shlex.split(part, comments=True)
                    if words[:1] == ["nm2trt"] and not _LEFT_OUT & set(words):
                        yield words[1 : words.index(">") if ">" in words else None]


def examples():
    """Yield the examples of the help of every command."""
    for command in COMMANDS:
        _, chosen = command_parser(command)
        for line in getattr(chosen, "EPILOG", "").replace("\\\n", " ").splitlines():
            for part in re.findall(r"nm2trt [a-z][^&|>]*", line) if line.startswith("  ") else ():
                yield shlex.split(part, comments=True)[1:]


def parse(words, capsys):
    """Parse a command line as the command does; return what it says against it."""
    parser, chosen = command_parser(words[0])
    try:
        parser.parse_args(_ordered(words, words[0], chosen))
    except SystemExit as end:
        return capsys.readouterr().err if end.code else ""
    return ""


@pytest.mark.parametrize("page", [*PAGES, *SAMPLES], ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_are_taken(page, capsys):
    for words in printed(page):
        assert parse(words, capsys) == "", shlex.join(words)
    for span in _SPAN.findall(page.read_text()):
        command, *rest = span.split()
        if command in COMMANDS:
            known = {flag for action in chosen_parser(command)._actions for flag in action.option_strings}
            flags = [word.partition("=")[0].rstrip(",;:)]") for word in rest if word.startswith("-")]
            assert set(flags) <= known | _LEFT_OUT, f"{page.name}: nm2trt {span}"
        else:
            assert command in _LEFT_OUT or command.startswith("-"), f"{page.name}: nm2trt {span}"


def test_examples_of_help_are_taken(capsys):
    found = list(examples())
    assert {words[0] for words in found} == set(COMMANDS)
    for words in found:
        assert parse(words, capsys) == "", shlex.join(words)
