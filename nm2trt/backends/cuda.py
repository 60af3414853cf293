"""The NVIDIA driver through ctypes: GPUs, device and pinned memory, streams, events and CUDA graphs.

The driver is asked before any engine library touches a device, because a runtime that finds no driver may
bring the whole process down. Nothing here needs a CUDA toolkit, only the driver's own library.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nm2trt.backends._trt_words import PIN, call_failure, start_failure
from nm2trt.errors import BackendError, BackendMissingError

if TYPE_CHECKING:
    # Not at run time: `tools/gpu/ask.py` looks for a GPU where numpy is missing.
    from nm2trt.arrays import Array

# Attribute numbers of the CUDA driver's cuDeviceGetAttribute.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
# Only the calling thread's own calls can spoil the capture of a graph.
_CAPTURE_THREAD_LOCAL = 1


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU that the driver sees.

    Args:
        name: Its name.
        target: Its compute capability, e.g. "sm86".
        sparse: Whether it has sparse tensor cores.
        uuid: Its identifier as `nvidia-smi -L` prints it, e.g. "GPU-8f6c...", since the driver and nvidia-smi
            number several GPUs in different orders; "" if the driver does not tell.
    """

    name: str
    target: str
    sparse: bool
    uuid: str = ""


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
        return (), start_failure(status)
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
        BackendMissingError: The driver or the GPU is missing.
    """
    gpus, driver = probe_gpus()
    if not gpus:
        why = driver if driver.startswith(("no ", "the ")) else f"{driver}, and it sees none"
        then = f"; {instead}" if instead else ""
        raise BackendMissingError(f"{what} takes a GPU, and there is none here: {why}{then}")
    return gpus[0]


class Device:
    """The first GPU with a stream of its own; addresses and handles are plain integers.

    Raises:
        BackendError: The driver refuses.
    """

    def __init__(self) -> None:
        self._cuda = _driver()
        self._handle = ctypes.c_int()
        self._context = ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(self._handle), 0)
        # The primary context is the one that the runtime API, and so every engine library, uses.
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._handle)
        try:
            self.use()
            self.stream = self._made("cuStreamCreate", 0)
        except BackendError:
            self._cuda.cuDevicePrimaryCtxRelease_v2(self._handle)
            raise

    def use(self) -> None:
        """Make the device the calling thread's own."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new device memory."""
        return self._made("cuMemAlloc_v2", max(1, size_bytes))

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("cuMemFree_v2", address)

    def allocate_pinned(self, size_bytes: int) -> int:
        """Return the address of new host memory that the GPU reads and writes directly.

        It begins at a page, so it satisfies the 256 bytes that engine libraries align to.
        """
        return self._made(PIN, max(1, size_bytes))

    def free_pinned(self, address: int) -> None:
        """Give pinned memory back."""
        self._call("cuMemFreeHost", address)

    def upload(self, address: int, array: Array) -> None:
        """Copy a C-contiguous array to the device, in the stream's order."""
        if array.nbytes:
            self._call("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, self.stream)

    def download(self, array: Array, address: int) -> None:
        """Copy from the device into a C-contiguous array, in the stream's order."""
        if array.nbytes:
            self._call("cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, self.stream)

    def synchronize(self) -> None:
        """Wait until the stream is empty."""
        self._call("cuStreamSynchronize", self.stream)

    def event(self) -> int:
        """Return a new event that holds a time."""
        return self._made("cuEventCreate", 0)

    def record(self, event: int) -> None:
        """Put an event into the stream: it takes the GPU's time when everything before it is done."""
        self._call("cuEventRecord", event, self.stream)

    def elapsed_ms(self, begin: int, end: int) -> float:
        """Return the milliseconds between two events, after the second has passed."""
        self._call("cuEventSynchronize", end)
        elapsed = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(elapsed), begin, end)
        return elapsed.value

    def destroy_event(self, event: int) -> None:
        """Give an event back."""
        self._call("cuEventDestroy_v2", event)

    def capture(self, work: Callable[[], None]) -> int:
        """Return a CUDA graph of what `work` puts into the stream; nothing runs.

        Raises:
            BackendError: `work` fails, or does something that a graph cannot hold.
        """
        self._call("cuStreamBeginCapture_v2", self.stream, _CAPTURE_THREAD_LOCAL)
        graph = ctypes.c_void_p()
        try:
            work()
        except BackendError:
            # The stream takes no other work until the capture has ended.
            if self._cuda.cuStreamEndCapture(self.stream, ctypes.byref(graph)) == 0:
                self._cuda.cuGraphDestroy(graph)
            raise
        self._call("cuStreamEndCapture", self.stream, ctypes.byref(graph))
        try:
            return self._made("cuGraphInstantiateWithFlags", graph, 0)
        finally:
            self._cuda.cuGraphDestroy(graph)

    def launch(self, graph: int) -> None:
        """Put a captured graph into the stream."""
        self._call("cuGraphLaunch", graph, self.stream)

    def destroy_graph(self, graph: int) -> None:
        """Give a graph back."""
        self._call("cuGraphExecDestroy", graph)

    def close(self) -> None:
        """Give the stream and the context back; a GPU that was lost has nothing left to give."""
        with contextlib.suppress(BackendError):
            self._call("cuStreamDestroy_v2", self.stream)
        with contextlib.suppress(BackendError):
            self._call("cuDevicePrimaryCtxRelease_v2", self._handle)

    def _made(self, name: str, *arguments: Any) -> int:
        """Call a function that writes a new address or handle to its first argument; return that."""
        out = ctypes.c_uint64()
        self._call(name, ctypes.byref(out), *arguments)
        return out.value

    def _call(self, name: str, *arguments: Any) -> None:
        function = getattr(self._cuda, name, None)
        if function is None:
            raise BackendError(f"the NVIDIA driver is too old: it has no {name}; update it")
        status = function(*arguments)
        if status != 0:
            raise BackendError(call_failure(name, status))


@functools.cache
def _driver() -> ctypes.CDLL:
    """Load the driver and declare the functions whose arguments are wider than an int."""
    cuda = ctypes.CDLL("libcuda.so.1")
    address, size, handle = ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p
    for name, arguments in {
        "cuCtxSetCurrent": (handle,),
        "cuMemAlloc_v2": (handle, size),
        "cuMemFree_v2": (address,),
        "cuMemAllocHost_v2": (handle, size),
        "cuMemFreeHost": (address,),
        "cuMemcpyHtoDAsync_v2": (address, handle, size, handle),
        "cuMemcpyDtoHAsync_v2": (handle, address, size, handle),
        "cuStreamCreate": (handle, ctypes.c_uint),
        "cuStreamSynchronize": (handle,),
        "cuStreamDestroy_v2": (handle,),
        "cuStreamBeginCapture_v2": (handle, ctypes.c_int),
        "cuStreamEndCapture": (handle, handle),
        "cuEventCreate": (handle, ctypes.c_uint),
        "cuEventRecord": (handle, handle),
        "cuEventSynchronize": (handle,),
        "cuEventElapsedTime": (handle, handle, handle),
        "cuEventDestroy_v2": (handle,),
        "cuGraphInstantiateWithFlags": (handle, handle, ctypes.c_ulonglong),
        "cuGraphLaunch": (handle, handle),
        "cuGraphExecDestroy": (handle,),
        "cuGraphDestroy": (handle,),
    }.items():
        function = getattr(cuda, name, None)
        if function is not None:  # an old driver lacks what only timing needs
            function.argtypes = arguments
    return cuda


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
    return Gpu(
        name.value.decode(errors="replace"),
        f"sm{major.value}{minor.value}",
        major.value >= 8,
        _uuid(cuda, device),
    )


def _uuid(cuda: ctypes.CDLL, device: ctypes.c_int) -> str:
    # Not the second version of this call: it names a slice of a GPU, and nvidia-smi has no clocks for slices.
    ask = getattr(cuda, "cuDeviceGetUuid", None)
    raw = ctypes.create_string_buffer(16)
    if ask is None or ask(raw, device) != 0:
        return ""
    import uuid  # only here: it takes time to import

    return f"GPU-{uuid.UUID(bytes=raw.raw)}"
