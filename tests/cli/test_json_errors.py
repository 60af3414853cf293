"""With --json an error is a JSON object on stdout, beside its sentence on stderr and its exit status."""

import json

import pytest

from nm2trt import errors
from nm2trt.cli import dispatch, main
from nm2trt.cli.output import await_json, print_json, print_json_error


@pytest.mark.parametrize(
    ("words", "kind", "status"),
    [
        (["verify", "no.onnx"], "InputError", 2),
        (["verify", "text.onnx"], "ModelError", 2),
        (["build"], "InputError", 2),
        (["bench", "no.onnx", "--runs", "0"], "InputError", 2),
        (["build", "no.onnx", "--backend", "other"], "InputError", 2),
        (["probe", "--url", "127.0.0.1:9", "--name", "m", "--reference", "no.onnx"], "InputError", 2),
    ],
)
def test_an_error_is_an_object(tmp_path, monkeypatch, capsys, words, kind, status):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.onnx").write_text("not a model")
    assert main([*words, "--json"]) == status
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert set(told) == {"error", "kind", "exit_status"}
    assert (told["kind"], told["exit_status"]) == (kind, status)
    assert told["error"] in " ".join(err.split())
    assert main(words) == status
    assert capsys.readouterr().out == ""


def test_an_internal_error_is_an_object_too(monkeypatch, capsys):
    monkeypatch.setattr("nm2trt.pipeline.doctor.doctor", lambda: 1 / 0)
    assert main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["exit_status"]) == ("InternalError", 1)
    assert "ZeroDivisionError" in told["error"]


def test_what_was_printed_before_stays_the_only_value(capsys):
    await_json(True)
    print_json({"partial": 1})
    print_json_error("InputError", "late", 2)
    assert json.loads(capsys.readouterr().out) == {"partial": 1}


def test_the_kind_is_a_public_name():
    class Mine(errors.SparsityError):
        pass

    assert dispatch._kind(Mine("x")) == "SparsityError"
