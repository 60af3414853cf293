"""The ladder: how far each weight gets on the way to a faster kernel, and where it stops.

    pattern -> shape/groups -> dtype -> builder lists it eligible -> sparse tactic chosen -> measured gain

The first three rungs are answered from the model. The last three are the builder's and the GPU's to
answer; where this machine cannot ask them they read `not measured`. That a weight has zeros, or that an
engine calls it sparse, is never proof: a tactic name, the builder's "picked" line or a kernel's name is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.verdict import WeightVerdict

__all__ = ["NOT_MEASURED", "LadderRow", "Rung", "climb", "readable"]

NOT_MEASURED = "not measured"

Answer = Literal["yes", "no", "unknown", "not measured", "not reached"]

_TWO_OF_FOUR = NMPattern(2, 4)
# Reason codes of `nm.eligibility` that speak of the dtype; the others speak of shape and groups.
_DTYPE_CODES = frozenset({"fp32", "dtype"})
_NOT_REACHED = "-"


@dataclass(frozen=True, slots=True)
class Rung:
    """One answer.

    Args:
        answer: "yes", "no", "unknown", "not measured" (this machine cannot answer) or "not reached" (an
            earlier rung said no).
        detail: The answer in a few words, for a table's cell.
    """

    answer: Answer
    detail: str


@dataclass(frozen=True, slots=True)
class LadderRow:
    """How far one weight gets.

    Args:
        weight: Its name.
        consumer: The node that reads it.
        operator: That node's operator.
        shape: Its shape.
        reason: Code of the rule that decided, e.g. "group-conv".
        sentence: What decided, in words.
        pattern: Whether it holds a pattern that sparse tensor cores read.
        fits: Whether shape, groups and operator allow a sparse kernel.
        dtype: Whether its dtype does.
        listed: Whether the builder lists it eligible.
        chosen: Whether a sparse tactic was chosen.
        gain: What it saved.
    """

    weight: str
    consumer: str
    operator: str
    shape: tuple[int, ...]
    reason: str
    sentence: str
    pattern: Rung
    fits: Rung
    dtype: Rung
    listed: Rung
    chosen: Rung
    gain: Rung

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """The six rungs, lowest first."""
        return (self.pattern, self.fits, self.dtype, self.listed, self.chosen, self.gain)

    @property
    def stopped(self) -> bool:
        """Whether a rung below the builder's said no."""
        return any(rung.answer == "no" for rung in self.rungs[:3])

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def readable(verdict: WeightVerdict) -> bool:
    """Tell whether the weight holds a pattern that sparse tensor cores read: 2:4, or one that implies it."""
    return verdict.pattern == "holds" and _TWO_OF_FOUR.admits(NMPattern.parse(verdict.wanted))


def climb(verdicts: Sequence[WeightVerdict], *, sparsity: str) -> tuple[LadderRow, ...]:
    """Return one row a verdict, as far as model and builder can answer without a GPU.

    Args:
        verdicts: What `verify` found out.
        sparsity: The build's "disable", "enable" or "force".
    """
    return tuple(_row(verdict, sparsity) for verdict in verdicts)


def _row(verdict: WeightVerdict, sparsity: str) -> LadderRow:
    rungs = [_pattern(verdict), _shape(verdict), _dtype(verdict)]
    if sparsity == "disable":
        rungs += [Rung("no", "sparsity off")] * 3
    else:
        rungs += [Rung("not measured", NOT_MEASURED)] * 3
    stopped = next((position for position, rung in enumerate(rungs) if rung.answer == "no"), len(rungs))
    rungs = [
        rung if position <= stopped else Rung("not reached", _NOT_REACHED)
        for position, rung in enumerate(rungs)
    ]
    return LadderRow(
        verdict.weight,
        verdict.consumer,
        verdict.operator,
        verdict.shape,
        verdict.reason,
        verdict.sentence,
        *rungs,
    )


def _pattern(verdict: WeightVerdict) -> Rung:
    if readable(verdict):
        return Rung("yes", verdict.wanted)
    if verdict.pattern == "holds":
        return Rung("no", f"{verdict.wanted} is not 2:4")
    if verdict.pattern == "broken":
        return Rung("no", f"broken, {verdict.broken_groups} of {verdict.groups} groups")
    if verdict.pattern == "dense-by-plan":
        return Rung("no", "dense by plan")
    return Rung("no", verdict.pattern.replace("-", " "))


def _shape(verdict: WeightVerdict) -> Rung:
    # The rules on shape come before those on dtype, so one that names the dtype has passed them.
    if verdict.eligible == "yes" or verdict.reason in _DTYPE_CODES:
        return Rung("yes", "fits")
    return Rung(verdict.eligible, verdict.reason)


def _dtype(verdict: WeightVerdict) -> Rung:
    if verdict.reason in _DTYPE_CODES:
        return Rung(verdict.eligible, f"{verdict.dtype}: no sparse kernel known")
    return Rung("yes", verdict.dtype)
