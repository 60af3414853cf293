"""Flags and commands that do not exist: what is said helps to type the right one."""

import re

import pytest

from nm2trt.cli import main
from nm2trt.cli.dispatch import chosen_parser
from nm2trt.cli.unknown_flags import _TRTEXEC


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("build --onnx=m.onnx --fp16", "build: --onnx is a flag of trtexec; here it is the model's path, without a flag"),
        ("build m.onnx --fp16", "build: --fp16 is a flag of trtexec; here it is --precision fp16"),
        ("-v build m.onnx --minShapes=x:1", "build: --minShapes is a flag of trtexec; here it is --profile NAME:"),
        ("bench --loadEngine=m.engine", "bench: --loadEngine is a flag of trtexec; here it is the engine's path"),
        ("build m.onnx --precison fp16", "build: unrecognized arguments: --precison fp16; did you mean --precision?\n"),
        ("verify m.onnx --fp16", "verify: unrecognized arguments: --fp16; see nm2trt verify --help"),
        ("verify a.onnx b.onnx", "verify: unrecognized arguments: b.onnx; see nm2trt verify --help"),
        ("quantise m.onnx", ": 'quantise' is not a command; did you mean quantize?\n"),
        ("inspect model m.onnx", ": 'inspect' is not a command; see nm2trt --help"),
    ],
)  # fmt: skip
def test_what_is_unknown_leads_to_what_is_known(capsys, words, said):
    assert main(words.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith(("nm2trt " if said[0] != ":" else "nm2trt") + said)
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", _TRTEXEC)
def test_the_flags_that_are_named_instead_are_there(command):
    flags = chosen_parser(command)._option_string_actions
    for foreign, here in _TRTEXEC[command].items():
        assert foreign == foreign.lower()
        assert set(re.findall(r"(?<!\w)--?\w[\w-]*", here)) <= set(flags), here
