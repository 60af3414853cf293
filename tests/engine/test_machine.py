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
