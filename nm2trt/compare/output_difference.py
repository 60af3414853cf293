"""The difference of one output from its reference, as figures and in words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from nm2trt.figures import counted
from nm2trt.json_value import JsonValue

# Outputs whose cosine is lower have little in common.
UNRELATED = 0.5


@dataclass(frozen=True, slots=True)
class OutputDifference(JsonValue):
    """Difference of one output from its reference.

    NaN and infinity at the same place on both sides are counted, and left out of every other figure; if
    nothing else is left, the figures are NaN and not 0.

    Args:
        name: The output.
        dtype: The candidate's dtype.
        max_abs: Largest absolute difference; exact for integers.
        mean_abs: Mean absolute difference.
        max_relative: `max_abs` over the reference's largest magnitude.
        cosine: Cosine similarity of the flattened outputs; None if one of them is all zero, which has no
            direction.
        relative_l2: Norm of the difference over the reference's norm.
        sqnr_db: Signal to quantisation noise, the same in decibels; None if nothing differs.
        kl: Mean Kullback-Leibler divergence of the candidate's distribution over the last axis from the
            reference's, in nats; None if it was not asked for.
        elements: Elements of the output.
        nan_in_both: Elements that are NaN on both sides.
        infinite_in_both: Elements that are the same infinity on both sides.
        outside: Elements beyond the tolerance that was given; None without one. NaN is always beyond.
        unequal_shapes: Batches in which the output, whose size depends on the data, had another size than the
            reference; their elements are not compared.
    """

    name: str
    dtype: str
    max_abs: float
    mean_abs: float
    max_relative: float
    cosine: float | None
    relative_l2: float = 0.0
    sqnr_db: float | None = None
    kl: float | None = None
    elements: int = 0
    nan_in_both: int = 0
    infinite_in_both: int = 0
    outside: int | None = None
    unequal_shapes: int = 0

    @property
    def cosine_text(self) -> str:
        """The cosine with six digits, or "undefined"."""
        return "undefined" if self.cosine is None else f"{self.cosine:.6f}"

    @property
    def unrelated(self) -> bool:
        """Whether both outputs differ, and have little in common."""
        return self.max_abs > 0 and (self.cosine is None or self.cosine < UNRELATED)

    @property
    def remark(self) -> str:
        """What the figures leave out, or ""."""
        if self.unequal_shapes:
            batches = counted(self.unequal_shapes, "batch", "batches")
            return f"its size depends on the data, and is not the reference's in {batches}"
        if not self.elements:
            return "it is empty on both sides, and nothing of it is compared"
        counts = ((self.nan_in_both, "NaN"), (self.infinite_in_both, "infinite"))
        found = [f"{count:,} of {self.elements:,} elements are {what}" for count, what in counts if count]
        return f"{' and '.join(found)} on both sides, and are not compared" if found else ""

    @property
    def sentence(self) -> str:
        """The difference in words."""
        if math.isnan(self.max_abs):
            return f"output {self.name}: nothing to compare, {self.remark}"
        return (
            f"output {self.name}: max difference {self.max_abs:.3g}, {self.max_relative:.3g} of its largest "
            f"value, cosine {self.cosine_text}" + (f"; {self.remark}" if self.remark else "")
        )


def difference_lines(differences: Iterable[OutputDifference], not_measured: str) -> list[str]:
    """Return how far each output moved, a line per output, and why that is not known if it is not."""
    lines = [
        f"output {item.name} ({item.dtype}): max difference {item.max_abs:.3g}, "
        f"{item.max_relative:.3g} of its largest value"
        for item in differences
    ]
    return [*lines, not_measured] if not_measured else lines
