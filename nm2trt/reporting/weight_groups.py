"""The ladder's rows, grouped: weights that get equally far for the same reason stand in one row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nm2trt.reporting.data import RUNGS, WeightRow

_NUMBERS = re.compile(r"\[[0-9, ]*\]|[0-9]+(\.[0-9]+)?")
_SAME_ZEROS = 0.005


@dataclass(frozen=True, slots=True)
class WeightGroup:
    """Weights of one row.

    Args:
        rows: The weights, in the model's order.
        why: Number of their reason in `Ladder.reasons`, from 1.
    """

    rows: tuple[WeightRow, ...]
    why: int

    @property
    def first(self) -> WeightRow:
        """The weight that the row shows."""
        return self.rows[0]

    @property
    def macs(self) -> int | None:
        """The group's multiply-accumulates, or None if one is not known."""
        known = [row.macs for row in self.rows if row.macs is not None]
        return sum(known) if len(known) == len(self.rows) else None


@dataclass(frozen=True, slots=True)
class Ladder:
    """The table.

    Args:
        rungs: The rungs that differ from weight to weight: the columns.
        same: What every weight gets on the others, e.g. {"gain": "not measured"}.
        groups: The rows.
        reasons: The sentences, each once, with the number of weights that it is about.
    """

    rungs: tuple[str, ...]
    same: dict[str, str]
    groups: tuple[WeightGroup, ...]
    reasons: tuple[tuple[str, int], ...]


def ladder_of(weights: Sequence[WeightRow]) -> Ladder:
    """Group weights by operator, shape, zeros to a tenth of a percent, rungs and reason."""
    answered = [key for key in RUNGS if any(_rung(row, key) != ("", "") for row in weights)]
    # A planned dense layer gets "-" on the rungs that it never reaches; that needs no column.
    told = {key: {_rung(row, key) for row in weights} - _NOTHING for key in answered}
    same = {RUNGS[key]: next(iter(told[key]))[1] for key in answered if len(told[key]) == 1 < len(weights)}
    rungs = tuple(key for key in answered if len(told[key]) > 1 or (told[key] and len(weights) == 1))
    reasons: dict[str, tuple[str, int, int]] = {}
    groups: dict[tuple[object, ...], list[WeightRow]] = {}
    for row in weights:
        alike = _NUMBERS.sub("#", row.sentence)
        sentence, number, count = reasons.get(alike, (row.sentence, len(reasons) + 1, 0))
        reasons[alike] = (sentence, number, count + 1)
        zeros = None if row.zero_share is None else round(row.zero_share, 3)
        key = (row.operator, row.shape, row.status, zeros, *(_rung(row, rung) for rung in rungs), alike)
        groups.setdefault(key, []).append(row)
    numbered = tuple(
        WeightGroup(tuple(rows), reasons[_NUMBERS.sub("#", rows[0].sentence)][1]) for rows in groups.values()
    )
    return Ladder(rungs, same, numbered, tuple((text, count) for text, _, count in reasons.values()))


def zeros_differ(weights: Sequence[WeightRow]) -> bool:
    """Tell whether weights of one verdict hold different shares of zeros, so that a chart says something."""
    shares: dict[str, list[float]] = {}
    for row in weights:
        if row.zero_share is not None:
            shares.setdefault(row.status, []).append(row.zero_share)
    return any(max(found) - min(found) > _SAME_ZEROS for found in shares.values())


_NOTHING = {("", ""), ("not reached", "-"), ("not reached", "")}


def _rung(row: WeightRow, key: str) -> tuple[str, str]:
    answer = row.rungs.get(key)
    return ("", "") if answer is None else (answer.answer, answer.detail)
