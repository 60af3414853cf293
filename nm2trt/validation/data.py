"""Labelled samples from an `.npz` file, and the batches that a session takes."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nm2trt.backends.protocol import Session, TensorSpec
from nm2trt.errors import DataError
from nm2trt.files import check_input

__all__ = ["LABELS", "Feeds", "LabelledSet", "fit_to", "load_labelled", "predict"]

Array = npt.NDArray[Any]
LABELS = "labels"
_FREE_BATCH = 64


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Samples and what they are.

    Args:
        inputs: Arrays by input name, the samples along axis 0.
        labels: Class index of each sample, shape (n,), an integer dtype.

    Raises:
        DataError: There is no sample, or the arrays' lengths or dtypes do not fit.
    """

    inputs: Mapping[str, Array]
    labels: npt.NDArray[np.integer[Any]]

    def __post_init__(self) -> None:
        if self.labels.ndim != 1 or not np.issubdtype(self.labels.dtype, np.integer):
            raise DataError(
                f"{LABELS!r} has shape {self.labels.shape} and dtype {self.labels.dtype}; "
                "it should be one class index a sample, shape (n,), of an integer dtype"
            )
        if not self.inputs:
            raise DataError(
                f"the data has {LABELS!r} but no input; add each input under its name in the model"
            )
        for name, array in self.inputs.items():
            if array.ndim == 0 or len(array) != len(self.labels):
                raise DataError(
                    f"input {name!r} has shape {array.shape}, but there are {len(self.labels)} labels; "
                    "the first dimension must be the sample"
                )
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise DataError(f"input {name!r} holds NaN or infinity")
        if not len(self.labels):
            raise DataError("the data holds no sample")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Feeds:
    """Samples as one session takes them.

    Args:
        arrays: All samples by input name, in the session's dtypes.
        conversions: Sentences such as "x: float32 -> float16", for the report.
        batch: Batch size to run: the session's own where it is fixed.
        fixed: Whether the session takes that batch size alone.
    """

    arrays: Mapping[str, Array]
    conversions: tuple[str, ...]
    batch: int
    fixed: bool

    def batches(self) -> Iterator[tuple[int, dict[str, Array]]]:
        """Yield (samples that count, feeds); a fixed batch is filled up with its last sample."""
        count = len(next(iter(self.arrays.values())))
        for start in range(0, count, self.batch):
            stop = min(start + self.batch, count)
            picked = np.arange(start, start + self.batch if self.fixed else stop).clip(max=count - 1)
            yield (
                stop - start,
                {name: np.ascontiguousarray(array[picked]) for name, array in self.arrays.items()},
            )


def load_labelled(path: str | os.PathLike[str]) -> LabelledSet:
    """Read inputs by their names and class indices under `labels`.

    Raises:
        InputError: The file is missing, empty or may not be read.
        DataError: It is no `.npz`, holds pickled objects, or its arrays do not fit together.
    """
    path = check_input(path, "a labelled .npz")
    try:
        # Opened here: numpy leaves its own file open when the archive is damaged.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} holds a single array; save inputs and labels with numpy.savez")
            with archive:
                arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        if "pickle" in str(error) and zipfile.is_zipfile(path):
            raise DataError(f"{path} holds Python objects, which are not read; save plain arrays") from error
        raise DataError(f"{path} is not a sound .npz file; write it with numpy.savez") from error
    labels = arrays.pop(LABELS, None)
    if labels is None:
        raise DataError(f"{path} has no array {LABELS!r}; it holds {sorted(arrays)}")
    try:
        return LabelledSet(arrays, labels)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def fit_to(session: Session, data: LabelledSet, *, batch: int | None = None) -> Feeds:
    """Check samples against a session's inputs and convert floating ones to its dtypes.

    Args:
        session: An open session whose inputs all have the batch first.
        data: The samples.
        batch: Batch size where the session leaves it free; 64 by default.

    Raises:
        DataError: Names, shapes or dtypes do not fit, or a value is too large for the session's dtype.
    """
    if batch is not None and batch < 1:
        raise DataError(f"a batch of {batch} cannot be run; give 1 or more")
    names = [spec.name for spec in session.inputs]
    if set(data.inputs) != set(names):
        raise DataError(f"the model's inputs are {names}, the data has {sorted(data.inputs)}")
    fixed = {spec.shape[0] for spec in session.inputs if spec.shape and isinstance(spec.shape[0], int)}
    if any(not spec.shape for spec in session.inputs) or len(fixed) > 1:
        raise DataError("not every input of the model has the batch as its first dimension")
    own = next((size for size in fixed if isinstance(size, int)), None)
    if own is not None and batch is not None and batch != own:
        raise DataError(f"the model's batch is fixed to {own}; it cannot run a batch of {batch}")
    arrays: dict[str, Array] = {}
    conversions = []
    for spec in session.inputs:
        given = data.inputs[spec.name]
        _check_sample_shape(spec, given)
        arrays[spec.name] = _converted(spec, given)
        if given.dtype != arrays[spec.name].dtype:
            conversions.append(f"{spec.name}: {given.dtype} -> {spec.dtype}")
    return Feeds(arrays, tuple(conversions), own or batch or min(_FREE_BATCH, len(data)), own is not None)


def predict(session: Session, feeds: Feeds, *, what: str) -> Iterator[tuple[int, dict[str, Array]]]:
    """Run all batches; yield how many samples each holds and their outputs.

    Args:
        session: The session.
        feeds: What `fit_to` returned for it.
        what: The session's name in messages.

    Raises:
        DataError: An output does not have the batch as its first dimension.
        BackendError: The session fails.
    """
    for count, batch in feeds.batches():
        outputs = session.run(batch)
        size = len(next(iter(batch.values())))
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != size:
                raise DataError(
                    f"output {name!r} of {what} has shape {array.shape} for a batch of {size}; "
                    "its first dimension should be the batch"
                )
        yield count, {name: array[:count] for name, array in outputs.items()}


def _check_sample_shape(spec: TensorSpec, given: Array) -> None:
    fits = given.ndim == len(spec.shape) and all(
        not isinstance(want, int) or want == have
        for want, have in zip(spec.shape[1:], given.shape[1:], strict=True)
    )
    if not fits:
        wanted = "x".join(
            ["n", *("?" if not isinstance(size, int) else str(size) for size in spec.shape[1:])]
        )
        raise DataError(f"input {spec.name!r} takes samples of shape {wanted}, the data has {given.shape}")


def _converted(spec: TensorSpec, given: Array) -> Array:
    wanted = np.dtype(spec.dtype)
    if given.dtype == wanted:
        return given
    both_floating = np.issubdtype(given.dtype, np.floating) and np.issubdtype(wanted, np.floating)
    if not both_floating and not np.can_cast(given.dtype, wanted, "safe"):
        raise DataError(
            f"input {spec.name!r} takes {spec.dtype}, the data has {given.dtype}; convert the data"
        )
    if np.issubdtype(given.dtype, np.integer) and np.issubdtype(wanted, np.floating):
        # Whether 0..255 should become 0..1 only the model's author knows.
        raise DataError(
            f"input {spec.name!r} takes {spec.dtype}, the data has {given.dtype}; scale and convert it"
        )
    with np.errstate(over="ignore"):
        converted = given.astype(wanted)
    if both_floating and not np.isfinite(converted).all():
        raise DataError(f"input {spec.name!r} holds values too large for {spec.dtype}; scale the data")
    return converted
