"""No raw escape, bidi or zero-width character of a file reaches a terminal, a log, a report or a page."""

import ast
import contextlib
import json
import random
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import nm2trt
from nm2trt.cli import COMMANDS, main
from nm2trt.errors import ModelError
from nm2trt.tables.result import html, text
from nm2trt.tables.table import Column, Row, Table
from nm2trt.terminal_text import printable
from tests.cli.terminal import on_terminal
from tests.hostile import files, forms, fuzz, marks
from tests.hostile.marks import MARK, raw

PACKAGE = Path(nm2trt.__file__).parent
# They print what holds no data: the stored help, and a script for a shell.
WRITERS = {"cli/output.py", "cli/help_text.py", "cli/completion.py"}
WRITTEN = (".html", ".md", ".yaml", ".pbtxt", ".json", ".jsonl")
# Served models, servers and GPUs: in tests/serving, or nothing of a file is printed.
ELSEWHERE = {"probe", "serve", "doctor", "completion", "samples"}


def prints(path):
    """Yield the calls of a module that write to a standard stream."""
    source = path.read_text()
    for node in ast.walk(ast.parse(source)) if "print(" in source or "sys.std" in source else ():
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("print", "sys.stdout.write", "sys.stderr.write", "console.print"):
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}: {called}"


def test_one_module_writes_what_commands_print():
    """Its functions escape; whoever prints past them is found here."""
    found = {path: list(prints(path)) for path in PACKAGE.rglob("*.py")}
    assert [
        one for path, calls in found.items() for one in calls if str(path.relative_to(PACKAGE)) not in WRITERS
    ] == []
    assert found[PACKAGE / "cli/output.py"], "the test sees calls of print"


@pytest.fixture
def folder(fuzzer, tmp_path, monkeypatch):
    """Give a folder with the sound files, in which commands run."""
    here = tmp_path / "here"
    shutil.copytree(fuzzer.sound, here)
    monkeypatch.chdir(here)
    return here


class Said:
    """Runs commands and keeps every character that should have been spelt out."""

    def __init__(self, folder, capfd, monkeypatch):
        self.folder, self.capfd, self.monkeypatch = folder, capfd, monkeypatch
        self.seen, self.found = "", []

    def run(self, words, *, terminal=False):
        """Run a command, on a terminal of 80 columns or in a pipe, and read all that it wrote."""
        self.capfd.readouterr()
        shown = ""
        if terminal:
            status, _, shown = on_terminal([*fuzz.BOUNDS, *words], 80, self.monkeypatch, both=True)
        else:
            status = main([*fuzz.BOUNDS, *words])
        out, err = self.capfd.readouterr()
        texts = {"terminal": raw(shown, terminal=True), "stdout": raw(out), "stderr": raw(err)}
        texts |= {path.name: raw(path.read_text(errors="replace")) for path in self.written()}
        self.found += [(words, place, bad) for place, bad in texts.items() if bad]
        assert "internal error" not in err + shown, err + shown
        self.seen += out + err + shown
        return status

    def written(self):
        return [path for path in self.folder.rglob("*out*") if path.is_file() and path.suffix in WRITTEN]


@pytest.fixture
def said(folder, capfd, monkeypatch):
    return Said(folder, capfd, monkeypatch)


def words_of(command, model):
    return command.format(model=model, out=f"out{MARK}").split()


def save(folder, form, kind):
    name = f"mutant{MARK}.onnx"
    (folder / name).write_bytes(marks.model(form, kind, set()).SerializeToString())
    rng = np.random.default_rng(0)
    np.savez(folder / "x.npz", **{f"x{MARK}": rng.standard_normal((8, 16)).astype("f4")})
    return name


def test_the_models_mark_every_text_field_of_onnx():
    marked = set()
    for form in ("conv", "function"):
        for kind in marks.KINDS:
            marks.model(form, kind, marked)
    assert marked == set(marks.string_fields(onnx.ModelProto.DESCRIPTOR, set()))


def test_the_commands_are_all_of_them():
    lines = [*fuzz.MODEL_COMMANDS, *(line for lines in files.READERS.values() for line in lines), "prove"]
    assert {line.split()[0] for line in lines} | ELSEWHERE == set(COMMANDS)


@pytest.mark.parametrize("command", [*fuzz.MODEL_COMMANDS, "prove {model} --target sm86"])
def test_names_of_a_model(said, command):
    model = save(said.folder, "conv", "sound")
    said.run(words_of(command, model), terminal=True)
    for form, kind in (("function", "foreign"), ("plain", "elsewhere")):
        save(said.folder, form, kind)
        said.run(words_of(command, model))
    assert said.found == []
    if not command.startswith("gain"):  # it has no row for layers as small as these
        assert "\\x1b]0;t" in said.seen, "a name was printed, so the test saw one"


@pytest.mark.slow
@pytest.mark.parametrize("form", forms.FORMS)
def test_names_of_models_of_every_form(said, form):
    for kind in marks.KINDS:
        model = save(said.folder, form, kind)
        for command in fuzz.MODEL_COMMANDS:
            for terminal in (False, True):
                said.run(words_of(command, model), terminal=terminal)
            if "--json" not in command and "dry-run" not in command:
                said.run([*words_of(command, model), "--json"])
    assert said.found == []


def readers():
    for name, commands in files.READERS.items():
        for keys in (False, True):
            yield pytest.param(name, commands[:1], keys, id=f"{name} {'keys' if keys else 'texts'}")
            yield pytest.param(
                name,
                commands[1:],
                keys,
                id=f"{name} {'keys' if keys else 'texts'} others",
                marks=pytest.mark.slow,
            )


@pytest.mark.parametrize(("name", "commands", "keys"), list(readers()))
def test_texts_of_other_files(said, name, commands, keys):
    found = [
        path
        for path in said.folder.glob(name.replace("*", "**/*"))
        if path.suffix in (".json", ".jsonl", ".npz", ".yaml")
    ]
    for path in found or [said.folder / name]:
        if path.suffix == ".rtx":
            path.rename(path.with_name(f"e{MARK}.rtx"))
        else:
            marks.mark_file(path, keys=keys)
    for command in commands:
        said.run(
            command.format(out="out").replace("e.rtx", f"e{MARK}.rtx" if name == "e.rtx" else "e.rtx").split()
        )
    assert said.found == []


def test_a_run_and_its_pages(said):
    model = save(said.folder, "conv", "sound")
    recipe = {
        "version": 1,
        "name": f"name{MARK}",
        "model": model,
        "stages": {
            "prune": {"min_channels": 4},
            "fuse": None,
            "verify": None,
            "cast": {"compare": False},
            "report": {"formats": ["html", "md", "json"]},
        },
    }
    (said.folder / "r.yaml").write_text(json.dumps(recipe))
    for number in (1, 2):
        assert said.run(["run", "r.yaml", "-o", f"out{number}{MARK}"], terminal=number == 2) == 0
    for page in ("out.html", "out.md", "beside-out.html", "beside-out.md"):
        runs = [f"out{number}{MARK}" for number in ((1, 2) if "beside" in page else (1,))]
        assert said.run(["report", *runs, "-o", page]) == 0
        assert "\\x1b" in (said.folder / page).read_text()
    assert said.found == []
    assert "&#8238;" not in (said.folder / "out.html").read_text(), "a reference of HTML is a character too"


@pytest.mark.parametrize("words", [["verify", f"no{MARK}.onnx"], [f"no{MARK}"], ["verify", f"--{MARK}"], ["run", f"{MARK}.yaml", f"{MARK}=1"]])  # fmt: skip
def test_words_of_the_command_line(said, words):
    with contextlib.suppress(SystemExit):
        said.run([*words, "-vv"] if words[0] in COMMANDS else words)
    assert said.found == []


def test_results_and_errors_in_python():
    table = Table((Column(f"h{MARK}", "name"),), (Row((f"c{MARK}",), why=f"w{MARK}"),), f"t{MARK}")
    for shown in (text(table), html(table), str(ModelError(f"{MARK}\nnext")), repr(str(ModelError(MARK)))):
        assert not raw(shown)
        assert "\\x1b" in shown


class TestLongTexts:
    """A name, a version or a message of a file does not fill the terminal."""

    LONG = "9" * 6000

    def test_the_middle_of_a_long_word_is_left_out(self):
        shown = printable(f"version {self.LONG}1.1 of the log")
        assert shown.startswith("version 999")
        assert shown.endswith("91.1 of the log")
        assert " characters ... " in shown
        assert len(shown) < 600
        assert printable(shown) == shown
        assert printable(self.LONG, whole=True) == self.LONG

    def test_a_text_of_many_words_is_cut_and_real_ones_are_whole(self):
        assert len(printable("word " * 10_000)) < 10_000
        for real in ("layer.0.conv " * 500, "x" * 500, "a/" * 250):
            assert printable(real) == real

    def test_a_version_in_a_build_log(self, said):
        log = f"TensorRT version: {self.LONG}.1\n(Sparsity) Chose 1 layer(s) using sparse tactics: a\n"
        (said.folder / "build.log").write_text(log)
        assert said.run("explain m.onnx --log build.log".split()) == 0
        assert "9999 ... " in said.seen
        assert max(map(len, said.seen.splitlines())) < 1000

    @pytest.mark.parametrize("command", [*fuzz.MODEL_COMMANDS, "prove {model} --target sm86"])
    def test_names_of_a_model(self, said, command):
        proto, _ = forms.sound(random.Random(1), "conv")
        for node in proto.graph.node:
            node.name += self.LONG
            node.input[:] = [name and name + self.LONG for name in node.input]
            node.output[:] = [name + self.LONG for name in node.output]
        for value in (*proto.graph.initializer, *proto.graph.input, *proto.graph.output):
            value.name += self.LONG
        onnx.save(proto, said.folder / "long.onnx")
        np.savez(said.folder / "x.npz", **{f"x{self.LONG}": np.ones((8, 16), "f4")})
        said.run(command.replace(" --json", "").format(model="long.onnx", out="out").split())
        assert max(map(len, said.seen.splitlines()), default=0) < 3000
