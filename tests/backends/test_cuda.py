"""The driver: its GPUs, and what is said where there is none."""

import ctypes

import pytest

from nm2trt.backends import cuda
from nm2trt.errors import BackendMissingError


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

    def cuDeviceGetUuid(self, out, device):
        out.raw = bytes([device.value] * 16)
        return device.value  # the second one does not tell

    def cuDeviceGetAttribute(self, out, attribute, device):
        out._obj.value = {75: (8, 7), 76: (6, 5)}[attribute][device.value]


def test_the_driver_s_gpus_are_listed(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver())
    gpus, driver = cuda.probe_gpus()
    first = cuda.Gpu("Ampere GPU", "sm86", True, "GPU-00000000-0000-0000-0000-000000000000")
    assert gpus == (first, cuda.Gpu("Turing GPU", "sm75", False))
    assert driver == "NVIDIA driver for CUDA 12.8"


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (1, ""),
        (34, ": this is the CUDA toolkit's stub; put the folder of the driver's own libcuda.so.1 before it"),
        (100, ": it sees no GPU; look at CUDA_VISIBLE_DEVICES, and start a container with --gpus all"),
        (802, ": the GPUs wait for the service nvidia-fabricmanager; start it"),
        (803, ": the driver and its kernel module are of different versions; restart the machine"),
    ],
)
def test_a_driver_that_does_not_start_is_told(monkeypatch, status, reason):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(status=status))
    sentence = f"the NVIDIA driver is there and does not start (cuInit returned {status}{reason})"
    assert cuda.probe_gpus() == ((), sentence)


def test_no_driver_is_told(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert cuda.probe_gpus() == ((), "no NVIDIA driver (libcuda.so.1 is not found)")


@pytest.mark.parametrize("status", [None, 100], ids=["no-driver", "driver-fails"])
def test_what_needs_a_gpu_says_so_in_one_sentence(monkeypatch, status):
    def load(name):
        if status is None:
            raise OSError(name)
        return Driver(status)

    monkeypatch.setattr(ctypes, "CDLL", load)
    with pytest.raises(
        BackendMissingError, match=r"flying takes a GPU, and there is none here: .*driver.*; walk"
    ):
        cuda.require_gpu("flying", "walk")


def test_the_first_gpu_is_the_one_to_run_on(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver())
    assert cuda.require_gpu("flying").target == "sm86"
