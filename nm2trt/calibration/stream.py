"""Calibration samples read batch by batch, so that memory does not grow with their number.

They come from a recipe, or from an `.npz` that holds one array an input. Every batch is held to what the
model takes before it runs.
"""

from __future__ import annotations

import hashlib
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from nm2trt.backends.batch_axes import as_feed, fixed_batch, sample_first, sample_shapes
from nm2trt.backends.protocol import TensorSpec, numpy_dtype
from nm2trt.calibration.array_files import read_archive, require_affordable, skip_header
from nm2trt.calibration.unsound import UNSOUND_ARCHIVE
from nm2trt.errors import BackendMissingError, DataError
from nm2trt.extras import install
from nm2trt.files import check_input

__all__ = ["LABELS", "SampleHash", "SampleStream", "fitted", "open_samples"]

Array = npt.NDArray[Any]
Batch = dict[str, Array]
LABELS = frozenset({"label", "labels"})
# Few, since what a network computes on the way is many times as large as its input.
_BATCH = 4


@dataclass(frozen=True, slots=True)
class SampleStream:
    """Samples that can be read from the start any number of times.

    Args:
        source: Where they are from, in one line.
        count: How many there are.
        batch: Samples of a batch.
        read: Returns batches of a given size by input name, in order; the last may be smaller.
    """

    source: str
    count: int
    batch: int
    read: Callable[[int], Iterator[Batch]]

    def __post_init__(self) -> None:
        if self.count < 1:
            raise DataError(f"{self.source} holds no sample")


class SampleHash:
    """Takes samples as they pass: names, dtypes, shapes and values, whatever the size of the batches."""

    def __init__(self) -> None:
        self._digests: dict[str, Any] = {}

    def update(self, batch: Mapping[str, Array]) -> None:
        """Add a batch."""
        for name, array in batch.items():
            head = f"{name} {array.dtype.str} {array.shape[1:]}\n".encode()
            self._digests.setdefault(name, hashlib.sha256(head)).update(np.ascontiguousarray(array).data)

    def copy(self) -> SampleHash:
        """Return one that goes on from here on its own."""
        other = SampleHash()
        other._digests = {name: digest.copy() for name, digest in self._digests.items()}
        return other

    def hexdigest(self) -> str:
        """Return the hash of what passed so far as 64 hexadecimal digits."""
        parts = [self._digests[name].hexdigest() for name in sorted(self._digests)]
        return hashlib.sha256("".join(parts).encode()).hexdigest()


def open_samples(
    path: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
    inputs: Sequence[TensorSpec] = (),
) -> SampleStream:
    """Open an `.npz` of arrays by input name, or a calibration recipe.

    Args:
        path: The file; what ends in `.npz` is one, anything else is read as a recipe. Labels are left out.
        data_root: Folder that a recipe's paths are relative to; its own by default.
        allow_functions: Run a recipe's `function` source, which is code.
        inputs: What the model takes: arrays of an `.npz` may then have the batch on another axis, or be one
            value for all samples.

    Raises:
        InputError: The file, or one that the recipe names, is missing or wrong.
        DataError: It holds no sample, or the arrays do not fit together.
        BackendMissingError: A recipe is given, and what reads it is not installed.
    """
    path = Path(path)
    if path.suffix.lower() == ".npz":
        return _open_npz(path, inputs)
    try:
        from nm2trt.calibration.recipe import load_recipe, open_recipe, read_recipe
    except ImportError as error:
        raise BackendMissingError(f"{error.name} is not installed: {install('recipes')}") from error
    if read_recipe(path).sha256 is not None:
        # Its hash is over all samples at once.
        whole = load_recipe(path, data_root=data_root, allow_functions=allow_functions)
        arrays = whole.arrays
        return SampleStream(
            str(path),
            len(whole),
            min(whole.batch, _BATCH),
            lambda size: (
                {name: array[start : start + size] for name, array in arrays.items()}
                for start in range(0, len(whole), size)
            ),
        )
    opened = open_recipe(path, data_root=data_root, allow_functions=allow_functions)

    def read(size: int) -> Iterator[Batch]:
        for start in range(0, len(opened), size):
            yield opened.read(start, min(start + size, len(opened)))

    return SampleStream(str(path), len(opened), min(opened.recipe.batch, _BATCH), read)


@dataclass(frozen=True, slots=True)
class _Member:
    """One array of an `.npz`: where its numbers begin, and what they are."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def _open_npz(path: Path, inputs: Sequence[TensorSpec]) -> SampleStream:
    check_input(path, "an .npz")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [_head(archive, name, path) for name in archive.namelist() if name.endswith(".npy")]
    except DataError:
        raise
    except UNSOUND_ARCHIVE as error:
        raise DataError(f"{path} is no sound .npz of plain arrays") from error
    members = [member for member in members if member.name not in LABELS]
    if not members:
        raise DataError(f"{path} holds no array; give one for each input, under its name")
    if {spec.name for spec in inputs} == {member.name for member in members}:
        arranged = _arranged(path, members, inputs)
        if arranged is not None:
            return arranged
    lengths = {member.name: member.shape[0] if member.shape else -1 for member in members}
    missing = [spec.name for spec in inputs if spec.name not in lengths]
    if missing:
        names = [spec.name for spec in inputs]
        raise DataError(
            f"{path} has no array {missing[0]!r}; the model's inputs are {names}, the samples have "
            f"{sorted(lengths)}"
        )
    if len(set(lengths.values())) != 1 or -1 in lengths.values():
        shapes = {member.name: member.shape for member in members}
        raise DataError(f"{path}: the arrays {shapes} do not have one sample each on their first dimension")
    return SampleStream(str(path), members[0].shape[0], _BATCH, lambda size: _read_npz(path, members, size))


def _arranged(path: Path, members: Sequence[_Member], inputs: Sequence[TensorSpec]) -> SampleStream | None:
    """Return samples in memory, first in each array; None if every array has them first in the file."""
    shapes = {member.name: np.broadcast_to(np.int8(0), member.shape) for member in members}
    if sample_first(inputs, shapes) is None:
        return None
    try:
        read = read_archive(path, [member.name for member in members])
        arrays = sample_first(inputs, read if isinstance(read, dict) else {}) or {}
    except UNSOUND_ARCHIVE as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged: an array in it ends early") from error
    count = len(next(iter(arrays.values())))
    return SampleStream(
        str(path),
        count,
        _BATCH,
        lambda size: (
            {name: array[start : start + size] for name, array in arrays.items()}
            for start in range(0, count, size)
        ),
    )


def _head(archive: zipfile.ZipFile, name: str, path: Path) -> _Member:
    with archive.open(name) as file:
        shape, fortran, dtype = skip_header(file)
    if dtype.hasobject or dtype.kind not in "biuf":
        raise DataError(f"{path}: the array {name[:-4]!r} is of dtype {dtype}, which no input takes")
    if fortran and len(shape) > 1:
        raise DataError(f"{path}: the array {name[:-4]!r} is stored column by column; save it in C order")
    return _Member(name[:-4], dtype, shape)


def _read_npz(path: Path, members: Sequence[_Member], size: int) -> Iterator[Batch]:
    """Read all members side by side, stored or compressed, a batch of each at a time."""
    count = members[0].shape[0]
    held = sum(math.prod((min(size, count), *one.shape[1:])) * one.dtype.itemsize for one in members)
    require_affordable(path, held, f"{min(size, count)} samples")
    try:
        with zipfile.ZipFile(path) as archive:
            files = [archive.open(f"{member.name}.npy") for member in members]
            for file in files:
                skip_header(file)
            for start in range(0, count, size):
                length = min(size, count - start)
                yield {
                    member.name: _numbers(file, member, length)
                    for member, file in zip(members, files, strict=True)
                }
    except UNSOUND_ARCHIVE as error:
        raise DataError(f"{path} is damaged: an array in it ends early") from error


def _numbers(file: IO[bytes], member: _Member, length: int) -> Array:
    shape = (length, *member.shape[1:])
    array = np.empty(shape, member.dtype)
    data = file.read(array.nbytes)
    if len(data) != array.nbytes:
        raise EOFError
    return np.frombuffer(data, member.dtype).reshape(shape)


def fitted(batch: Mapping[str, Array], inputs: Sequence[TensorSpec], source: str) -> Batch:
    """Return a batch as a model takes it; floats are converted to its type of float.

    Raises:
        DataError: An input is missing or unknown, or its shape, dtype or values do not fit.
    """
    names = [spec.name for spec in inputs]
    if set(batch) != set(names):
        raise DataError(f"{source}: the model's inputs are {names}, the samples have {sorted(batch)}")
    return {spec.name: _fit_one(batch[spec.name], spec, source, inputs) for spec in inputs}


def _fit_one(given: Array, spec: TensorSpec, source: str, inputs: Sequence[TensorSpec]) -> Array:
    wanted = numpy_dtype(spec.dtype)
    array = as_feed(spec, given, inputs)
    whole = fixed_batch([spec], sample_shapes({spec.name: given})) if given.ndim == len(spec.shape) else None
    fits = array.ndim == len(spec.shape) and all(
        not isinstance(size, int) or size == have or (size == whole and have == len(given))
        for size, have in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        shape = "x".join(str(size if size is not None else "?") for size in spec.shape)
        raise DataError(f"{source}: input {spec.name!r} takes shape {shape}, the samples have {array.shape}")
    both_float = array.dtype.kind == "f" and wanted.kind not in "biu"
    if array.dtype != wanted and not (both_float or np.can_cast(array.dtype, wanted, "safe")):
        raise DataError(f"{source}: input {spec.name!r} takes {spec.dtype}, the samples have {array.dtype}")
    if array.dtype.kind in "iub" and wanted.kind not in "iub":
        raise DataError(
            f"{source}: input {spec.name!r} takes {spec.dtype}, the samples have {array.dtype}; prepare them "
            "as for inference"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{source}: input {spec.name!r} holds NaN or infinity")
    return np.asarray(array, wanted, order="C")  # ascontiguousarray gives a scalar an axis
