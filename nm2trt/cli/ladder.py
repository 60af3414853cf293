"""The ladder as a table, for the commands that print one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nm2trt.cli.output import print_table

if TYPE_CHECKING:
    from nm2trt.engine.ladder.ladder import LadderRow

__all__ = ["print_ladder"]

_MOST_REASONS = 8


def print_ladder(ladder: Sequence[LadderRow]) -> None:
    """Print one row a weight, and the reasons of those that stop or that no rule is sure of."""
    headers = (
        "weight",
        "op",
        "shape",
        "pattern",
        "shape/groups",
        "dtype",
        "builder lists it",
        "sparse tactic",
        "gain",
    )
    rows = [(*_name(row), *(rung.detail for rung in row.rungs)) for row in ladder]
    print_table(headers, rows)
    stopped: dict[str, list[str]] = {}
    for row in ladder:
        if row.stopped or "unknown" in (row.fits.answer, row.dtype.answer):
            stopped.setdefault(row.sentence, []).append(row.weight)
    for sentence, weights in list(stopped.items())[:_MOST_REASONS]:
        more = f" and {len(weights) - 1} more" if len(weights) > 1 else ""
        print(f"  {weights[0]}{more}: {sentence}")
    if len(stopped) > _MOST_REASONS:
        print(f"  and {len(stopped) - _MOST_REASONS} more reasons; --json has them all")


def _name(row: LadderRow) -> tuple[str, str, str]:
    return row.weight, row.operator, "x".join(str(size) for size in row.shape)
