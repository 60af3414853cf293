"""The mask hash: one number for all masks of a model, which no renaming changes.

It is taken over the non-zero pattern of every weight in the order of their consumers, with shape and
axis but without names: exporters rename weights, and folding a BatchNorm scales them, but the zeros stay.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["METADATA_KEY", "MaskHash"]

METADATA_KEY = "nm2trt.mask_sha256"


class MaskHash:
    """Takes the masks of one model, weight by weight."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def begin(self, shape: tuple[int, ...], axis: int) -> None:
        """Start the next weight."""
        self._digest.update(repr((tuple(int(size) for size in shape), int(axis))).encode())

    def update(self, present: npt.NDArray[Any]) -> None:
        """Add a flat run of the weight's non-zero flags, in C order; all but the last a multiple of 8."""
        self._digest.update(np.packbits(present != 0).tobytes())

    def hexdigest(self) -> str:
        """Return the hash as 64 hexadecimal digits."""
        return self._digest.hexdigest()
