"""`nm2trt doctor`: exit 0 whatever is missing, and what to install."""

import ctypes
import json

from nm2trt.cli import main
from nm2trt.extras import install_line


def test_every_backend_has_a_line(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{name} " in out for name in ("trt-rtx", "trt", "ort", "onnx", "torch", "triton"))


def test_a_missing_library_and_gpu_are_no_failure(capsys, monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert install_line("rtx") in out
    assert "no NVIDIA driver" in out
    assert "no GPU: engines can be built ahead of time, not run or timed" in out


def test_json(capsys):
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"backends", "gpus", "driver"}
