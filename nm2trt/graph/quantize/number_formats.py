"""Weights as INT8 or FP8 numbers: symmetric, zero point 0, one scale per output channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from nm2trt.arrays import Array

Target = Literal["int8", "fp8"]


@dataclass(frozen=True, slots=True)
class Format:
    """A quantised number format.

    Args:
        name: "int8" or "fp8".
        dtype: numpy's dtype of one number.
        largest: The largest magnitude used.
        opset: First ONNX opset whose QuantizeLinear has it, per channel.
    """

    name: Target
    dtype: np.dtype[Any]
    largest: float
    opset: int


# INT8 leaves -128 unused, so that the range is symmetric.
FORMATS: Mapping[str, Format] = {
    "int8": Format("int8", np.dtype(np.int8), 127.0, 13),
    "fp8": Format("fp8", np.dtype(ml_dtypes.float8_e4m3fn), 448.0, 19),
}


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """A weight in a quantised format.

    Args:
        numbers: The numbers, in the weight's shape.
        scale: float32, one number per index of `axis`, or one in all.
        axis: The axis that the scales run along; None for one scale.
        lost: Non-zero weights that became zero.
    """

    numbers: Array
    scale: Array
    axis: int | None
    lost: int


def scale_for(largest: float, form: Format) -> float:
    """Return the scale of a tensor whose largest magnitude is given; 1 if all elements are zero.

    A range so small that its scale would be a subnormal float32 counts as zeros.
    """
    return float(_scales(np.float64(largest), form))


def _scales(largest: npt.ArrayLike, form: Format) -> Array:
    scale = np.asarray(np.asarray(largest, np.float64) / form.largest).astype(np.float32)
    return np.where(scale >= np.finfo(np.float32).tiny, scale, np.float32(1))


def quantise_weight(weight: Array, form: Format, axis: int | None) -> Quantised:
    """Round a weight to the nearest number of a format, ties to even.

    Zeros stay zeros, so that an N:M pattern that held still does; small weights may become zeros.

    Args:
        weight: A finite float array.
        form: The format.
        axis: The axis of output channels, each with a scale; None for one scale.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others if axis is not None else None, initial=0.0)
    scale = _scales(np.atleast_1d(largest), form)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)] if axis is not None else []
    divided = weight.astype(np.float32) / scale.reshape(shape)
    if form.name == "int8":
        divided = np.rint(divided)
    numbers = np.clip(divided, -form.largest, form.largest).astype(form.dtype)
    lost = int(np.count_nonzero((weight != 0) & (numbers.astype(np.float32) == 0)))
    return Quantised(numbers, scale if axis is not None else scale.reshape(()), axis, lost)
