"""survey: libraries and GPUs, whatever is missing."""

import ctypes
import importlib.metadata
import json

import pytest

from nm2trt.engine import machine


class Driver:
    """The few functions of libcuda that are asked, with two GPUs or a failing start."""

    def __init__(self, status=0):
        self.status = status

    def cuInit(self, _):
        return self.status

    def cuDriverGetVersion(self, out):
        out._obj.value = 12080

    def cuDeviceGetCount(self, out):
        out._obj.value = 2

    def cuDeviceGet(self, out, index):
        out._obj.value = index

    def cuDeviceGetName(self, buffer, size, device):
        buffer.value = [b"Ampere GPU", b"Turing GPU"][device.value]

    def cuDeviceGetAttribute(self, out, attribute, device):
        out._obj.value = {75: (8, 7), 76: (6, 5)}[attribute][device.value]


def test_the_driver_s_gpus_are_listed(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver())
    gpus, driver = machine.probe_gpus()
    assert gpus == (machine.Gpu("Ampere GPU", "sm86", True), machine.Gpu("Turing GPU", "sm75", False))
    assert driver == "NVIDIA driver for CUDA 12.8"


def test_a_driver_that_does_not_start_is_told(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(status=100))
    assert machine.probe_gpus() == ((), "the NVIDIA driver is there and does not start (cuInit returned 100)")


def test_no_driver_is_told(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert machine.probe_gpus() == ((), "no NVIDIA driver (libcuda.so.1 is not found)")


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
    assert "pip install nm2trt[rtx]" in item.install
