"""Reading tensors of an ONNX model: bit-exact, by chunks, from every form of storage.

External data is read with plain positioned reads, never mapped: its pages stay in the system's cache
and not in the process, so that a model of any size is verified in a small memory.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nm2trt.arrays import Array
from nm2trt.errors import InputError, ModelError
from nm2trt.files import within
from nm2trt.graph.storage.light_onnx import TensorProto, onnx
from nm2trt.nm.mask import scratch

_CHUNK_BYTES = 1 << 20


# ONNX's name of a type that numpy lacks -> its name in ml_dtypes.
_EXTENDED = {
    "bfloat16": "bfloat16",
    "float8e4m3fn": "float8_e4m3fn",
    "float8e4m3fnuz": "float8_e4m3fnuz",
    "float8e5m2": "float8_e5m2",
    "float8e5m2fnuz": "float8_e5m2fnuz",
    "uint4": "uint4",
    "int4": "int4",
    "float4e2m1": "float4_e2m1fn",
    "float8e8m0": "float8_e8m0fnu",
}
_ONNX_NAMES = {extended: name for name, extended in _EXTENDED.items()}


@dataclass(frozen=True, slots=True)
class ElementType:
    """One ONNX element type.

    Args:
        name: ONNX's name in lower case, e.g. "bfloat16".
        bits: Bits of one element in raw storage.
    """

    name: str
    bits: int

    @property
    def numpy(self) -> np.dtype[Any]:
        """The dtype that holds one element; int4 takes a byte here.

        Raises:
            ModelError: The installed ml_dtypes does not have it.
        """
        return _dtype(self.name)


@functools.cache
def _dtype(name: str) -> np.dtype[Any]:
    if name not in _EXTENDED:
        return np.dtype(name)
    import ml_dtypes  # only here: most models hold no such type

    kind: type[Any] | None = getattr(ml_dtypes, _EXTENDED[name], None)
    if kind is None:
        raise ModelError(f"a tensor has element type {name}, which needs a later release of ml_dtypes")
    return np.dtype(kind)


def _types() -> dict[int, ElementType]:
    bits = {
        "FLOAT": ("float32", 32),
        "UINT8": ("uint8", 8),
        "INT8": ("int8", 8),
        "UINT16": ("uint16", 16),
        "INT16": ("int16", 16),
        "INT32": ("int32", 32),
        "INT64": ("int64", 64),
        "BOOL": ("bool", 8),
        "FLOAT16": ("float16", 16),
        "DOUBLE": ("float64", 64),
        "UINT32": ("uint32", 32),
        "UINT64": ("uint64", 64),
        "BFLOAT16": ("bfloat16", 16),
        "FLOAT8E4M3FN": ("float8e4m3fn", 8),
        "FLOAT8E4M3FNUZ": ("float8e4m3fnuz", 8),
        "FLOAT8E5M2": ("float8e5m2", 8),
        "FLOAT8E5M2FNUZ": ("float8e5m2fnuz", 8),
        "UINT4": ("uint4", 4),
        "INT4": ("int4", 4),
        "FLOAT4E2M1": ("float4e2m1", 4),
        "FLOAT8E8M0": ("float8e8m0", 8),
    }
    return {
        getattr(TensorProto, key): ElementType(*kind)
        for key, kind in bits.items()
        if hasattr(TensorProto, key)  # releases differ in the newest types
    }


_TYPES = _types()
DTYPE_NAMES = {number: kind.name for number, kind in _TYPES.items()}

# Bits of one element that are not all clear in a number other than zero; types with no negative zero use all.
_MAGNITUDE_BITS = {
    "float16": 0x7FFF,
    "bfloat16": 0x7FFF,
    "float8e4m3fn": 0x7F,
    "float8e5m2": 0x7F,
    "float4e2m1": 0x7,
}
# Smallest magnitude, as bits, that is infinite or NaN.
_NONFINITE_FROM = {
    "float64": 0x7FF << 52,
    "float32": 0x7F80 << 16,
    "float16": 0x7C00,
    "bfloat16": 0x7F80,
    "float8e4m3fn": 0x7F,
    "float8e5m2": 0x7C,
}


def element_type(tensor: onnx.TensorProto) -> ElementType:
    """Return a tensor's element type.

    Raises:
        ModelError: It is a string, complex or unknown type, which no weight can have.
    """
    kind = _TYPES.get(tensor.data_type)
    if kind is None:
        raise ModelError(
            f"tensor {tensor.name!r} has element type {tensor.data_type}, which no weight can have"
        )
    return kind


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
        data = tensor.raw_data
        _check_shape(tensor)
        _check_length(tensor, len(data), _bytes_for(math.prod(shape), kind), "it stores")
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
    if kind.bits < 8 and tensor.data_location != TensorProto.EXTERNAL:
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
    kind = _TYPES.get(tensor.data_type)
    if kind is None or any(size < 0 for size in tensor.dims):
        return False
    want = _bytes_for(math.prod(tensor.dims), kind)
    if tensor.data_location != TensorProto.EXTERNAL:
        return not tensor.HasField("raw_data") or len(tensor.raw_data) == want
    try:
        path, offset, length = external_location(tensor, root)
        return length in (None, want) and offset + want <= path.stat().st_size
    except (ModelError, OSError):
        return False


def present(elements: Array, zero_point: Array | None = None) -> npt.NDArray[np.bool_]:
    """Return True where an element is not zero, or not equal to its zero point, until the next call.

    Minus zero is zero; NaN and infinity are not. Low-precision floats are judged by their bits.
    """
    if zero_point is not None:
        return np.asarray(elements != zero_point)
    if elements.dtype == np.bool_:
        return elements
    if elements.dtype in (np.float32, np.float64) or elements.dtype.kind in "iu":
        return np.asarray(np.not_equal(elements, 0, out=_flags(elements)))
    bits, mask = _bits(elements)
    if mask is not None:
        bits = np.bitwise_and(bits, mask, out=scratch("bits", bits.size, bits.dtype).reshape(bits.shape))
    return np.asarray(np.not_equal(bits, 0, out=_flags(elements)))


def _flags(elements: Array) -> npt.NDArray[np.bool_]:
    return scratch("flags", elements.size, np.bool_).reshape(elements.shape)


def nonfinite_count(elements: Array) -> int:
    """Count NaN and infinite elements."""
    if elements.dtype.kind in "iub" or elements.size == 0:
        return 0
    limit = _NONFINITE_FROM.get(_name(elements.dtype))
    if limit is None:
        return int(np.count_nonzero(~np.isfinite(elements.astype(np.float32))))
    bits = np.ascontiguousarray(elements).view(f"u{elements.dtype.itemsize}")
    sign = 1 << (8 * bits.itemsize - 1)
    # As bits, the largest positive number is the largest integer, and the largest negative one the largest
    # that is taken as unsigned.
    if int(bits.view(f"i{bits.itemsize}").max()) < limit and int(bits.max()) < sign | limit:
        return 0
    return int(np.count_nonzero((bits & bits.dtype.type(sign - 1)) >= limit))


def _name(dtype: np.dtype[Any]) -> str:
    return _ONNX_NAMES.get(dtype.name, dtype.name)


def _bits(elements: Array) -> tuple[Array, Any]:
    unsigned = np.uint16 if elements.dtype.itemsize == 2 else np.uint8
    mask = _MAGNITUDE_BITS.get(_name(elements.dtype))
    bits = np.ascontiguousarray(elements).view(unsigned)
    return bits, None if mask is None else unsigned(mask)


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


def _bytes_for(elements: int, kind: ElementType) -> int:
    return (elements * kind.bits + 7) // 8


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
    _check_length(tensor, len(data), _bytes_for(size, kind), "it stores")
    step = max(1, _CHUNK_BYTES * 8 // kind.bits // unit) * unit
    for start in range(0, size, step):
        count = min(step, size - start)
        yield _decode(data[_bytes_for(start, kind) : _bytes_for(start + count, kind)], kind, count)


def _external(
    tensor: onnx.TensorProto, kind: ElementType, size: int, root: Path | None, unit: int
) -> Iterator[Array]:
    path, offset, length = external_location(tensor, root)
    want = _bytes_for(size, kind)
    if length is not None:
        _check_length(tensor, length, want, "its external data declares")
    unit = math.lcm(unit, 8 // kind.bits) if kind.bits < 8 else unit
    step = max(1, _CHUNK_BYTES * 8 // kind.bits // unit) * unit
    try:
        with path.open("rb", buffering=0) as file:
            have = os.fstat(file.fileno()).st_size
            if want and offset + want > have:
                raise ModelError(
                    f"tensor {tensor.name!r} needs bytes {offset} to {offset + want} of {path.name}, "
                    f"which has {have}; the external data is truncated"
                )
            buffer = bytearray(_bytes_for(min(step, size), kind))
            for start in range(0, size, step):
                count = min(step, size - start)
                view = memoryview(buffer)[: _bytes_for(count, kind)]
                _read_fully(file.fileno(), view, offset + _bytes_for(start, kind), tensor)
                yield _decode(view, kind, count)
    except OSError as error:
        raise ModelError(
            f"the external data of tensor {tensor.name!r} cannot be read from {path}: "
            f"{error.strerror or error}; keep the data file beside the model"
        ) from error


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
        offset = int(entries.get("offset", "0"))
        length = int(entries["length"]) if "length" in entries else None
        special = path.exists() and not path.is_file()
    except (InputError, OSError) as error:  # OSError: a name that no file system takes
        raise ModelError(f"the external data of tensor {tensor.name!r} is refused: {error}") from error
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
