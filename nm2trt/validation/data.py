"""Samples, batch by batch: from arrays, an `.npz` that is never held whole, or a calibration recipe.

What belongs to a sample beside the inputs is its truth: `labels`, arrays whose names begin with `label`, and
`image_ids`. Memory does not grow with the number of samples; an array in Fortran order is the exception.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from nm2trt.backends.protocol import TensorSpec
from nm2trt.errors import DataError
from nm2trt.files import check_input

__all__ = ["ArraySamples", "Batch", "NpzSamples", "RecipeSamples", "Samples", "is_truth", "open_samples"]

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

_UNSOUND = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class Batch:
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

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield all samples, `size` at a time; the last batch may be smaller.

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
        DataError: There is no input or no sample, or the lengths differ.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        shapes = {name: array.shape for name, array in arrays.items()}
        dtypes = {name: array.dtype for name, array in arrays.items()}
        self._length = _checked_length(shapes, dtypes)
        self.inputs = tuple(_spec(name, dtypes[name], shapes[name]) for name in arrays if not is_truth(name))
        self.truth = tuple(name for name in arrays if is_truth(name))

    def __len__(self) -> int:
        return self._length

    def batches(self, size: int) -> Iterator[Batch]:
        """See `Samples.batches`."""
        for start in range(0, self._length, size):
            yield _batch(start, {name: array[start : start + size] for name, array in self._arrays.items()})


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
        try:
            if _is_npy(self._path):
                raise DataError("holds a single array; save inputs and labels with numpy.savez")
            with zipfile.ZipFile(self._path) as archive:
                self._headers = dict(_read_header(archive, member) for member in archive.namelist())
        except _UNSOUND as error:
            raise self._unsound(error) from error
        try:
            shapes = {name: header.shape for name, header in self._headers.items()}
            dtypes = {name: header.dtype for name, header in self._headers.items()}
            self._length = _checked_length(shapes, dtypes)
        except DataError as error:
            raise DataError(f"{self._path}: {error}") from error
        self.inputs = tuple(
            _spec(name, header.dtype, header.shape)
            for name, header in self._headers.items()
            if not is_truth(name)
        )
        self.truth = tuple(name for name in self._headers if is_truth(name))

    def __len__(self) -> int:
        return self._length

    def batches(self, size: int) -> Iterator[Batch]:
        """See `Samples.batches`."""
        with contextlib.ExitStack() as stack:
            try:
                archive = stack.enter_context(zipfile.ZipFile(self._path))
                columns = {
                    name: _Column(stack.enter_context(archive.open(header.member)), header)
                    for name, header in self._headers.items()
                }
            except _UNSOUND as error:
                raise self._unsound(error) from error
            for start in range(0, self._length, size):
                count = min(size, self._length - start)
                try:
                    arrays = {name: column.take(start, count) for name, column in columns.items()}
                except _UNSOUND as error:
                    raise self._unsound(error) from error
                yield _batch(start, arrays)

    def _unsound(self, error: Exception) -> DataError:
        if isinstance(error, DataError):
            return DataError(f"{self._path} {error}")
        return DataError(f"{self._path} is not a sound .npz file; write it with numpy.savez")


@dataclass(frozen=True, slots=True)
class _Header:
    member: str
    dtype: np.dtype[Any]
    fortran: bool
    shape: tuple[int, ...]


class _Column:
    """One array of the archive, read front to back."""

    def __init__(self, stream: IO[bytes], header: _Header) -> None:
        self._stream, self._header = stream, header
        self._whole = npy.read_array(stream, allow_pickle=False) if header.fortran else None
        if self._whole is None:
            _skip_header(stream)

    def take(self, start: int, count: int) -> Array:
        if self._whole is not None:
            return self._whole[start : start + count]
        header = self._header
        shape = (count, *header.shape[1:])
        wanted = header.dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        data = self._stream.read(wanted)
        if len(data) != wanted:
            raise EOFError
        array = np.frombuffer(data, dtype=header.dtype).reshape(shape)
        return array.astype(header.dtype.newbyteorder("="), copy=False)


class RecipeSamples:
    """The samples of a calibration recipe, prepared as they are needed; a `Samples`.

    Args:
        path: The YAML file.
        data_root: Folder that its paths are relative to and may not leave; its own by default.
        allow_functions: Run a source of kind `function`.

    Raises:
        InputError: The recipe or its source is missing or wrong.
        DataError: The samples are too few, or have another hash than the recipe says.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        data_root: str | os.PathLike[str] | None = None,
        allow_functions: bool = False,
    ) -> None:
        from nm2trt.calibration.recipe import open_recipe

        self._opened = open_recipe(path, data_root=data_root, allow_functions=allow_functions)
        first = self._opened.read(0, 1)
        self.inputs = tuple(_spec(name, array.dtype, array.shape) for name, array in first.items())
        self.truth = () if self._opened.labels(0, 1) is None else ("labels",)
        if self._opened.recipe.sha256 is not None:
            self._opened.check_hash(self._sha256())

    def __len__(self) -> int:
        return len(self._opened)

    def batches(self, size: int) -> Iterator[Batch]:
        """See `Samples.batches`."""
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            arrays = self._opened.read(start, stop)
            labels = self._opened.labels(start, stop)
            yield _batch(start, arrays if labels is None else {**arrays, "labels": labels})

    def _sha256(self) -> str:
        """Return the hash that `SampleSet` has, one input after another, a batch at a time."""
        digest = hashlib.sha256()
        for spec in sorted(self.inputs, key=lambda spec: spec.name):
            for batch in self.batches(self._opened.recipe.batch):
                array = batch.inputs[spec.name]
                if batch.start == 0:
                    shape = (len(self), *array.shape[1:])
                    digest.update(f"{spec.name} {array.dtype.str} {shape}\n".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def open_samples(
    path: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
) -> Samples:
    """Open samples by what the file is: a recipe (`.yaml`), Polygraphy's inputs (`.json`), or an `.npz`.

    Args:
        path: The file.
        data_root: Folder of a recipe's paths; its own by default.
        allow_functions: Run a recipe's source of kind `function`.

    Raises:
        InputError: The file is missing or wrong.
        DataError: Its samples do not fit together.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".yaml", ".yml"):
        return RecipeSamples(path, data_root=data_root, allow_functions=allow_functions)
    if suffix == ".json":
        from nm2trt.validation.polygraphy_json import load_inputs

        return ArraySamples(load_inputs(path))
    return NpzSamples(path)


def _spec(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(name, dtype.name, ("n", *shape[1:]))


def _batch(start: int, arrays: Arrays) -> Batch:
    inputs = {name: array for name, array in arrays.items() if not is_truth(name)}
    for name, array in inputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(
                f"input {name!r} holds NaN or infinity in samples {start} to {start + len(array) - 1}"
            )
    return Batch(start, inputs, {name: array for name, array in arrays.items() if is_truth(name)})


def _checked_length(shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, np.dtype[Any]]) -> int:
    """Return how many samples there are."""
    inputs = [name for name in shapes if not is_truth(name)]
    if not inputs:
        held = sorted(shapes) or "no array"
        raise DataError(f"the data has {held} but no input; add each input under its name in the model")
    for name in inputs:
        if dtypes[name].kind not in "biuf":
            raise DataError(f"input {name!r} has dtype {dtypes[name]}, which is no number")
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


def _is_npy(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX


def _read_header(archive: zipfile.ZipFile, member: str) -> tuple[str, _Header]:
    with archive.open(member) as stream:
        shape, fortran, dtype = _skip_header(stream)
    name = member.removesuffix(".npy")
    if dtype.hasobject:
        raise DataError("holds Python objects, which are not read; save plain arrays")
    if dtype.kind not in "biufU":
        raise DataError(f"holds {name!r} of dtype {dtype}; save plain arrays of numbers or text")
    return name, _Header(member, dtype, fortran, shape)


def _skip_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read an array's header, and leave the stream where its values begin."""
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    shape, fortran, dtype = readers[npy.read_magic(stream)](stream)
    return shape, fortran, dtype
