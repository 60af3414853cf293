"""An `.npz` of samples: the headers of its arrays, and their values one batch at a time.

Memory does not grow with the number of samples; an array in Fortran order, whose samples do not lie one
after the other, is the exception.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from nm2trt.arrays import Array
from nm2trt.calibration.array_files import (
    archive_members,
    member_header,
    read_archive,
    require_affordable,
    skip_header,
    sound_archive,
)
from nm2trt.errors import DataError

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class NpzArray:
    """One array of an archive, without its values.

    Args:
        member: Its name in the archive.
        dtype: Its dtype.
        fortran: Whether it is stored in Fortran order.
        shape: Its shape, the samples along axis 0.
    """

    member: str
    dtype: np.dtype[Any]
    fortran: bool
    shape: tuple[int, ...]

    def held_bytes(self, count: int | None) -> int:
        """Return the memory for `count` samples; for all if it is None, or they do not lie side by side."""
        whole = count is None or self.fortran
        shape = self.shape if whole else (count or 0, *self.shape[1:])
        return math.prod(shape) * self.dtype.itemsize


def npz_headers(path: Path) -> dict[str, NpzArray]:
    """Return the arrays of an archive by name.

    Raises:
        DataError: It is no `.npz`, holds something other than numbers and text, or two arrays of one name.
    """
    with sound_archive(path):
        with path.open("rb") as file:
            if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                raise DataError(f"{path} holds a single array; save inputs and labels with numpy.savez")
        found = {}
        with zipfile.ZipFile(path) as archive:
            for name, member in archive_members(archive).items():
                shape, fortran, dtype = member_header(archive, member)
                if dtype.hasobject:
                    raise DataError(f"{path} holds Python objects, which are not read; save plain arrays")
                if dtype.kind not in "biufU":
                    raise DataError(f"{path} holds {name!r} of dtype {dtype}; save plain arrays of numbers")
                found[name] = NpzArray(member, dtype, fortran, shape)
        return found


def npz_batches(
    path: Path, headers: Mapping[str, NpzArray], size: int
) -> Iterator[tuple[int, dict[str, Array]]]:
    """Yield the position of a batch's first sample and its arrays, all members side by side.

    Args:
        path: The file.
        headers: The arrays to read; all have the same number of samples.
        size: Samples of a batch; the last may be smaller.

    Raises:
        DataError: A batch takes more memory than samples may, or the file is damaged.
    """
    length = next(iter(headers.values())).shape[0]
    held = sum(header.held_bytes(min(size, length)) for header in headers.values())
    require_affordable(path, held, f"{min(size, length)} samples")
    with contextlib.ExitStack() as stack:
        with sound_archive(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            columns = {
                name: _Column(stack.enter_context(archive.open(header.member)), header)
                for name, header in headers.items()
            }
        for start in range(0, length, size):
            count = min(size, length - start)
            with sound_archive(path):
                arrays = {name: column.take(start, count) for name, column in columns.items()}
            yield start, arrays


def npz_arrays(path: Path, names: Sequence[str]) -> dict[str, Array]:
    """Read whole arrays of an archive.

    Raises:
        DataError: They take more memory than samples may, or the file is damaged.
    """
    found = read_archive(path, names)
    return found if isinstance(found, dict) else {}


class _Column:
    """One array of the archive, read front to back."""

    def __init__(self, stream: IO[bytes], header: NpzArray) -> None:
        self._stream, self._header = stream, header
        self._whole = npy.read_array(stream, allow_pickle=False) if header.fortran else None
        if self._whole is None:
            skip_header(stream)

    def take(self, start: int, count: int) -> Array:
        if self._whole is not None:
            return self._whole[start : start + count]
        header = self._header
        data = np.empty(header.held_bytes(count), np.uint8)
        # A large `read` holds what it has twice while it grows.
        for at in range(0, len(data), _CHUNK_BYTES):
            piece = self._stream.read(min(_CHUNK_BYTES, len(data) - at))
            if at + len(piece) < min(at + _CHUNK_BYTES, len(data)):
                raise EOFError
            data[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
        array = np.frombuffer(data, dtype=header.dtype).reshape(count, *header.shape[1:])
        return array.astype(header.dtype.newbyteorder("="), copy=False)
