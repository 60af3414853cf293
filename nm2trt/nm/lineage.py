"""The mask hash: one number for all masks of a model, which no renaming changes.

It is taken over the non-zero pattern of every weight in the order of their consumers, with shape and
axis but without names: exporters rename weights, and folding a BatchNorm scales them, but the zeros stay.
Each stage records the hash that it read, the hash that it left, and one of `RELATIONS` between the two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

import numpy as np

from nm2trt.arrays import Array

METADATA_KEY = "nm2trt.mask_sha256"

Relation = Literal["equal", "subset", "merged", "permuted", "rebuilt"]

# How the masks that a stage left relate to those that it read.
RELATIONS: Mapping[Relation, str] = {
    "equal": "the same masks",
    "subset": "zeros added, none taken away",
    "merged": "the weights of parallel branches joined into one",
    "permuted": "the same zeros, at permuted channels",
    "rebuilt": "new masks and new values, solved from samples",
}


def relation_in_words(relation: Relation) -> str:
    """Return a relation with its meaning, if the word does not say it."""
    return relation if relation == "equal" else f"{relation} ({RELATIONS[relation]})"


class MaskBits:
    """The mask of one weight, packed, until a `MaskHash` takes it: weights may be read in any order.

    Args:
        shape: The weight's shape.
        axis: Its reduction axis.
    """

    def __init__(self, shape: tuple[int, ...], axis: int) -> None:
        self.parts = [repr((tuple(int(size) for size in shape), int(axis))).encode()]

    def update(self, present: Array) -> None:
        """Add a flat run of the weight's non-zero flags, in C order; all but the last a multiple of 8."""
        flags = present if present.dtype == np.bool_ else present != 0
        self.parts.append(np.packbits(flags).tobytes())


class MaskHash:
    """Takes the masks of one model, weight by weight."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, bits: MaskBits) -> None:
        """Add the next weight."""
        for part in bits.parts:
            self._digest.update(part)

    def hexdigest(self) -> str:
        """Return the hash as 64 hexadecimal digits."""
        return self._digest.hexdigest()
