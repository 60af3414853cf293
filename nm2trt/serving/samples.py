"""Samples as a served model takes them: names, shapes and types of its inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.backends.batch_axes import fits
from nm2trt.backends.feeds import check_names, numpy_dtype, random_feeds
from nm2trt.backends.protocol import TensorSpec
from nm2trt.compare.outputs import is_floating
from nm2trt.errors import DataError

# Stands for a free size other than the batch, if no data gives it.
_FREE_SIZE = 16


def fit_samples(inputs: Sequence[TensorSpec], arrays: Arrays, what: str) -> dict[str, Array]:
    """Check samples against inputs and convert floating ones to their types.

    Args:
        inputs: The inputs, with the batch as their first dimension.
        arrays: Samples by input name, along axis 0.
        what: Where they come from, for messages.

    Raises:
        DataError: A name, shape, type or value does not fit, or the counts differ.
    """
    check_names(f"{what}: the model", inputs, arrays)
    if len({len(array) for array in arrays.values()}) != 1 or not len(next(iter(arrays.values()))):
        raise DataError(f"{what}: the inputs do not hold the same number of samples, at least one")
    fitted = {}
    for spec in inputs:
        array, wanted = arrays[spec.name], numpy_dtype(spec.dtype)
        rest = spec.shape[1:]
        if array.ndim != len(spec.shape) or not fits(array.shape[1:], rest):
            shape = "x".join(["n", *(str(size) if isinstance(size, int) else "?" for size in rest)])
            raise DataError(
                f"{what}: input {spec.name!r} takes samples of shape {shape}, the data has {array.shape}"
            )
        floating = array.dtype.kind == "f" and (wanted.kind == "f" or spec.dtype == "bfloat16")
        if array.dtype != wanted and not floating and not np.can_cast(array.dtype, wanted, "safe"):
            raise DataError(
                f"{what}: input {spec.name!r} takes {spec.dtype}, the data has {array.dtype}; convert it"
            )
        fitted[spec.name] = np.ascontiguousarray(array.astype(wanted, copy=False))
    return fitted


def random_samples(inputs: Sequence[TensorSpec], count: int, *, seed: int = 0) -> dict[str, Array]:
    """Make samples: normal for floating types, 0 and 1 for others, always the same.

    Args:
        inputs: The inputs, with the batch as their first dimension.
        count: Samples.
        seed: Another gives others.
    """
    shapes = {
        spec.name: (count, *(size if isinstance(size, int) else _FREE_SIZE for size in spec.shape[1:]))
        for spec in inputs
    }
    return random_feeds(tuple(inputs), batch=count, free=_FREE_SIZE, seed=seed, shapes=shapes)


def repeated(given: Arrays, count: int, seed: int) -> dict[str, Array]:
    """Return `count` samples made of fewer; each repeat is changed a little, since equal ones hide a mix-up.

    Floats get noise of a twentieth of their spread; integers, such as tokens, are rolled on their last axis.
    """
    rng = np.random.default_rng(seed)
    length = len(next(iter(given.values())))
    picked = np.arange(count) % length
    inputs = {}
    for name, array in given.items():
        rows = array[picked].copy()
        for position in range(length, count):
            row = rows[position]
            if is_floating(row.dtype):
                spread = float(np.std(row.astype(np.float64))) or float(np.abs(row).max(initial=0.0)) or 1.0
                noise = 0.05 * spread * rng.standard_normal(row.shape)
                rows[position] = (row.astype(np.float64) + noise).astype(row.dtype)
            elif row.ndim:
                rows[position] = np.roll(row, position // length, axis=-1)
        inputs[name] = rows
    return inputs


def as_served(specs: Sequence[TensorSpec], arrays: Arrays) -> dict[str, Array]:
    """Return arrays in the served shapes: one scalar per sample travels as one element."""
    ranks = {spec.name: len(spec.shape) for spec in specs}
    return {
        name: array[..., None] if ranks[name] == array.ndim + 1 else array for name, array in arrays.items()
    }
