"""The NVIDIA driver through ctypes: which GPUs there are, and device memory for engines that run.

The driver is asked before any engine library touches a device, because a runtime that finds no driver may
bring the whole process down. Nothing here needs a CUDA toolkit, only the driver's own library.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from nm2trt.errors import BackendError, BackendMissingError

__all__ = ["Device", "Gpu", "probe_gpus", "require_gpu"]

# Attribute numbers of the CUDA driver's cuDeviceGetAttribute.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_OUT_OF_MEMORY = 2


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU that the driver sees.

    Args:
        name: Its name.
        target: Its compute capability, e.g. "sm86".
        sparse: Whether it has sparse tensor cores.
    """

    name: str
    target: str
    sparse: bool


def probe_gpus() -> tuple[tuple[Gpu, ...], str]:
    """Ask the NVIDIA driver for its GPUs.

    Returns:
        The GPUs, and one sentence on the driver.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return (), "no NVIDIA driver (libcuda.so.1 is not found)"
    status = cuda.cuInit(0)
    if status != 0:
        return (), f"the NVIDIA driver is there and does not start (cuInit returned {status})"
    version, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    cuda.cuDeviceGetCount(ctypes.byref(count))
    text = f"NVIDIA driver for CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    return tuple(_gpu(cuda, index) for index in range(count.value)), text


def require_gpu(what: str, instead: str = "") -> Gpu:
    """Return the first GPU, the one that engines run on.

    Args:
        what: What needs it, for the message, e.g. "building with TensorRT 8.6.0".
        instead: What to do without one.

    Raises:
        BackendMissingError: There is no driver or no GPU.
    """
    gpus, driver = probe_gpus()
    if not gpus:
        why = driver if driver.startswith(("no ", "the ")) else f"{driver}, and it sees none"
        then = f"; {instead}" if instead else ""
        raise BackendMissingError(f"{what} takes a GPU, and there is none here: {why}{then}")
    return gpus[0]


class Device:
    """The first GPU with a stream of its own; addresses are plain integers.

    Raises:
        BackendError: The driver refuses.
    """

    def __init__(self) -> None:
        self._cuda = _driver()
        self._handle = ctypes.c_int()
        self._context = ctypes.c_void_p()
        stream = ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(self._handle), 0)
        # The primary context is the one that the runtime API, and so every engine library, uses.
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._handle)
        self.use()
        self._call("cuStreamCreate", ctypes.byref(stream), 0)
        self.stream = int(stream.value or 0)

    def use(self) -> None:
        """Make the device the calling thread's own."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new device memory."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), max(1, size_bytes))
        return address.value

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("cuMemFree_v2", address)

    def upload(self, address: int, array: npt.NDArray[Any]) -> None:
        """Copy a C-contiguous array to the device, in the stream's order."""
        if array.nbytes:
            self._call("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, self.stream)

    def download(self, array: npt.NDArray[Any], address: int) -> None:
        """Copy from the device into a C-contiguous array, in the stream's order."""
        if array.nbytes:
            self._call("cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, self.stream)

    def synchronize(self) -> None:
        """Wait until the stream is empty."""
        self._call("cuStreamSynchronize", self.stream)

    def close(self) -> None:
        """Give the stream and the context back."""
        self._call("cuStreamDestroy_v2", self.stream)
        self._call("cuDevicePrimaryCtxRelease_v2", self._handle)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._cuda, name)(*arguments)
        if status == _OUT_OF_MEMORY:
            raise BackendError("the GPU's memory is full; run a smaller batch, or free the GPU")
        if status != 0:
            raise BackendError(f"the NVIDIA driver failed: {name} returned {status}")


@functools.cache
def _driver() -> ctypes.CDLL:
    """Load the driver and declare the functions whose arguments are wider than an int."""
    cuda = ctypes.CDLL("libcuda.so.1")
    address, size, handle = ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p
    for name, arguments in {
        "cuCtxSetCurrent": (handle,),
        "cuMemAlloc_v2": (handle, size),
        "cuMemFree_v2": (address,),
        "cuMemcpyHtoDAsync_v2": (address, handle, size, handle),
        "cuMemcpyDtoHAsync_v2": (handle, address, size, handle),
        "cuStreamCreate": (handle, ctypes.c_uint),
        "cuStreamSynchronize": (handle,),
        "cuStreamDestroy_v2": (handle,),
    }.items():
        getattr(cuda, name).argtypes = arguments
    return cuda


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
    return Gpu(name.value.decode(errors="replace"), f"sm{major.value}{minor.value}", major.value >= 8)
