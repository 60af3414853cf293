"""Element types of ONNX tensors: dtypes, and which elements are zero, infinite or NaN, by their bits."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nm2trt.arrays import Array
from nm2trt.errors import ModelError
from nm2trt.graph.storage.light_onnx import TensorProto, onnx
from nm2trt.nm.mask import scratch

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

    def raw_bytes(self, elements: int) -> int:
        """Return how many bytes so many elements take in raw storage."""
        return (elements * self.bits + 7) // 8


@functools.cache
def _dtype(name: str) -> np.dtype[Any]:
    if name not in _EXTENDED:
        return np.dtype(name)
    import ml_dtypes  # only here: most models hold no such type

    kind: type[Any] | None = getattr(ml_dtypes, _EXTENDED[name], None)
    if kind is None:
        raise ModelError(f"a tensor has element type {name}, which needs a later release of ml_dtypes")
    return np.dtype(kind)


# Bits of one element -> ONNX's constants.
_BITS = {
    4: "UINT4 INT4 FLOAT4E2M1",
    8: "UINT8 INT8 BOOL FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ FLOAT8E8M0",
    16: "UINT16 INT16 FLOAT16 BFLOAT16",
    32: "UINT32 INT32 FLOAT",
    64: "UINT64 INT64 DOUBLE",
}
_LONGER_NAMES = {"FLOAT": "float32", "DOUBLE": "float64"}
ELEMENT_TYPES = {
    getattr(TensorProto, key): ElementType(_LONGER_NAMES.get(key, key.lower()), bits)
    for bits, keys in _BITS.items()
    for key in keys.split()
    if hasattr(TensorProto, key)  # releases differ in the newest types
}
DTYPE_NAMES = {number: kind.name for number, kind in ELEMENT_TYPES.items()}

# Bits of one element that are not all clear in a number other than zero; types with no negative zero use all.
_MAGNITUDE_BITS = {
    "float16": 0x7FFF,
    "bfloat16": 0x7FFF,
    "float8e4m3fn": 0x7F,
    "float8e5m2": 0x7F,
    "float4e2m1": 0x7,
}
# Smallest magnitude, as bits, that is infinite or NaN; of floats that `np.isfinite` is slow at or lacks.
_NONFINITE_FROM = {
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
    kind = ELEMENT_TYPES.get(tensor.data_type)
    if kind is None:
        raise ModelError(
            f"tensor {tensor.name!r} has element type {tensor.data_type}, which no weight can have"
        )
    return kind


def is_integer(elements: Array) -> bool:
    """Tell whether an array holds integers, booleans and those of four bits included."""
    return elements.dtype.kind in "iub" or "int" in elements.dtype.name


def present(elements: Array, zero_point: Array | None = None) -> npt.NDArray[np.bool_]:
    """Return True where an element is not zero, or not equal to its zero point, until the next call.

    Minus zero is zero; NaN and infinity are not. Low-precision floats are judged by their bits.
    """
    if zero_point is not None:
        return np.asarray(elements != zero_point)
    dtype = elements.dtype
    if dtype == np.bool_:
        return elements
    if dtype.char in "fd" or dtype.kind in "iu":  # float32 and float64
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
    if elements.dtype.char in "fd":
        # No sum with a NaN or an infinity is finite; that of numbers may overflow, hence the count.
        # einsum adds several times as fast as `sum`, and as fast as memory gives the numbers.
        if math.isfinite(np.einsum("i->", elements.reshape(-1))):
            return 0
        return elements.size - int(np.count_nonzero(np.isfinite(elements)))
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
