"""An engine of TensorRT or TensorRT for RTX, loaded on a GPU and run; the library's module is passed in.

TensorRT 8.5 and everything later have the calls by tensor name that are used here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nm2trt.backends._trt_shared import Library, load_plugins
from nm2trt.backends._trt_watch import logger, recorded
from nm2trt.backends._trt_words import dtype_name, first_error, sizes
from nm2trt.backends.cuda import Device, require_gpu
from nm2trt.backends.options import format_shape
from nm2trt.backends.protocol import TensorSpec, check_feeds, numpy_dtype
from nm2trt.errors import BackendError, DataError
from nm2trt.files import check_input

if TYPE_CHECKING:
    # TensorRT's own types; they fit TensorRT for RTX too.
    import tensorrt

__all__ = ["EngineSession", "most_samples", "open_engine"]

Array = npt.NDArray[Any]


class EngineSession:
    """An engine on the first GPU; a `Session`. Inputs and outputs are copied to and from the host.

    Args:
        library: The library.
        engine: Its engine, deserialized.
        runtime: Its runtime, which must outlive the engine.
        device: The GPU.

    Attributes:
        max_batch: Most samples that a profile takes at once; 0 where the batch is not free.
    """

    def __init__(
        self, library: Library, engine: tensorrt.ICudaEngine, runtime: tensorrt.Runtime, device: Device
    ) -> None:
        trt = library.module
        self._library, self._device, self._closed = library, device, False
        self._runtime, self._engine = runtime, engine
        self._buffers: dict[str, tuple[int, int]] = {}
        self._profiler: Any = None
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        modes = {name: engine.get_tensor_mode(name) for name in names}
        self.inputs = tuple(_spec(engine, name) for name in names if modes[name] == trt.TensorIOMode.INPUT)
        self.outputs = tuple(_spec(engine, name) for name in names if modes[name] == trt.TensorIOMode.OUTPUT)
        self.max_batch = most_samples(engine, self.inputs)
        self._dtypes = {spec.name: numpy_dtype(spec.dtype) for spec in (*self.inputs, *self.outputs)}
        self._on_host = {
            name for name in names if engine.get_tensor_location(name) == trt.TensorLocation.HOST
        }
        with recorded(trt) as log:
            self._context = engine.create_execution_context()
        if self._context is None:
            raise BackendError(f"{library.product} cannot run the engine: {first_error(log)}")

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch; see `Session.run`."""
        check_feeds(self.inputs, feeds)
        self._device.use()
        with recorded(self._library.module) as log:
            self._choose_profile(feeds)
            # Kept until the stream is empty: the copies read from it.
            sent = [self._send(spec.name, np.ascontiguousarray(feeds[spec.name])) for spec in self.inputs]
            outputs = {spec.name: self._room(spec.name) for spec in self.outputs}
            if not self._context.execute_async_v3(self._device.stream):
                raise BackendError(f"{self._library.product} failed to run the engine: {first_error(log)}")
            for name, array in outputs.items():
                if name not in self._on_host:
                    self._device.download(array, self._buffers[name][0])
            self._device.synchronize()
        del sent
        return outputs

    def repeat(self) -> None:
        """Compute again on the inputs that the last `run` left on the device, without copies, and wait.

        Raises:
            BackendError: The library failed.
        """
        self._device.use()
        with recorded(self._library.module) as log:
            if not self._context.execute_async_v3(self._device.stream):
                raise BackendError(f"{self._library.product} failed to run the engine: {first_error(log)}")
            self._device.synchronize()

    def layer_times(self, feeds: Mapping[str, Array], *, runs: int) -> dict[str, float]:
        """Return the mean time of every layer, in milliseconds, by its name in the engine.

        The library's profiler slows the engine, and stays with this session.
        """
        totals: dict[str, float] = {}
        # Kept until the session closes: the library does not own it.
        self._profiler = _layer_clock(self._library.module, totals)
        self._context.profiler = self._profiler
        for _ in range(runs):
            self.run(feeds)
        return {name: total / runs for name, total in totals.items()}

    def layers_json(self) -> str:
        """Return what the engine inspector says of every layer, tactics included, as JSON."""
        trt = self._library.module
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Free the engine and its memory on the device."""
        if self._closed:
            return
        self._closed = True
        self._device.use()
        for address, _ in self._buffers.values():
            self._device.free(address)
        self._buffers = {}
        # In this order: each holds on to the next.
        del self._context
        del self._engine
        del self._runtime
        self._device.close()

    def __enter__(self) -> EngineSession:  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _choose_profile(self, feeds: Mapping[str, Array]) -> None:
        """Select the first profile that takes the feeds' shapes."""
        ranges: list[dict[str, tuple[tuple[int, ...], ...]]] = []
        free = [spec.name for spec in self.inputs if None in spec.shape]
        for index in range(self._engine.num_optimization_profiles if free else 0):
            profile: dict[str, tuple[tuple[int, ...], ...]] = {
                name: tuple(sizes(shape) for shape in self._engine.get_tensor_profile_shape(name, index))
                for name in free
            }
            ranges.append(profile)
            if all(_within(feeds[name].shape, profile[name]) for name in free):
                if self._context.active_optimization_profile != index:
                    self._context.set_optimization_profile_async(index, self._device.stream)
                return
        if free:
            name = free[0]
            taken = "; ".join(
                f"{format_shape(profile[name][0])} to {format_shape(profile[name][-1])}" for profile in ranges
            )
            raise DataError(
                f"the engine has no profile for input {name!r} of shape {format_shape(feeds[name].shape)}; "
                f"it was built for {taken}"
            )

    def _send(self, name: str, array: Array) -> Array:
        trt = self._library.module
        if not self._context.set_input_shape(name, trt.Dims(list(array.shape))):
            raise DataError(f"the engine refuses input {name!r} of shape {format_shape(array.shape)}")
        if name in self._on_host:
            self._context.set_tensor_address(name, array.ctypes.data)
        else:
            self._device.upload(self._address(name, array.nbytes), array)
        return array

    def _room(self, name: str) -> Array:
        """Return an array for an output, in the shape that the inputs give it."""
        shape = sizes(self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise BackendError(
                f"output {name!r} has a shape that depends on the values ({format_shape(shape)}), which is "
                "not supported; take the operator out of the model, e.g. do NonMaxSuppression outside"
            )
        array = np.empty(shape, self._dtypes[name])
        if name in self._on_host:
            self._context.set_tensor_address(name, array.ctypes.data)
        else:
            self._address(name, array.nbytes)
        return array

    def _address(self, name: str, size_bytes: int) -> int:
        address, room = self._buffers.get(name, (0, -1))
        if room < size_bytes:
            if room >= 0:
                self._device.free(address)
            address = self._device.allocate(size_bytes)
            self._buffers[name] = (address, size_bytes)
        self._context.set_tensor_address(name, address)
        return address


def open_engine(
    library: Library, path: Path, plugins: Sequence[Path] = (), *, built: str, here: str
) -> EngineSession:
    """Load an engine; the caller has checked that the file is whole and of the library's kind.

    Args:
        library: The library.
        path: The engine.
        plugins: Shared libraries of operators that it needs.
        built: What the file says of itself, for the message, e.g. "8.6.0" or "1.7.1.116 for sm80, sm86".
        here: The library's version.

    Raises:
        InputError: The file cannot be read.
        BackendMissingError: There is no GPU.
        BackendError: The library refuses it.
    """
    check_input(path, "an engine")
    # Asked first: without a driver, TensorRT's runtime ends the process instead of failing.
    gpu = require_gpu(f"running {path.name}, an engine of {library.product},")
    trt = library.module
    with recorded(trt) as log:
        runtime = trt.Runtime(logger(trt))
        if plugins:
            load_plugins(library, runtime.get_plugin_registry(), plugins)
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise BackendError(
            f"{library.product} refuses {path}: {first_error(log)}; it was built by version {built}, "
            f"here are version {here} and a GPU of {gpu.target}: build it again for this machine"
        )
    return EngineSession(library, engine, runtime, Device())


def most_samples(engine: Any, inputs: Sequence[TensorSpec]) -> int:
    """Return the largest batch of any profile, which every input whose first dimension is free must take."""
    free = [spec.name for spec in inputs if spec.shape and spec.shape[0] is None]
    profiles = range(engine.num_optimization_profiles if free else 0)
    return max(
        (
            min(int(engine.get_tensor_profile_shape(name, index)[-1][0]) for name in free)
            for index in profiles
        ),
        default=0,
    )


def _spec(engine: tensorrt.ICudaEngine, name: str) -> TensorSpec:
    shape = tuple(size if size >= 0 else None for size in sizes(engine.get_tensor_shape(name)))
    return TensorSpec(name, dtype_name(engine.get_tensor_dtype(name)), shape)


def _within(shape: tuple[int, ...], profile: tuple[tuple[int, ...], ...]) -> bool:
    low, high = profile[0], profile[-1]
    return len(shape) == len(low) and all(
        least <= size <= most for least, size, most in zip(low, shape, high, strict=True)
    )


def _layer_clock(trt: Any, totals: dict[str, float]) -> Any:
    """Return a profiler that adds up the times of the layers, in milliseconds."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]  # the module is only known at run time
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            totals[layer_name] = totals.get(layer_name, 0.0) + ms

    return Profiler()
