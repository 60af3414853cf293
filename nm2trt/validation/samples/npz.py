"""Samples in an `.npz`: read from the archive one batch at a time, or arranged as a model's inputs are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from nm2trt.backends.batch_axes import sample_first
from nm2trt.backends.protocol import TensorSpec
from nm2trt.calibration.array_files import require_affordable
from nm2trt.calibration.npz_file import npz_arrays, npz_batches, npz_headers
from nm2trt.errors import DataError
from nm2trt.files import check_input
from nm2trt.validation.samples.samples import (
    ArraySamples,
    SampleBatch,
    Samples,
    batch_of,
    checked_length,
    is_truth,
    spec_of,
)


class NpzSamples:
    """Samples in an `.npz`, read from the archive as they are needed; a `Samples`.

    Args:
        path: The file.

    Raises:
        InputError: The file is missing, empty or may not be read.
        DataError: It is no `.npz`, holds Python objects, or its arrays do not fit together.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = check_input(path, "an .npz")
        self._headers = npz_headers(self._path)
        try:
            shapes = {name: header.shape for name, header in self._headers.items()}
            dtypes = {name: header.dtype for name, header in self._headers.items()}
            self._length = checked_length(shapes, dtypes)
        except DataError as error:
            raise DataError(f"{self._path}: {error}") from error
        self.inputs = tuple(
            spec_of(name, header.dtype, header.shape)
            for name, header in self._headers.items()
            if not is_truth(name)
        )
        self.truth = tuple(name for name in self._headers if is_truth(name))

    def __len__(self) -> int:
        return self._length

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[SampleBatch]:
        """See `Samples.batches`.

        Raises:
            DataError: A batch takes more memory than samples may, or the file is damaged.
        """
        last = self._length if stop is None else stop
        # An archive is read from its first sample on.
        for at, arrays in npz_batches(self._path, self._headers, size):
            if at >= last:
                return
            if at >= start:
                yield batch_of(at, {name: array[: last - at] for name, array in arrays.items()})


def open_npz(path: str | os.PathLike[str], inputs: Sequence[TensorSpec]) -> Samples:
    """Open an `.npz`, laid out as a model's inputs are.

    If an array has its samples on another axis than the first, or is one value for all samples, the arrays
    are read into memory; else they are read one batch at a time.

    Args:
        path: The file.
        inputs: Inputs of the model; () if every array has its samples first.

    Raises:
        InputError: The file is missing, empty or may not be read.
        DataError: It is no `.npz`, holds Python objects, or its arrays do not fit together.
    """
    path = check_input(path, "an .npz")
    headers = npz_headers(path)
    try:
        shapes = {n: np.broadcast_to(np.int8(0), h.shape) for n, h in headers.items() if not is_truth(n)}
        missing = [spec.name for spec in inputs if spec.name not in shapes]
        if missing and shapes:
            raise DataError(f"there is no array for input {missing[0]!r}; the file holds {sorted(shapes)}")
        whole = sample_first(inputs, shapes) is None
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if whole:
        return NpzSamples(path)
    require_affordable(path, sum(header.held_bytes(None) for header in headers.values()))
    arrays = npz_arrays(path, list(headers))
    return ArraySamples({**arrays, **(sample_first(inputs, {name: arrays[name] for name in shapes}) or {})})
