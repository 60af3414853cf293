"""An engine of TensorRT or TensorRT for RTX, loaded on a GPU and run; the library's module is passed in.

TensorRT 8.5 and everything later have the calls by tensor name that are used here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.backends._trt_runs import Buffers, EngineRuns
from nm2trt.backends._trt_shared import Library, create, load_plugins
from nm2trt.backends._trt_watch import inspect_engine, layer_clock, logger, recorded
from nm2trt.backends._trt_words import dtype_name, first_error, of_the_machine, sizes
from nm2trt.backends.cuda import Device, require_gpu
from nm2trt.backends.feeds import check_feeds, narrowed, numpy_dtype
from nm2trt.backends.options import format_shape
from nm2trt.backends.protocol import Closing, TensorSpec
from nm2trt.errors import BackendError, DataError
from nm2trt.files import check_input

if TYPE_CHECKING:
    # TensorRT's own types; they fit TensorRT for RTX too.
    import tensorrt


class EngineSession(Closing):
    """An engine on the first GPU; a `Session` and `DeviceTimed`. Its inputs and outputs lie on the host.

    Args:
        library: The library.
        engine: Its engine, deserialized.
        runtime: Its runtime, which must outlive the engine.
        device: The GPU; the session closes it, even if the session itself cannot be made.

    Attributes:
        max_batch: Most samples that a profile takes at once; 0 if the batch is not free.

    Raises:
        BackendError: The library cannot make a context for the engine, e.g. for lack of memory.
        DataError: A tensor has a type that no array holds.
    """

    def __init__(
        self, library: Library, engine: tensorrt.ICudaEngine, runtime: tensorrt.Runtime, device: Device
    ) -> None:
        trt = library.module
        self._library, self._device, self._closed = library, device, False
        self._runtime, self._engine = runtime, engine
        self._buffers = Buffers(device)
        self._runs: EngineRuns | None = None
        self._profiler: Any = None
        self._context: Any = None
        try:
            self._read(trt, engine)
        except BaseException:
            self.close()
            raise

    def _read(self, trt: Any, engine: tensorrt.ICudaEngine) -> None:
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        modes = {name: engine.get_tensor_mode(name) for name in names}
        self.inputs = tuple(_spec(engine, name) for name in names if modes[name] == trt.TensorIOMode.INPUT)
        self.outputs = tuple(_spec(engine, name) for name in names if modes[name] == trt.TensorIOMode.OUTPUT)
        # TensorRT 8 reads an int64 input of a model as int32.
        int64 = self._library.row.int64
        self._narrow = () if int64 else tuple(spec.name for spec in self.inputs if spec.dtype == "int32")
        self.max_batch = most_samples(engine, self.inputs)
        self._dtypes = {spec.name: numpy_dtype(spec.dtype) for spec in (*self.inputs, *self.outputs)}
        self._on_host = {
            name for name in names if engine.get_tensor_location(name) == trt.TensorLocation.HOST
        }
        library = self._library
        with recorded(trt) as log:
            self._context = library.make_context(trt, engine)
        if self._context is None:
            raise BackendError(f"{library.product} cannot run the engine: {of_the_machine(first_error(log))}")

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Run one batch; see `Session.run`."""
        feeds = narrowed(self._narrow, feeds, self._library.product)
        check_feeds(self.inputs, feeds)
        self._device.use()
        with recorded(self._library.module) as log:
            self._choose_profile(feeds)
            # Kept until the stream is empty: the copies read from it. Not ascontiguousarray, which gives a
            # scalar an axis.
            sent = [self._send(spec.name, np.asarray(feeds[spec.name], order="C")) for spec in self.inputs]
            outputs = {spec.name: self._room(spec.name) for spec in self.outputs}
            self._enqueue(log)
            for name, array in outputs.items():
                if name not in self._on_host:
                    self._device.download(array, self._buffers.device(name, array.nbytes))
            self._device.synchronize()
        del sent
        # The engine writes these again in the next run.
        return {name: array.copy() if name in self._on_host else array for name, array in outputs.items()}

    def repeat(self) -> None:
        """Compute again on the inputs that the last `run` left on the device, without copies, and wait.

        Raises:
            BackendError: The library failed.
        """
        self._device.use()
        with recorded(self._library.module) as log:
            self._enqueue(log)
            self._device.synchronize()

    def on_device(self, feeds: Arrays) -> EngineRuns:
        """See `DeviceTimed.on_device`."""
        feeds = narrowed(self._narrow, feeds, self._library.product)
        outputs = self.run(feeds)
        if self._runs is not None:
            self._runs.close()
        sent, fetched = (
            [self._pinned(name, array) for name, array in arrays.items() if name not in self._on_host]
            for arrays in (feeds, outputs)
        )
        with recorded(self._library.module) as log:
            self._runs = EngineRuns(self._device, lambda: self._enqueue(log), sent, fetched)
        return self._runs

    def layer_times(self, feeds: Arrays, *, runs: int) -> dict[str, float]:
        """Return the mean time of every layer, in milliseconds, by its name in the engine.

        The library's profiler slows the engine, and stays with this session.
        """
        totals: dict[str, float] = {}
        # Kept until the session closes: the library does not own it.
        self._profiler = layer_clock(self._library.module, totals)
        self._context.profiler = self._profiler
        for _ in range(runs):
            self.run(feeds)
        return {name: total / runs for name, total in totals.items()}

    def layers_json(self) -> str:
        """Return what the engine inspector says of every layer, tactics included, as JSON."""
        return inspect_engine(self._library.module, self._engine, self._context)

    def close(self) -> None:
        """Free the engine and its memory on the device."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(BackendError):
            self._device.use()
        if self._runs is not None:
            self._runs.close()
        self._buffers.close()
        # In this order: each holds on to the next.
        del self._context
        del self._engine
        del self._runtime
        self._device.close()

    def _choose_profile(self, feeds: Arrays) -> None:
        """Select the first profile that takes the feeds' shapes."""
        free = [spec.name for spec in self.inputs if None in spec.shape]
        ranges = _profiles(self._engine, free)
        for index, profile in enumerate(ranges):
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

    def _enqueue(self, log: Sequence[str] = ()) -> None:
        if not self._context.execute_async_v3(self._device.stream):
            why = of_the_machine(first_error(log))
            raise BackendError(f"{self._library.product} failed to run the engine: {why}")

    def _send(self, name: str, array: Array) -> Array:
        trt = self._library.module
        if not self._context.set_input_shape(name, trt.Dims(list(array.shape))):
            raise DataError(f"the engine refuses input {name!r} of shape {format_shape(array.shape)}")
        if name in self._on_host:
            self._on_this_side(name, array.shape)[...] = array
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
        if name in self._on_host:
            return self._on_this_side(name, shape)
        array = np.empty(shape, self._dtypes[name])
        self._address(name, array.nbytes)
        return array

    def _on_this_side(self, name: str, shape: tuple[int, ...]) -> Array:
        """Return the memory of a tensor that the engine reads or writes on the host; it outlives the run."""
        array = self._buffers.pinned(name, shape, self._dtypes[name])
        self._context.set_tensor_address(name, array.ctypes.data)
        return array

    def _address(self, name: str, size_bytes: int) -> int:
        address = self._buffers.device(name, size_bytes)
        self._context.set_tensor_address(name, address)
        return address

    def _pinned(self, name: str, array: Array) -> tuple[Array, int]:
        """Return a pinned copy of a tensor's values, and where the tensor lies on the device."""
        pinned = self._buffers.pinned(name, array.shape, array.dtype)
        pinned[...] = array
        return pinned, self._buffers.device(name, array.nbytes)


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
        runtime = create(library, lambda: trt.Runtime(logger(trt)), log)
        if plugins:
            load_plugins(library, runtime.get_plugin_registry(), plugins)
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        said = first_error(log)
        reason = of_the_machine(said)
        if reason != said:  # a state of this machine, which the engine is not to blame for
            raise BackendError(f"{library.product} cannot load {path}: {reason}")
        raise BackendError(
            f"{library.product} refuses {path}: {said}; it was built by version {built}, "
            f"here are version {here} and a GPU of {gpu.target}: build it again for this machine"
        )
    # The session closes the device.
    return EngineSession(library, engine, runtime, Device())


def most_samples(engine: Any, inputs: Sequence[TensorSpec]) -> int:
    """Return the largest batch of any profile, which every input whose first dimension is free must take."""
    free = [spec.name for spec in inputs if spec.shape and spec.shape[0] is None]
    largest = (min(profile[name][-1][0] for name in free) for profile in _profiles(engine, free))
    return max(largest, default=0)


def _profiles(engine: Any, names: Sequence[str]) -> list[dict[str, tuple[tuple[int, ...], ...]]]:
    """Return the smallest, best and largest shape of each named input, by profile; [] for no input."""
    return [
        {
            name: tuple(sizes(shape) for shape in engine.get_tensor_profile_shape(name, index))
            for name in names
        }
        for index in range(engine.num_optimization_profiles if names else 0)
    ]


def _spec(engine: tensorrt.ICudaEngine, name: str) -> TensorSpec:
    shape = tuple(size if size >= 0 else None for size in sizes(engine.get_tensor_shape(name)))
    return TensorSpec(name, dtype_name(engine.get_tensor_dtype(name)), shape)


def _within(shape: tuple[int, ...], profile: tuple[tuple[int, ...], ...]) -> bool:
    low, high = profile[0], profile[-1]
    return len(shape) == len(low) and all(
        least <= size <= most for least, size, most in zip(low, shape, high, strict=True)
    )
