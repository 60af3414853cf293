"""Help comes from a file, so it must say what the parsers take; and it needs almost no import."""

import subprocess
import sys
from pathlib import Path

import pytest

from nm2trt.cli import COMMANDS, help_text, main
from nm2trt.cli.dispatch import chosen_parser

ROOT = Path(__file__).parents[2]


def options_shown(text):
    words = text.replace(",", " ").replace("[", " ").replace("]", " ").split()
    return {word for word in words if word.startswith("-") and word.strip("-")}


@pytest.mark.parametrize("columns", ["40", "80", "200"])
@pytest.mark.parametrize("command", COMMANDS)
def test_stored_help_is_what_the_parser_prints(command, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    assert main([command, "--help"]) == 0
    stored = capsys.readouterr().out
    parser = chosen_parser(command)
    assert stored == parser.format_help()
    taken = {flag for action in parser._actions for flag in action.option_strings}
    assert taken <= options_shown(stored)
    # Examples, which are indented, are to be copied whole.
    sentences = [
        line for line in stored.splitlines()[1:] if not line.startswith(" ") and len(line.split()) > 2
    ]
    assert max(map(len, sentences)) <= int(columns)


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_help_of_all_names_every_command_and_fits(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["-h"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line[:3].strip() and line[:2] == "  "][-len(COMMANDS) :] == [
        *COMMANDS
    ]
    assert max(map(len, lines)) <= int(columns)


def test_help_imports_next_to_nothing():
    code = (
        "import os, sys; before = set(sys.modules); from nm2trt.cli import main; main(['verify', '--help'])\n"
        "print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert set(done.stderr.split()) == {
        "__future__",
        "nm2trt",
        "nm2trt.errors",
        "nm2trt.cli",
        "nm2trt.cli.help_text",
    }


@pytest.mark.parametrize(
    "words", [["verify", "model.onnx", "--help"], ["nonsense", "--help"], ["--help", "-h"]]
)
def test_other_words_before_help_go_to_the_parser(words, monkeypatch):
    asked = []
    monkeypatch.setattr("nm2trt.cli.dispatch.dispatch", lambda given: asked.append(given) or 7)
    assert main(words) == 7
    assert asked == [words]


@pytest.mark.parametrize(
    ("command", "words"),
    [("report", "RUN_DIR [OTHER_DIR]"), ("run", "[STAGE.KEY=VALUE ...]"), ("bench", " ARTEFACT ...")],
)
def test_values_that_may_be_left_out_stand_in_brackets(command, words, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")
    main([command, "--help"])
    assert words in capsys.readouterr().out.splitlines()[0]


def test_a_long_word_has_a_line_to_itself():
    assert help_text.wrapped(["aa", "b" * 9, "c", "d"], 5) == ["aa", "b" * 9, "c d"]
