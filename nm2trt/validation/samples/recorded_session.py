"""Outputs that were recorded elsewhere, replayed as a session."""

from __future__ import annotations

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.backends.protocol import Closing, TensorSpec
from nm2trt.errors import DataError
from nm2trt.validation.samples.samples import Samples


class RecordedSession(Closing):
    """Gives the outputs of the samples in the order in which they were recorded; a `Session`.

    Args:
        outputs: By name, the samples along axis 0.
        samples: What they are the outputs of.

    Raises:
        DataError: There are not as many of them as samples.
    """

    def __init__(self, outputs: Arrays, samples: Samples) -> None:
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != len(samples):
                raise DataError(
                    f"the recorded output {name!r} has shape {array.shape} for {len(samples)} samples"
                )
        self._recorded = outputs
        self._at = 0
        self.inputs = samples.inputs
        self.outputs = tuple(
            TensorSpec(name, array.dtype.name, ("n", *array.shape[1:])) for name, array in outputs.items()
        )

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Return the next recorded outputs, as many as there are samples in the feeds.

        Raises:
            DataError: More samples are asked for than were recorded.
        """
        count = len(next(iter(feeds.values())))
        start, self._at = self._at, self._at + count
        outputs = {name: np.asarray(array[start : start + count]) for name, array in self._recorded.items()}
        if any(len(array) != count for array in outputs.values()):
            raise DataError("the recorded outputs are at their end; they can be replayed once")
        return outputs

    def close(self) -> None:
        """Do nothing."""
