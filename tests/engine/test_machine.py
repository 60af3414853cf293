"""survey: libraries and GPUs, whatever is missing."""

import importlib.metadata
import json

import pytest

from nm2trt.engine import machine
from nm2trt.extras import install_line


def test_a_library_has_a_version_or_a_way_to_get_it():
    report = machine.survey()
    onnx = next(item for item in report.backends if item.name == "onnx")
    assert onnx.version == importlib.metadata.version("onnx")
    for item in report.backends:
        assert bool(item.version) != bool(item.install), item
    json.dumps(report.to_json())


def test_a_builder_that_does_not_load_is_missing(monkeypatch):
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda _: object())
    item = machine.survey().backends[0]
    assert item.version == ""
    assert install_line("rtx") in item.install


@pytest.mark.parametrize(
    ("version", "told"), [("9.3.0", "TensorRT 9.3.0 is not supported; install 8.6, or 10"), ("10.13.3.9", "")]
)
def test_a_tensorrt_that_no_build_takes_is_missing(monkeypatch, version, told):
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(machine, "installed_version", lambda *names: version if "tensorrt" in names else "1")
    (item,) = (item for item in machine.survey().backends if item.name == "trt")
    assert item.version == ("" if told else version)
    assert item.install.startswith(told)
    assert bool(item.install) == bool(told)
