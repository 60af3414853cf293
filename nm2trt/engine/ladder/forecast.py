"""Before a build: what will be done, and which share of the work may run sparse.

Shares are of the multiply-accumulates of all judged weights, at the shapes that the engine is optimised for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nm2trt.engine.ladder.ladder_row import LadderRow
from nm2trt.json_value import JsonValue


@dataclass(frozen=True, slots=True)
class Forecast(JsonValue):
    """How much of a model may run sparse.

    Args:
        macs: Multiply-accumulates of all weights whose shapes are known.
        holding: Of these, those of weights that hold 2:4.
        eligible: Of these, those that every rule allows.
        likely: Of these, those for which no rule expects dense kernels to win.
        unknown_weights: Weights whose multiply-accumulates are not known.
    """

    macs: int
    holding: int
    eligible: int
    likely: int
    unknown_weights: int

    def share(self, macs: int) -> float:
        """Return a part of all multiply-accumulates, 0..1."""
        return macs / self.macs if self.macs else 0.0


def forecast(ladder: Sequence[LadderRow]) -> Forecast:
    """Add up what may run sparse, from rows whose work is that at the optimum profile."""
    total = holding = eligible = likely = unknown = 0
    for row in ladder:
        if row.macs is None:
            unknown += 1
            continue
        total += row.macs
        if row.pattern.answer != "yes":
            continue
        holding += row.macs
        if row.fits.answer == row.dtype.answer == "yes":
            eligible += row.macs
            likely += 0 if row.doubts else row.macs
    return Forecast(total, holding, eligible, likely, unknown)
