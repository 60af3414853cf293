"""A fixed set of samples: arrays, which of the source's samples they are, and one hash over all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.errors import DataError
from nm2trt.extras import names_the_extra
from nm2trt.files import atomic_path, check_output

_SHEET_COLUMNS = 8
_SHEET_SAMPLES = 64
_SMALLEST_TILE = 64


@dataclass(frozen=True, slots=True)
class SampleSet:
    """Calibration samples.

    Args:
        arrays: By input name, the samples along axis 0.
        indices: Position of each sample in its source.
        source: Where they are from, in one line.
        batch: Samples of a batch.

    Attributes:
        sha256: Over names, dtypes, shapes and values.

    Raises:
        DataError: Samples are missing, lengths differ, or a value is NaN.
    """

    arrays: Arrays
    indices: tuple[int, ...]
    source: str
    batch: int = 32
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        if not self.arrays or not self.indices:
            raise DataError(f"{self.source} gave no sample")
        digest = hashlib.sha256()
        for name in sorted(self.arrays):
            array = self.arrays[name]
            if array.ndim == 0 or len(array) != len(self.indices):
                raise DataError(
                    f"{self.source}: input {name!r} has shape {array.shape} for {len(self.indices)} samples"
                )
            if array.dtype.kind not in "biuf":
                raise DataError(
                    f"{self.source}: input {name!r} has dtype {array.dtype}; inputs must be numbers"
                )
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise DataError(f"{self.source}: input {name!r} holds NaN")
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
        object.__setattr__(self, "sha256", digest.hexdigest())

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Array | dict[str, Array]]:
        """Yield batches as a model takes them: the array if there is one input, else arrays by name."""
        for batch in self.batches():
            yield next(iter(batch.values())) if len(batch) == 1 else batch

    def batches(self) -> Iterator[dict[str, Array]]:
        """Yield batches by input name; the last may be smaller."""
        for start in range(0, len(self), self.batch):
            yield {name: array[start : start + self.batch] for name, array in self.arrays.items()}

    def summary(self) -> list[dict[str, Any]]:
        """Return name, shape, dtype, smallest, largest, mean and standard deviation of each input.

        They are those of its finite values; without any, as for a state of length 0, they are zeros.
        """
        rows = []
        for name, array in self.arrays.items():
            row: dict[str, Any] = {"input": name, "shape": list(array.shape), "dtype": str(array.dtype)}
            values = array[np.isfinite(array)]  # a mask may hold infinity
            values = values if values.size else np.zeros(1)
            row |= {"min": float(values.min()), "max": float(values.max())}
            row |= {"mean": float(values.mean(dtype=np.float64)), "std": float(values.std(dtype=np.float64))}
            rows.append(row)
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return everything but the values."""
        return {
            "source": self.source,
            "samples": len(self),
            "batch": self.batch,
            "sha256": self.sha256,
            "indices": list(self.indices),
            "inputs": self.summary(),
        }


def write_contact_sheet(samples: SampleSet, path: str | Path) -> str:
    """Draw the first 64 samples of the first image input, eight in a row, as a PNG.

    Images are (n, h, w), or (n, c, h, w) or (n, h, w, c) with 1 or 3 channels; each is stretched to its own
    range, so that normalised values can be looked at too.

    Returns:
        The input's name.

    Raises:
        DataError: No input looks like images.
        BackendMissingError: Pillow is not installed.
        OutputError: The file cannot be written.
    """
    with names_the_extra("PIL"):
        from PIL import Image
    target = check_output(path)
    found = next(((n, i) for n, a in samples.arrays.items() if (i := _as_images(a)) is not None), None)
    if found is None:
        raise DataError(f"{samples.source}: no input has the shape of images, so a sheet cannot be drawn")
    name, images = found
    images = images[:_SHEET_SAMPLES]
    _, height, width, _ = images.shape
    zoom = max(1, round(_SMALLEST_TILE / max(height, width)))
    columns = min(_SHEET_COLUMNS, len(images))
    rows = -(-len(images) // columns)
    cell = (height * zoom + 2, width * zoom + 2)
    sheet = np.full((rows * cell[0], columns * cell[1], 3), 128, dtype=np.uint8)
    for position, image in enumerate(images):
        low, high = float(image.min()), float(image.max())
        tile = np.round((image - low) * (255 / (high - low or 1))).astype(np.uint8)
        tile = np.repeat(np.repeat(np.broadcast_to(tile, (height, width, 3)), zoom, 0), zoom, 1)
        top, left = (position // columns) * cell[0] + 1, (position % columns) * cell[1] + 1
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    with atomic_path(target) as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")
    return name


def _as_images(array: Array) -> Array | None:
    """Return (n, h, w, c) of floats, or None."""
    if not array.size:
        return None
    if array.ndim == 3 and min(array.shape[1:]) > 1:
        return array[..., None].astype(np.float64)
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return np.moveaxis(array, 1, -1).astype(np.float64)
    if array.ndim == 4 and array.shape[3] in (1, 3):
        return array.astype(np.float64)
    return None
