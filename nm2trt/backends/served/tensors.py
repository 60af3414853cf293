"""Tensors of a request to a Triton server: in its body, or in system shared memory on the same machine."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import ml_dtypes
import numpy as np

from nm2trt.arrays import Array
from nm2trt.backends.feeds import numpy_dtype
from nm2trt.backends.protocol import TensorSpec
from nm2trt.errors import BackendError, ServerError

Feeds = Mapping[str, tuple[str, Array]]

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_ALIGNMENT = 64
_FOLDER = "/dev/shm"  # noqa: S108 - where Linux keeps POSIX shared memory; names there are random


def sent(library: Any, name: str, dtype: str, array: Array) -> Any:
    """Return the client library's input for an array that travels in the request."""
    entry = library.InferInput(name, list(array.shape), dtype)
    if dtype == "BF16":
        from tritonclient.utils import triton_to_np_dtype

        # Older clients take bfloat16 as float32, later ones as what it is.
        array = array.astype(triton_to_np_dtype(dtype))
    entry.set_data_from_numpy(array)
    return entry


def received(result: Any, name: str, dtype: str) -> Array:
    """Return an output that came in the answer.

    Raises:
        BackendError: The answer does not hold it, or holds something else.
    """
    try:
        value = result.as_numpy(name)
    except Exception as error:  # the client decodes what the server says of its own bytes
        raise BackendError(
            f"the server's answer for output {name!r} does not fill its shape: {' '.join(str(error).split())}"
        ) from error
    if value is None:
        raise BackendError(f"the server's answer has no output {name!r}")
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biufV":
        raise BackendError(f"the server's answer for output {name!r} is not an array of numbers")
    array: Array = value.astype(_BFLOAT16) if dtype == "BF16" else value
    return array


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the block an output is to be written.

    Args:
        name: The output.
        dtype: Its element type.
        shape: Its whole shape.
        offset: First byte in the block.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.dtype.itemsize * math.prod(self.shape)


class ServerMemory:
    """A block of shared memory that a server knows by name, and that grows as requests need.

    The system removes the block when this process ends, also if it is killed.

    Args:
        register: Tells the server a block: its name, its key and its size in bytes.
        unregister: Makes the server forget a block, by name.
    """

    def __init__(
        self, register: Callable[[str, str, int], object], unregister: Callable[[str], object]
    ) -> None:
        self._register, self._unregister = register, unregister
        self._block: SharedMemory | None = None

    @property
    def name(self) -> str:
        """The block's name in the server; "" while there is no block."""
        return "" if self._block is None else self._block.name.strip("/")

    def places(self, feeds: Feeds, outputs: Sequence[TensorSpec]) -> dict[str, Place]:
        """Return where each output of known shape is to be written, after making room for all tensors.

        Inputs lie first, in order, each at a multiple of 64 bytes.

        Raises:
            BackendError: The system has no room for the block, or the server cannot open it.
            ServerError: The server cannot be reached.
        """
        end = sum(_padded(array.nbytes) for _, array in feeds.values())
        places = {}
        for spec in outputs:
            place = Place(spec.name, numpy_dtype(spec.dtype), tuple(map(int, spec.shape)), end)  # type: ignore[arg-type]
            if place.size:
                places[spec.name] = place
                end += _padded(place.size)
        self._make_room(end)
        return places

    def request(
        self, library: Any, feeds: Feeds, outputs: Iterable[str], places: Mapping[str, Place]
    ) -> tuple[list[Any], list[Any]]:
        """Write the feeds to the block; return the client library's inputs and the outputs to ask for."""
        inputs, wanted, offset = [], [], 0
        for name, (dtype, array) in feeds.items():
            if not array.size:  # a server takes no region of 0 bytes
                inputs.append(sent(library, name, dtype, array))
                continue
            self._view(offset, array.dtype, array.shape)[...] = array
            inputs.append(library.InferInput(name, list(array.shape), dtype))
            inputs[-1].set_shared_memory(self.name, array.nbytes, offset)
            offset += _padded(array.nbytes)
        for name in outputs:
            wanted.append(library.InferRequestedOutput(name))
            if name in places:
                wanted[-1].set_shared_memory(self.name, places[name].size, places[name].offset)
        return inputs, wanted

    def answer(self, result: Any, place: Place) -> Array:
        """Return a copy of an output; the next request overwrites the block.

        Raises:
            BackendError: The server sent the output instead, or has another shape: the block holds no answer.
        """
        try:
            output = result.get_output(place.name)
            if isinstance(output, dict):
                shape = output["shape"]
                inline = "data" in output or "binary_data_size" in output.get("parameters", {})
            else:
                shape, response = output.shape, result.get_response()
                # One entry per output; that of an output in shared memory is empty.
                own = [one.name for one in response.outputs].index(place.name)
                inline = bool(output.contents.ByteSize() or any(response.raw_output_contents[own : own + 1]))
            written = not inline and tuple(map(int, shape)) == place.shape
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            written = False
        if not written:
            raise BackendError(
                f"the server did not write output {place.name!r} to shared memory in the shape "
                f"{'x'.join(map(str, place.shape))}; leave +shm out of its address"
            )
        return self._view(place.offset, place.dtype, place.shape).copy()

    def release(self) -> None:
        """Give the block back to the system, and let the server forget it if it can be reached."""
        block, name = self._block, self.name
        self._block = None
        if block is None:
            return
        try:
            self._unregister(name)
        except (BackendError, ServerError):
            pass  # a server that is gone has forgotten it; one that never knew it has nothing to forget
        finally:
            block.close()
            block.unlink()

    def _make_room(self, size: int) -> None:
        if self._block is not None and self._block.size >= size:
            return
        self.release()
        self._block = _reserved(max(size, 1))
        try:
            self._register(self.name, f"/{self.name}", self._block.size)
        except BackendError as error:
            self.release()
            raise BackendError(
                f"{error}; shared memory needs a server of the same user on this machine, with the same "
                f"{_FOLDER} if it runs in a container (docker run --ipc=host): leave +shm out of its address "
                "otherwise"
            ) from error
        except BaseException:
            self.release()
            raise

    def _view(self, offset: int, dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
        if self._block is None:
            raise BackendError("the shared memory of this connection is closed; open a new one")
        return np.ndarray(tuple(shape), dtype, buffer=self._block.buf, offset=offset)


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _reserved(size: int) -> SharedMemory:
    """Return a new block whose pages exist: in a full folder, the first write would kill the process.

    Raises:
        BackendError: The system has no room for it.
    """
    block = None
    try:
        block = SharedMemory(create=True, size=size)
        file = os.open(f"{_FOLDER}/{block.name.strip('/')}", os.O_RDWR)
        try:
            os.posix_fallocate(file, 0, size)
        finally:
            os.close(file)
    except OSError as error:
        if block is not None:
            block.close()
            block.unlink()
        raise BackendError(
            f"{_FOLDER} has no room for the {size:,} bytes of a request ({error.strerror}); give it "
            "more, e.g. docker run --shm-size=1g, or leave +shm out of the server's address"
        ) from error
    return block
