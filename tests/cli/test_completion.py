"""Shell completion: what real shells offer, against the parsers."""

import shutil
import subprocess

import pytest

from nm2trt.cli import COMMANDS
from nm2trt.cli.completion import script
from nm2trt.cli.dispatch import chosen_parser

# What is typed before the Tab -> some words that must be offered, and some that must not.
CASES = [
    pytest.param(["nm2trt", "pro"], {"prove", "probe"}, {"prune"}, id="commands"),
    pytest.param(["nm2trt", "--ver"], {"--version", "--verbose"}, {"verify"}, id="global"),
    pytest.param(["nm2trt", "build", "--spar"], {"--sparsity"}, {"--share"}, id="flags"),
    pytest.param(["nm2trt", "build", "--backend", "trt"], {"trt", "trt-rtx"}, {"ort"}, id="choices"),
    pytest.param(["nm2trt", "-v", "verify", "--fail"], {"--fail-on"}, {"--share"}, id="after-a-global-flag"),
    pytest.param(["nm2trt", "completion", ""], {"bash", "zsh", "fish"}, {"build"}, id="positional-choices"),
    pytest.param(["nm2trt", "build", "-o", "p"], set(), {"prune", "prove"}, id="file"),
]


def offered_by_bash(words, path):
    # COMP_WORDS as bash makes it: `=` is a word of its own.
    split = [part for word in words for part in word.replace("=", " = ").split(" ") if part or not word]
    typed = " ".join(f"'{word}'" for word in split)
    code = (
        f'source {path}; COMP_WORDS=({typed}); COMP_CWORD={len(split) - 1}; _nm2trt; echo "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "-uc", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


def offered_by_fish(words, path):
    code = f"source {path}; complete -C '{' '.join(words)}'"
    done = subprocess.run(["fish", "-Nc", code], cwd=path.parent, capture_output=True, text=True, check=True)
    return {line.partition("\t")[0] for line in done.stdout.splitlines()}


@pytest.mark.parametrize(("words", "there", "absent"), CASES)
def test_bash_completes(tmp_path, words, there, absent):
    (tmp_path / "c").write_text(script("bash"))
    offered = offered_by_bash(words, tmp_path / "c")
    assert there <= offered
    assert not absent & offered


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(("words", "there", "absent"), CASES)
def test_fish_completes(tmp_path, words, there, absent):
    (tmp_path / "c").write_text(script("fish"))
    offered = offered_by_fish(words, tmp_path / "c")
    assert there <= offered
    assert not absent & offered


@pytest.fixture(scope="module")
def zsh_dump(tmp_path_factory):
    """Give a file in which zsh keeps what it found out about its own commands."""
    return tmp_path_factory.mktemp("zsh") / "dump"


def offered_by_zsh(words, path, known):
    # zsh's bashcompinit calls the function like this: as sh, so that arrays begin with 0.
    typed = " ".join(f"'{word}'" for word in words)
    code = (
        f"autoload -U compinit; compinit -u -d {known}; source {path}; "
        f"ask() {{ emulate -L sh; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _nm2trt; echo ${{COMPREPLY[@]}}; }}; ask"
    )
    done = subprocess.run(["zsh", "-fc", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return {word for word in done.stdout.split() if word.startswith(words[-1])}  # zsh itself drops the others


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(
    ("words", "there", "absent"),
    [*CASES[2:4], (["nm2trt", "build", "--sparsity=en"], {"--sparsity=enable"}, {"enable"})],
)
def test_zsh_completes(tmp_path, words, there, absent, zsh_dump):
    (tmp_path / "c").write_text(script("zsh"))
    offered = offered_by_zsh(words, tmp_path / "c", zsh_dump)
    assert there <= offered
    assert not absent & offered


@pytest.mark.parametrize("equals", ["--sparsity=en", "--sparsity="])
def test_bash_completes_behind_an_equals_sign(tmp_path, equals):
    (tmp_path / "c").write_text(script("bash"))
    assert "enable" in offered_by_bash(["nm2trt", "build", equals], tmp_path / "c")


def test_bash_knows_every_flag_of_every_command(tmp_path):
    text = script("bash")
    for name in COMMANDS:
        line = next(line for line in text.splitlines() if line.strip().startswith(f'{name}) words="'))
        flags = {flag for action in chosen_parser(name)._actions for flag in action.option_strings}
        assert flags <= set(line.partition('"')[2].rstrip('" ;').split())
