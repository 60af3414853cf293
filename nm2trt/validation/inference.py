"""One run of one session on what a file holds, or on random inputs, and what came out."""

from __future__ import annotations

import os
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from nm2trt.arrays import Array, Arrays
from nm2trt.backends.batch_axes import sample_first
from nm2trt.backends.feeds import check_feeds
from nm2trt.backends.protocol import Session
from nm2trt.calibration.array_files import read_archive
from nm2trt.errors import DataError
from nm2trt.files import atomic_path, check_input
from nm2trt.tables.result import Result
from nm2trt.tables.table import Column, Row, Table
from nm2trt.validation.samples.feeder import Feeder, common_batch, require_numbers
from nm2trt.validation.samples.open_samples import open_samples
from nm2trt.validation.samples.samples import ArraySamples, is_truth


@dataclass(frozen=True, slots=True)
class TensorSummary:
    """One output.

    Args:
        name: Its name.
        dtype: Its element type.
        shape: Its shape.
        low: Smallest finite value; None if there is none.
        high: Largest finite value.
        mean: Mean of the finite values.
        not_finite: Values that are NaN or infinite.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    low: float | None
    high: float | None
    mean: float | None
    not_finite: int


@dataclass(frozen=True, slots=True, repr=False)
class InferResult(Result):
    """What one artefact gave.

    Args:
        artefact: What was run.
        source: Where the inputs are from.
        output: The file that was written.
        tensors: One per output.
        conversions: What was converted to feed it.
        milliseconds: Time from inputs to outputs, the first run's warming included.
    """

    artefact: str
    source: str
    output: Path
    tensors: tuple[TensorSummary, ...]
    conversions: tuple[str, ...]
    milliseconds: float

    def tables(self) -> tuple[Table, ...]:
        """Return each output's type, shape and range."""
        headers = ("output", "dtype", "shape", "min", "max", "mean", "NaN or inf")
        columns = (Column(headers[0], "name"), *(Column(header) for header in headers[1:]))
        rows = (
            Row(
                (
                    tensor.name,
                    tensor.dtype,
                    "x".join(map(str, tensor.shape)),
                    *map(_figure, (tensor.low, tensor.high, tensor.mean)),
                    str(tensor.not_finite or "-"),
                ),
                "bad" if tensor.not_finite else "",
            )
            for tensor in self.tensors
        )
        return (Table(columns, tuple(rows), noun="outputs"),)

    def remarks(self) -> tuple[str, ...]:
        """Return what was converted, and where the outputs are."""
        converted = (f"converted: {sentence}" for sentence in self.conversions)
        return (*converted, f"{self.output}  ({self.milliseconds:.1f} ms; inputs: {self.source})")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def read_inputs(path: str | os.PathLike[str], session: Session) -> dict[str, Array]:
    """Return the inputs that a file holds: `.npz`, `.npy`, Polygraphy's `.json` or a recipe's `.yaml`.

    Labels are left out, unless the session has such an input. A `.npy` is the input of a session that has
    one alone.

    Raises:
        InputError: The file is missing.
        DataError: It is not sound, or holds Python objects.
    """
    path = Path(path)
    if path.suffix.lower() not in (".npz", ".npy"):
        samples = open_samples(path)
        return {name: np.asarray(array) for name, array in next(samples.batches(len(samples))).inputs.items()}
    check_input(path, "an .npz or .npy")
    loaded = read_archive(path)
    if isinstance(loaded, np.ndarray):
        if len(session.inputs) != 1:
            names = [spec.name for spec in session.inputs]
            raise DataError(f"{path} holds one array, the model's inputs are {names}; give an .npz")
        return {session.inputs[0].name: loaded}
    wanted = {spec.name for spec in session.inputs}
    return {name: array for name, array in loaded.items() if name in wanted or not is_truth(name)}


def run_once(
    session: Session, arrays: Arrays, *, batch: int | None
) -> tuple[dict[str, Array], tuple[str, ...], float]:
    """Run arrays through a session, at once if they fit it as they are, else batch by batch.

    Args:
        session: The session.
        arrays: Its inputs.
        batch: Largest batch; None runs everything at once if the session allows it.

    Returns:
        Outputs by name, sentences on what was converted, and milliseconds.

    Raises:
        DataError: The arrays do not fit.
        BackendError: The session fails.
    """
    if batch is None:
        try:
            check_feeds(session.inputs, arrays)
        except DataError:
            pass
        else:
            start = time.perf_counter()
            outputs = session.run(arrays)
            require_numbers(outputs, "model")
            return outputs, (), 1e3 * (time.perf_counter() - start)
    samples = ArraySamples(sample_first(session.inputs, arrays) or arrays)
    feeder = Feeder(session, samples, what="model")
    size = common_batch([feeder], batch, len(samples)) if batch is not None else len(samples)
    start = time.perf_counter()
    parts = [feeder.run(one.inputs) for one in samples.batches(size)]
    taken = 1e3 * (time.perf_counter() - start)
    outputs = {name: feeder.as_model(name, array) for name, array in feeder.joined(parts).items()}
    return outputs, feeder.conversions, taken


def summarise(name: str, array: Array) -> TensorSummary:
    """Describe one output."""
    values = array.astype(np.float64).ravel()
    finite = values[np.isfinite(values)]
    if not finite.size:
        return TensorSummary(name, str(array.dtype), array.shape, None, None, None, int(values.size))
    low, high, mean = float(finite.min()), float(finite.max()), float(finite.mean())
    return TensorSummary(name, str(array.dtype), array.shape, low, high, mean, int(values.size - finite.size))


def save_arrays(path: str | os.PathLike[str], arrays: Arrays) -> None:
    """Write an `.npz`, whole or not at all; any name will do. Types that numpy lacks are saved as float32.

    Raises:
        OutputError: It cannot be written.
    """
    # numpy.savez takes names as keyword arguments, among which `file` is its own.
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
        for name, given in arrays.items():
            array = np.asarray(given)
            if array.dtype.kind in "VO":
                array = array.astype(np.float32)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, array, allow_pickle=False)
