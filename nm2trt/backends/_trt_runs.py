"""An engine's memory on device and host, and the clocks of a batch in it: device, graph, host to host."""

from __future__ import annotations

import contextlib
import ctypes
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nm2trt.arrays import Array
from nm2trt.backends.cuda import Device
from nm2trt.errors import BackendError

# A burst lasts about this long, so that the host's waits between bursts weigh nothing.
_BURST_MS = 10.0
_MOST_IN_A_BURST = 64


class Buffers:
    """Memory by the name of a tensor, used again by later runs and grown when one needs more.

    The engine keeps the addresses between runs, so only a tensor that has grown is freed before `close`.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._on_device: dict[str, tuple[int, int]] = {}
        self._pinned: dict[str, tuple[int, int]] = {}

    def device(self, name: str, size_bytes: int) -> int:
        """Return the address of device memory of at least that size."""
        return self._grown(self._on_device, name, size_bytes, self._device.allocate, self._device.free)

    def pinned(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array in pinned host memory, aligned to a page; valid until a larger one is asked for."""
        size_bytes, device = math.prod(shape) * dtype.itemsize, self._device
        address = self._grown(self._pinned, name, size_bytes, device.allocate_pinned, device.free_pinned)
        memory: Any = (ctypes.c_char * max(1, size_bytes)).from_address(address)
        return np.frombuffer(memory, np.uint8)[:size_bytes].view(dtype).reshape(shape)

    def close(self) -> None:
        """Give everything back; a GPU that was lost has nothing left to give."""
        for address, _ in self._on_device.values():
            with contextlib.suppress(BackendError):
                self._device.free(address)
        for address, _ in self._pinned.values():
            with contextlib.suppress(BackendError):
                self._device.free_pinned(address)
        self._on_device, self._pinned = {}, {}

    @staticmethod
    def _grown(
        known: dict[str, tuple[int, int]],
        name: str,
        size_bytes: int,
        allocate: Callable[[int], int],
        free: Callable[[int], None],
    ) -> int:
        address, room = known.get(name, (0, -1))
        if room < size_bytes:
            if room >= 0:
                del known[name]
                free(address)
            address = allocate(size_bytes)
            known[name] = (address, size_bytes)
        return address


class EngineRuns:
    """One batch inferred again and again; a `DeviceRuns`.

    Args:
        device: The GPU.
        enqueue: Puts one inference into the stream; it has run once.
        inputs: Pinned array and device address of every input that lies on the device.
        outputs: The same of every output.

    Raises:
        BackendError: The driver or the library failed.
    """

    def __init__(
        self,
        device: Device,
        enqueue: Callable[[], None],
        inputs: Sequence[tuple[Array, int]],
        outputs: Sequence[tuple[Array, int]],
    ) -> None:
        self._device, self._enqueue, self._inputs, self._outputs = device, enqueue, inputs, outputs
        self._events: list[int] = []
        self._graph: int | None = None
        self.no_graph = ""
        try:
            self._events += [device.event(), device.event()]
            once_ms = self._seconds(enqueue, 1) * 1e3
            longest = _BURST_MS / once_ms if once_ms > 0 else _MOST_IN_A_BURST
            self.burst = max(1, min(_MOST_IN_A_BURST, math.ceil(longest)))
            self._capture()
        except BackendError:
            self.close()
            raise

    def device_seconds(self) -> float:
        """See `DeviceRuns.device_seconds`."""
        self._device.use()
        return self._seconds(self._enqueue, self.burst)

    def graph_seconds(self) -> float:
        """See `DeviceRuns.graph_seconds`."""
        graph = self._graph
        if graph is None:
            raise BackendError(f"the inference cannot be replayed as a CUDA graph: {self.no_graph}")
        self._device.use()
        return self._seconds(lambda: self._device.launch(graph), self.burst)

    def host_seconds(self) -> float:
        """See `DeviceRuns.host_seconds`."""
        self._device.use()
        start = time.perf_counter()
        for array, address in self._inputs:
            self._device.upload(address, array)
        self._enqueue()
        for array, address in self._outputs:
            self._device.download(array, address)
        self._device.synchronize()
        return time.perf_counter() - start

    def close(self) -> None:
        """Give events and graph back."""
        for event in self._events:
            with contextlib.suppress(BackendError):
                self._device.destroy_event(event)
        if self._graph is not None:
            with contextlib.suppress(BackendError):
                self._device.destroy_graph(self._graph)
        self._events, self._graph = [], None

    def _seconds(self, work: Callable[[], None], count: int) -> float:
        begin, end = self._events
        self._device.record(begin)
        for _ in range(count):
            work()
        self._device.record(end)
        return self._device.elapsed_ms(begin, end) / count / 1e3

    def _capture(self) -> None:
        """Make the graph; an engine that cannot be captured runs without one."""
        try:
            self._graph = self._device.capture(self._enqueue)
            self._device.launch(self._graph)
            self._device.synchronize()
        except BackendError as error:
            self.no_graph = str(error)
