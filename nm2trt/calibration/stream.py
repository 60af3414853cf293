"""Calibration samples read batch by batch, so that memory does not grow with their number.

They come from a recipe, or from an `.npz` that holds one array per input. Every batch is held to what the
model takes before it runs.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.backends.batch_axes import as_feed, fixed_batch, sample_first, sample_shapes
from nm2trt.backends.feeds import check_names, numpy_dtype
from nm2trt.backends.protocol import TensorSpec
from nm2trt.calibration.npz_file import npz_arrays, npz_batches, npz_headers
from nm2trt.errors import DataError, InputError
from nm2trt.extras import names_the_extra
from nm2trt.files import check_input

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
        between: The same for the samples from one position to another, if those before need not be read:
            called with the size and both positions.
    """

    source: str
    count: int
    batch: int
    read: Callable[[int], Iterator[Batch]]
    between: Callable[[int, int, int], Iterator[Batch]] | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise DataError(f"{self.source} holds no sample")

    def part(self, start: int, stop: int) -> SampleStream:
        """Return the samples from position `start` to `stop` as a stream; both are multiples of `batch`."""
        between = self.between or self._skipping

        def read(size: int) -> Iterator[Batch]:
            return between(size, start, stop)

        return SampleStream(self.source, stop - start, self.batch, read)

    def copies_note(self) -> tuple[str, ...]:
        """Return a sentence if all of several samples are equal; reads up to the first that differs."""
        first: Batch = {}
        for batch in self.read(self.batch):
            first = first or {name: array[:1] for name, array in batch.items()}
            if self.count == 1 or any((array != first[name]).any() for name, array in batch.items()):
                return ()
        told = f"{self.source}: all {self.count} samples are equal and show no more than one would"
        return (f"{told}, not even held-out ones; give different samples",)

    def _skipping(self, size: int, start: int, stop: int) -> Iterator[Batch]:
        """Read all samples up to `stop`, and yield those from `start` on."""
        at, size = 0, math.gcd(size, start) or size
        for batch in self.read(size):
            if at >= start:
                yield {name: array[: stop - at] for name, array in batch.items()}
            at += length_of(batch)
            if at >= stop:
                return


def length_of(batch: Arrays) -> int:
    """Return how many samples a batch holds."""
    return len(next(iter(batch.values())))


def filled(batch: Arrays, size: int, start: int = 0) -> Batch:
    """Return `size` samples of a batch from `start` on; those that it lacks repeat its last sample."""
    at = np.arange(start, start + size).clip(max=length_of(batch) - 1)
    return {name: array[at] for name, array in batch.items()}


class SampleHash:
    """Takes samples as they pass: names, dtypes, shapes and values, whatever the size of the batches."""

    def __init__(self) -> None:
        self._digests: dict[str, Any] = {}

    def update(self, batch: Arrays) -> None:
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


def open_sample_stream(
    path: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
    inputs: Sequence[TensorSpec] = (),
) -> SampleStream:
    """Open an `.npz` of arrays by input name, or a calibration recipe.

    Args:
        path: The file; what ends in `.npz` is one, and a recipe ends in `.yaml`, `.yml` or nothing. Labels
            are left out.
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
    _refuse_others(path)
    with names_the_extra():
        from nm2trt.calibration.recipe import load_recipe, open_recipe, read_recipe
    if read_recipe(path).sha256 is not None:
        # Its hash is over all samples at once.
        whole = load_recipe(path, data_root=data_root, allow_functions=allow_functions)
        return _in_memory(path, whole.arrays, whole.batch)
    opened = open_recipe(path, data_root=data_root, allow_functions=allow_functions)
    return _sliced(path, len(opened), opened.recipe.batch, opened.read)


def _refuse_others(path: Path) -> None:
    """Raise if what should be samples is neither an .npz nor, by its name, a recipe."""
    if path.is_dir():
        raise InputError(
            f"{path} is a folder; give an .npz of arrays by input name, or a recipe (.yaml) that reads "
            "the folder"
        )
    if path.suffix.lower() not in ("", ".yaml", ".yml"):
        raise InputError(
            f"{path} is neither an .npz nor a recipe (.yaml); save the samples by the names of the model's "
            "inputs, as in numpy.savez('inputs.npz', x=array)"
        )


def _open_npz(path: Path, inputs: Sequence[TensorSpec]) -> SampleStream:
    headers = {
        name: header
        for name, header in npz_headers(check_input(path, "an .npz")).items()
        if name not in LABELS
    }
    if not headers:
        raise DataError(f"{path} holds no array; give one for each input, under its name")
    for name, header in headers.items():
        if header.dtype.kind == "U":
            raise DataError(f"{path}: the array {name!r} is of dtype {header.dtype}, which no input takes")
    if {spec.name for spec in inputs} == set(headers):
        shapes = {name: np.broadcast_to(np.int8(0), header.shape) for name, header in headers.items()}
        if sample_first(inputs, shapes) is not None:
            return _in_memory(path, sample_first(inputs, npz_arrays(path, list(headers))) or {})
    if any(spec.name not in headers for spec in inputs):
        check_names(f"{path}: the model", inputs, headers)
    lengths = {header.shape[0] if header.shape else -1 for header in headers.values()}
    if len(lengths) != 1 or -1 in lengths:
        held = {name: header.shape for name, header in headers.items()}
        raise DataError(f"{path}: the arrays {held} do not have one sample each on their first dimension")
    return SampleStream(
        str(path),
        lengths.pop(),
        _BATCH,
        lambda size: (arrays for _, arrays in npz_batches(path, headers, size)),
    )


def _in_memory(source: Path, arrays: Arrays, batch: int = _BATCH) -> SampleStream:
    def read(start: int, stop: int) -> Batch:
        return {name: array[start:stop] for name, array in arrays.items()}

    return _sliced(source, length_of(arrays), batch, read)


def _sliced(source: Path, count: int, batch: int, read: Callable[[int, int], Batch]) -> SampleStream:
    """Return a stream of samples that can be read from any position to any other."""

    def between(size: int, start: int, stop: int) -> Iterator[Batch]:
        for first in range(start, stop, size):
            yield read(first, min(first + size, stop))

    return SampleStream(str(source), count, min(batch, _BATCH), lambda size: between(size, 0, count), between)


def fitted(batch: Arrays, inputs: Sequence[TensorSpec], source: str) -> Batch:
    """Return a batch as a model takes it; floats are converted to its type of float.

    Raises:
        DataError: An input is missing or unknown, or its shape, dtype or values do not fit.
    """
    check_names(f"{source}: the model", inputs, batch)
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
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise DataError(f"{source}: input {spec.name!r} holds NaN")
    return np.asarray(array, wanted, order="C")  # ascontiguousarray gives a scalar an axis
