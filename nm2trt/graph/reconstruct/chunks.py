"""Calibration samples cut into chunks, of which every eighth is held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nm2trt.backends.ort import open_onnx
from nm2trt.backends.protocol import TensorSpec
from nm2trt.calibration.stream import SampleHash, SampleStream, fitted
from nm2trt.errors import DataError

__all__ = ["Chunks", "read_chunks"]

Array = npt.NDArray[Any]

_CHUNKS, _MOST_SAMPLES = 8, 32


@dataclass(frozen=True, slots=True, eq=False)
class Chunks:
    """Samples as the model takes them.

    Args:
        feeds: The model's inputs, chunk by chunk.
        samples: Number of samples.
        sha256: Hash over all of them.
    """

    feeds: Sequence[Mapping[str, Array]]
    samples: int
    sha256: str


def read_chunks(source: Path, samples: SampleStream) -> Chunks:
    """Read samples in chunks of a size that leaves at least one of eight chunks to hold out.

    Args:
        source: The model; ONNX Runtime says what it takes.
        samples: The samples. With a fixed batch, those that do not fill the last one are left out.

    Raises:
        DataError: The samples do not fit the model, or do not fill one batch.
        ModelError: ONNX Runtime cannot load the model.
    """
    with open_onnx(source) as session:
        inputs = session.inputs
    batch = _batch(inputs)
    size = batch or min(max(samples.count // _CHUNKS, 1), _MOST_SAMPLES)
    digest = SampleHash()
    feeds = []
    for part in samples.read(size):
        fed = fitted(part, inputs, samples.source)
        if batch is None or len(next(iter(fed.values()))) == batch:
            digest.update(fed)
            feeds.append(fed)
    if not feeds:
        raise DataError(
            f"{samples.source}: {samples.count} samples do not fill the model's batch of {batch}; give more, "
            "or export the model with a free batch"
        )
    count = sum(len(next(iter(fed.values()))) for fed in feeds)
    return Chunks(feeds, count, digest.hexdigest())


def _batch(inputs: Sequence[TensorSpec]) -> int | None:
    """Return the model's fixed batch, or None."""
    sizes = [spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)]
    return int(np.max(sizes)) if sizes else None
