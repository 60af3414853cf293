"""Samples: inputs and what is known of them, given one batch at a time.

What belongs to a sample beside the inputs is its truth: `labels`, arrays whose names begin with `label`, and
`image_ids`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nm2trt.arrays import Arrays
from nm2trt.backends.protocol import TensorSpec
from nm2trt.errors import DataError


@dataclass(frozen=True, slots=True)
class SampleBatch:
    """Some samples that follow one another.

    Args:
        start: Position of the first.
        inputs: By input name, samples along axis 0.
        truth: What is known of them, by name.
    """

    start: int
    inputs: Arrays
    truth: Arrays

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


class Samples(Protocol):
    """Samples that can be read again and again, in order."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Name, dtype and shape of each input; the first dimension is free."""

    @property
    def truth(self) -> tuple[str, ...]:
        """Names of what is known of each sample."""

    def __len__(self) -> int: ...

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[SampleBatch]:
        """Yield the samples from `start`, a multiple of `size`, up to `stop`; the last batch may be smaller.

        Raises:
            DataError: A value is NaN or infinite, or the file is damaged.
        """


def is_truth(name: str) -> bool:
    """Tell what is known of samples from what a model is fed, by the array's name."""
    return name.startswith("label") or name == "image_ids"


class ArraySamples:
    """Samples in memory; a `Samples`.

    Args:
        arrays: Inputs and truth by name, the samples along axis 0.

    Raises:
        DataError: Inputs or samples are missing, or the lengths differ.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        shapes = {name: array.shape for name, array in arrays.items()}
        dtypes = {name: array.dtype for name, array in arrays.items()}
        self._length = checked_length(shapes, dtypes)
        self.inputs = tuple(
            spec_of(name, dtypes[name], shapes[name]) for name in arrays if not is_truth(name)
        )
        self.truth = tuple(name for name in arrays if is_truth(name))

    def __len__(self) -> int:
        return self._length

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[SampleBatch]:
        """See `Samples.batches`."""
        last = self._length if stop is None else stop
        for at in range(start, last, size):
            after = min(at + size, last)
            yield batch_of(at, {name: array[at:after] for name, array in self._arrays.items()})


def spec_of(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> TensorSpec:
    """Return what an input's array says of it; its first dimension is the sample."""
    return TensorSpec(name, dtype.name, ("n", *shape[1:]))


def batch_of(start: int, arrays: Arrays) -> SampleBatch:
    """Return a batch of inputs and truth.

    Raises:
        DataError: A floating input holds NaN; infinity is a value of masks.
    """
    inputs = {name: array for name, array in arrays.items() if not is_truth(name)}
    for name, array in inputs.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise DataError(f"input {name!r} holds NaN in samples {start} to {start + len(array) - 1}")
    return SampleBatch(start, inputs, {name: array for name, array in arrays.items() if is_truth(name)})


def checked_length(shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, np.dtype[Any]]) -> int:
    """Return how many samples there are, from the arrays' shapes and dtypes by name.

    Raises:
        DataError: Inputs or samples are missing, an input does not hold numbers, or lengths differ.
    """
    inputs = [name for name in shapes if not is_truth(name)]
    if not inputs:
        held = f"{sorted(shapes)} but no input" if shapes else "no array"
        raise DataError(f"the data has {held}; add each input under its name in the model")
    for name in inputs:
        if dtypes[name].kind not in "biuf":
            raise DataError(f"input {name!r} has dtype {dtypes[name]}; inputs must be numbers")
    lengths = {name: shape[0] if shape else -1 for name, shape in shapes.items()}
    length = lengths[inputs[0]]
    for name, other in lengths.items():
        if other != length or other < 0:
            raise DataError(
                f"{name!r} has shape {shapes[name]}, but input {inputs[0]!r} has {shapes[inputs[0]]}; "
                "the first dimension of each must be the sample"
            )
    if not length:
        raise DataError("the data holds no sample")
    return length
