"""Samples in an `.npz`, read from the archive a batch at a time.

Memory does not grow with the number of samples; an array in Fortran order, whose samples do not lie one
behind the other, is the exception.
"""

from __future__ import annotations

import contextlib
import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from nm2trt.backends.batch_axes import sample_first
from nm2trt.backends.protocol import TensorSpec
from nm2trt.calibration.array_files import read_archive, require_affordable, skip_header
from nm2trt.calibration.unsound import UNSOUND_ARCHIVE
from nm2trt.errors import DataError
from nm2trt.files import check_input
from nm2trt.validation.samples.samples import (
    ArraySamples,
    Batch,
    Samples,
    batch_of,
    checked_length,
    is_truth,
    spec_of,
)

__all__ = ["NpzSamples", "open_npz"]

Array = npt.NDArray[Any]

_UNSOUND = UNSOUND_ARCHIVE


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
        self._headers = _read_headers(self._path)
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

    def batches(self, size: int) -> Iterator[Batch]:
        """See `Samples.batches`.

        Raises:
            DataError: A batch takes more memory than samples may, or the file is damaged.
        """
        held = sum(header.held_bytes(min(size, self._length)) for header in self._headers.values())
        require_affordable(self._path, held, f"{min(size, self._length)} samples")
        with contextlib.ExitStack() as stack:
            try:
                archive = stack.enter_context(zipfile.ZipFile(self._path))
                columns = {
                    name: _Column(stack.enter_context(archive.open(header.member)), header)
                    for name, header in self._headers.items()
                }
            except _UNSOUND as error:
                raise _unsound(self._path, error) from error
            for start in range(0, self._length, size):
                count = min(size, self._length - start)
                try:
                    arrays = {name: column.take(start, count) for name, column in columns.items()}
                except _UNSOUND as error:
                    raise _unsound(self._path, error) from error
                yield batch_of(start, arrays)


def open_npz(path: str | os.PathLike[str], inputs: Sequence[TensorSpec]) -> Samples:
    """Open an `.npz`, laid out as a model's inputs are.

    If an array has its samples on another axis than the first, or is one value for all samples, the arrays
    are read into memory; else they are read a batch at a time.

    Args:
        path: The file.
        inputs: Inputs of the model; () if every array has its samples first.

    Raises:
        InputError: The file is missing, empty or may not be read.
        DataError: It is no `.npz`, holds Python objects, or its arrays do not fit together.
    """
    path = check_input(path, "an .npz")
    headers = _read_headers(path)
    try:
        shapes = {n: np.broadcast_to(np.int8(0), h.shape) for n, h in headers.items() if not is_truth(n)}
        missing = [spec.name for spec in inputs if spec.name not in shapes]
        if missing and shapes:
            raise DataError(f"no array is called {missing[0]!r}, as an input is; it holds {sorted(shapes)}")
        if sample_first(inputs, shapes) is None:
            return NpzSamples(path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except ValueError as error:
        raise DataError(
            f"{path} holds an array of a size that no memory has; save the samples again"
        ) from error
    require_affordable(path, sum(header.held_bytes(None) for header in headers.values()))
    try:
        arrays = read_archive(path, list(headers))
    except _UNSOUND as error:
        raise _unsound(path, error) from error
    if isinstance(arrays, np.ndarray):
        raise DataError(f"{path} holds a single array; save inputs and labels with numpy.savez")
    return ArraySamples({**arrays, **(sample_first(inputs, {name: arrays[name] for name in shapes}) or {})})


@dataclass(frozen=True, slots=True)
class _Header:
    member: str
    dtype: np.dtype[Any]
    fortran: bool
    shape: tuple[int, ...]

    def held_bytes(self, count: int | None) -> int:
        """Return the memory for `count` samples; for all if it is None, or they do not lie side by side."""
        whole = count is None or self.fortran
        shape = self.shape if whole else (count or 0, *self.shape[1:])
        return math.prod(shape) * self.dtype.itemsize


class _Column:
    """One array of the archive, read front to back."""

    def __init__(self, stream: IO[bytes], header: _Header) -> None:
        self._stream, self._header = stream, header
        self._whole = npy.read_array(stream, allow_pickle=False) if header.fortran else None
        if self._whole is None:
            skip_header(stream)

    def take(self, start: int, count: int) -> Array:
        if self._whole is not None:
            return self._whole[start : start + count]
        header = self._header
        shape = (count, *header.shape[1:])
        wanted = header.held_bytes(count)
        data = self._stream.read(wanted)
        if len(data) != wanted:
            raise EOFError
        array = np.frombuffer(data, dtype=header.dtype).reshape(shape)
        return array.astype(header.dtype.newbyteorder("="), copy=False)


def _unsound(path: Path, error: Exception) -> DataError:
    if isinstance(error, DataError):
        return DataError(f"{path} {error}")
    return DataError(f"{path} is not a sound .npz file; write it with numpy.savez")


def _read_headers(path: Path) -> dict[str, _Header]:
    try:
        if _is_npy(path):
            raise DataError("holds a single array; save inputs and labels with numpy.savez")
        with zipfile.ZipFile(path) as archive:
            return dict(_read_header(archive, member) for member in archive.namelist())
    except _UNSOUND as error:
        raise _unsound(path, error) from error


def _is_npy(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX


def _read_header(archive: zipfile.ZipFile, member: str) -> tuple[str, _Header]:
    with archive.open(member) as stream:
        shape, fortran, dtype = skip_header(stream)
    name = member.removesuffix(".npy")
    if dtype.hasobject:
        raise DataError("holds Python objects, which are not read; save plain arrays")
    if dtype.kind not in "biufU":
        raise DataError(f"holds {name!r} of dtype {dtype}; save plain arrays of numbers or text")
    return name, _Header(member, dtype, fortran, shape)
