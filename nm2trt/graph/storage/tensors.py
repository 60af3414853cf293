"""Reading tensors of an ONNX model: bit-exact, by chunks, from every form of storage.

External data is read with plain positioned reads, never mapped: its pages stay in the system's cache
and not in the process, so that a model of any size is verified in a small memory.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nm2trt.arrays import Array
from nm2trt.errors import InputError, ModelError
from nm2trt.file_replacement import os_reason
from nm2trt.files import within
from nm2trt.graph.storage.element_types import ELEMENT_TYPES, ElementType, element_type
from nm2trt.graph.storage.light_onnx import TensorProto, onnx

_CHUNK_BYTES = 1 << 20


def read_tensor(tensor: onnx.TensorProto, root: Path | None) -> Array:
    """Return a whole tensor as an array of its shape, in `element_type(tensor).numpy`.

    Args:
        tensor: The tensor.
        root: Folder that external data may be read from; None refuses external data.

    Raises:
        ModelError: Its storage is missing, of the wrong length, or outside `root`.
    """
    kind, shape = element_type(tensor), tuple(tensor.dims)
    if kind.bits >= 8 and tensor.data_location != TensorProto.EXTERNAL and tensor.HasField("raw_data"):
        data, size = tensor.raw_data, math.prod(shape)
        if min(shape, default=0) < 0 or len(data) * 8 != size * kind.bits:
            _check_shape(tensor)
            _check_length(tensor, len(data), kind.raw_bytes(size), "it stores")
        return _decode(data, kind, 0).reshape(shape)
    parts = list(iter_elements(tensor, root))
    flat = parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, kind.numpy), *parts])
    return flat.reshape(shape)


def iter_elements(
    tensor: onnx.TensorProto, root: Path | None, *, unit: int = 1, reuse: bool = False
) -> Iterator[Array]:
    """Yield a tensor's elements, flat and in order, a few at a time.

    Args:
        tensor: The tensor.
        root: Folder below which external data may be read.
        unit: Every piece but the last is a multiple of this many elements.
        reuse: Whether the next piece may overwrite the one before, which saves a copy of each.

    Raises:
        ModelError: Its storage is missing, of the wrong length, or outside `root`.
    """
    kind = element_type(tensor)
    _check_shape(tensor)
    size = math.prod(tensor.dims)
    if kind.bits < 8:
        unit = math.lcm(unit, 8 // kind.bits)
    if tensor.data_location == TensorProto.EXTERNAL:
        for piece in _external(tensor, kind, size, root, unit):
            yield piece if reuse else piece.copy()
    elif tensor.HasField("raw_data"):
        yield from _raw(tensor, kind, size, unit)
    else:
        yield _typed(tensor, kind, size)


def has_its_bytes(tensor: onnx.TensorProto, root: Path | None) -> bool:
    """Tell whether a tensor's raw or external storage has the length that its shape and type ask for.

    Args:
        tensor: The tensor.
        root: Folder below which external data may be read.
    """
    kind = ELEMENT_TYPES.get(tensor.data_type)
    if kind is None or any(size < 0 for size in tensor.dims):
        return False
    if tensor.data_location != TensorProto.EXTERNAL:
        return not tensor.HasField("raw_data") or len(tensor.raw_data) == kind.raw_bytes(
            math.prod(tensor.dims)
        )
    try:
        stored_at(tensor, root)
    except ModelError:
        return False
    return True


def _decode(data: bytes | memoryview, kind: ElementType, count: int) -> Array:
    if kind.bits == 4:
        packed = np.frombuffer(data, np.uint8)
        nibbles = np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(-1)[:count]
        if kind.name == "int4":
            nibbles = np.where(nibbles > 7, nibbles | 0xF0, nibbles)
            return nibbles.astype(np.uint8).view(np.int8).astype(kind.numpy)
        return nibbles.astype(kind.numpy) if kind.name == "uint4" else nibbles.view(kind.numpy)
    dtype = kind.numpy.newbyteorder("<") if kind.bits > 8 and sys.byteorder == "big" else kind.numpy
    return np.frombuffer(data, dtype)


def _check_shape(tensor: onnx.TensorProto) -> None:
    if min(tensor.dims, default=0) < 0:
        raise ModelError(f"tensor {tensor.name!r} has a negative dimension: {list(tensor.dims)}")


def _check_length(tensor: onnx.TensorProto, have: int, want: int, what: str) -> None:
    if have != want:
        raise ModelError(
            f"tensor {tensor.name!r} of shape {list(tensor.dims)} needs {want} bytes, but {what} {have}; "
            "the model is damaged"
        )


def _raw(tensor: onnx.TensorProto, kind: ElementType, size: int, unit: int) -> Iterator[Array]:
    data = memoryview(tensor.raw_data)
    _check_length(tensor, len(data), kind.raw_bytes(size), "it stores")
    step = max(1, _CHUNK_BYTES * 8 // kind.bits // unit) * unit
    for start in range(0, size, step):
        count = min(step, size - start)
        yield _decode(data[kind.raw_bytes(start) : kind.raw_bytes(start + count)], kind, count)


def _external(
    tensor: onnx.TensorProto, kind: ElementType, size: int, root: Path | None, unit: int
) -> Iterator[Array]:
    if not size:
        return
    _, (path, offset) = stored_at(tensor, root)
    step = max(1, _CHUNK_BYTES * 8 // kind.bits // unit) * unit
    with _readable(tensor, path), path.open("rb", buffering=0) as file:
        buffer = np.empty(kind.raw_bytes(min(step, size)), np.uint8).data  # a bytearray would be zeroed
        for start in range(0, size, step):
            count = min(step, size - start)
            view = buffer[: kind.raw_bytes(count)]
            _read_fully(file.fileno(), view, offset + kind.raw_bytes(start), tensor)
            yield _decode(view, kind, count)


@contextlib.contextmanager
def _readable(tensor: onnx.TensorProto, path: Path) -> Iterator[None]:
    """Say which data could not be read if the system refuses its file."""
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"the external data of tensor {tensor.name!r} cannot be read from {path}: "
            f"{error.strerror or error}; keep the data file beside the model"
        ) from error


def stored_at(tensor: onnx.TensorProto, root: Path | None) -> tuple[int, tuple[Path, int]]:
    """Return length in bytes, and file and offset, of external data that is really there.

    Raises:
        ModelError: It is missing, truncated, of another length than its shape needs, or outside `root`.
    """
    path, offset, declared = external_location(tensor, root)
    with _readable(tensor, path):
        have = path.stat().st_size
    kind = ELEMENT_TYPES.get(tensor.data_type)
    if kind is not None:
        length = kind.raw_bytes(math.prod(tensor.dims))
    else:  # no weight has such a type, but the bytes can be copied all the same
        length = have - offset if declared is None else declared
    if declared is not None:
        _check_length(tensor, declared, length, "its external data declares")
    if offset + length > have or length < 0:
        raise ModelError(
            f"tensor {tensor.name!r} needs bytes {offset} to {offset + length} of {path.name}, which has "
            f"{have}; the external data is truncated"
        )
    return length, (path, offset)


def _read_fully(descriptor: int, view: memoryview, offset: int, tensor: onnx.TensorProto) -> None:
    done = 0
    while done < len(view):
        read = os.preadv(descriptor, [view[done:]], offset + done)
        if read == 0:
            raise ModelError(f"the external data of tensor {tensor.name!r} ended while it was read")
        done += read


def external_location(tensor: onnx.TensorProto, root: Path | None) -> tuple[Path, int, int | None]:
    """Return the file, the offset and, if declared, the length in bytes of a tensor's external data.

    Raises:
        ModelError: The location is missing, leaves `root`, or an entry is not a number.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if root is None:
        raise ModelError(f"tensor {tensor.name!r} has external data, but the model was not read from a file")
    if "location" not in entries:
        raise ModelError(f"tensor {tensor.name!r} has external data without a location; the model is damaged")
    try:
        path = within(root, entries["location"])
        offset = _number(entries.get("offset", "0"))
        length = _number(entries["length"]) if "length" in entries else None
        special = path.exists() and not path.is_file()
    except (InputError, OSError) as error:  # OSError: a name that no file system takes
        why = os_reason(error)
        raise ModelError(f"the external data of tensor {tensor.name!r} is refused: {why}") from error
    except ValueError as error:
        message = f"the external data of tensor {tensor.name!r} has an offset or length that is not a number"
        raise ModelError(message) from error
    if special:
        raise ModelError(
            f"the external data of tensor {tensor.name!r} is not in a regular file ({path}); it is not read"
        )
    if offset < 0 or (length is not None and length < 0):
        raise ModelError(f"the external data of tensor {tensor.name!r} has a negative offset or length")
    return path, offset, length


def _number(text: str) -> int:
    """Return a number as every reader of ONNX reads it; Python also takes "1_0", which others read as 1."""
    if not text.isascii() or "_" in text:
        raise ValueError(text)
    return int(text)


def _typed(tensor: onnx.TensorProto, kind: ElementType, size: int) -> Array:
    if kind.name == "float32":
        values: Array = np.array(tensor.float_data, np.float32)
    elif kind.name == "float64":
        values = np.array(tensor.double_data, np.float64)
    elif kind.name == "int64":
        values = np.array(tensor.int64_data, np.int64)
    elif kind.name in ("uint64", "uint32"):
        values = np.array(tensor.uint64_data, np.uint64).astype(kind.numpy)
    else:
        words = np.array(tensor.int32_data, np.int32)
        if kind.bits == 4:
            values = _decode(words.astype(np.uint8).tobytes(), kind, size)
        elif kind.name in ("bool", "int32"):
            values = words.astype(kind.numpy)
        else:
            # Each word holds one element's bits in its low end.
            unsigned = np.uint16 if kind.bits == 16 else np.uint8
            values = words.astype(np.uint32).astype(unsigned).view(kind.numpy)
    if values.size != size:
        raise ModelError(
            f"tensor {tensor.name!r} of shape {list(tensor.dims)} needs {size} elements, but it stores "
            f"{values.size}; the model is damaged"
        )
    return values
