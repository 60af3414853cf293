"""Before a build: what will be done, and which share of the work may run sparse.

Shares are of the multiply-accumulates of all judged weights, at the shapes that the engine is optimised for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nm2trt.engine.proof import LadderRow
from nm2trt.nm.eligibility import Where, expectations
from nm2trt.nm.verdict import WeightVerdict

__all__ = ["Forecast", "forecast"]


@dataclass(frozen=True, slots=True)
class Forecast:
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

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def forecast(
    verdicts: Sequence[WeightVerdict], ladder: Sequence[LadderRow], *, builder: str, targets: Sequence[str]
) -> Forecast:
    """Add up what may run sparse.

    Args:
        verdicts: What `verify` found out, with the multiply-accumulates at the optimum profile.
        ladder: Their rows, in the same order.
        builder: "trt" or "trt-rtx".
        targets: Architectures; the most favourable one counts.
    """
    total = holding = eligible = likely = unknown = 0
    for verdict, row in zip(verdicts, ladder, strict=True):
        if verdict.macs is None:
            unknown += 1
            continue
        total += verdict.macs
        if row.pattern.answer != "yes":
            continue
        holding += verdict.macs
        if row.fits.answer == row.dtype.answer == "yes" and verdict.facts is not None:
            eligible += verdict.macs
            facts = verdict.facts
            if any(not expectations(facts, Where(builder, target)) for target in targets or ("",)):
                likely += verdict.macs
    return Forecast(total, holding, eligible, likely, unknown)
