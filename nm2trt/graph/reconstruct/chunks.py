"""Calibration samples cut into chunks, of which every eighth is held out."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from nm2trt.arrays import Array
from nm2trt.backends.batch_axes import fixed_batch, sample_shapes
from nm2trt.backends.ort import open_onnx
from nm2trt.backends.protocol import TensorSpec
from nm2trt.calibration.stream import SampleHash, SampleStream, fitted
from nm2trt.errors import DataError
from nm2trt.figures import counted

_CHUNKS, _MOST_SAMPLES = 8, 32


class Chunks:
    """Samples as the model takes them; they are read chunk by chunk, each time anew.

    Args:
        inputs: What the model takes.
        samples: The samples. With a fixed batch, those that do not fill the last one are left out.

    Attributes:
        count: Number of chunks.
        samples: Number of samples.

    Raises:
        DataError: The first samples do not fit the model, or all of them do not fill one batch.
    """

    def __init__(self, inputs: Sequence[TensorSpec], samples: SampleStream) -> None:
        batch = _batch(inputs, samples)
        self._inputs, self._stream = inputs, samples
        self._size = batch or min(max(samples.count // _CHUNKS, 1), _MOST_SAMPLES)
        self.count = samples.count // batch if batch else math.ceil(samples.count / self._size)
        self.samples = self.count * batch if batch else samples.count
        self._sha256: str | None = None
        if not self.count:
            raise DataError(
                f"{samples.source}: {counted(samples.count, 'sample does', 'samples do')} not fill the "
                f"model's batch of {batch}; give more, or export the model with a free batch"
            )
        self.names = sorted(next(self.feeds([0])))

    def feeds(self, numbers: Sequence[int] | None = None) -> Iterator[dict[str, Array]]:
        """Read the model's inputs chunk by chunk.

        Args:
            numbers: The chunks to read, in order; None reads all.

        Raises:
            DataError: The samples do not fit the model.
        """
        wanted = set(range(self.count) if numbers is None else numbers)
        digest = SampleHash()
        for number, part in enumerate(self._stream.read(self._size)):
            if number > max(wanted, default=-1):
                return
            if number in wanted:
                fed = fitted(part, self._inputs, self._stream.source)
                digest.update(fed)
                yield fed
            if number == self.count - 1:
                break
        if len(wanted) == self.count:
            self._sha256 = digest.hexdigest()

    def padding_mask(self) -> str:
        """Return an input that looks like a mask of padding, e.g. "attention_mask", or "".

        Its samples are vectors of zeros and ones, the zeros of each at one end, and not all are ones.
        """
        fed = next(self.feeds([0]))
        for name in self.names:
            array = fed[name]
            if array.ndim != 2 or array.all() or not np.isin(array, (0, 1)).all():
                continue
            steps = np.diff(array.astype(np.int8), axis=1)
            if all((np.count_nonzero(row) <= 1) for row in steps) and array.any(axis=1).all():
                return name
        return ""

    def first(self, numbers: Sequence[int], samples: int) -> list[int]:
        """Return the first of these chunks that hold as many samples, or one more."""
        return list(numbers[: max(1, math.ceil(samples / self._size))])

    @property
    def sha256(self) -> str:
        """Hash over all samples; they are read for it if no pass has gone over all of them."""
        if self._sha256 is None:
            collections.deque(self.feeds(), maxlen=0)
        return self._sha256 or ""


def read_chunks(source: Path, samples: SampleStream) -> Chunks:
    """Cut samples into chunks of a size that leaves at least one of eight chunks to hold out.

    Args:
        source: The model; ONNX Runtime says what it takes.
        samples: The samples.

    Raises:
        DataError: The samples do not fit the model, or do not fill one batch.
        ModelError: ONNX Runtime cannot load the model.
    """
    with open_onnx(source, optimize=False) as session:
        return Chunks(session.inputs, samples)


def _batch(inputs: Sequence[TensorSpec], samples: SampleStream) -> int | None:
    """Return the model's fixed batch, or None."""
    one = next(iter(samples.read(1)))
    if set(one) != {spec.name for spec in inputs}:
        fitted(one, inputs, samples.source)  # says which input is missing
    return fixed_batch(inputs, sample_shapes(one))
