"""The ladder as a table, one row per weight, for every command that prints one."""

from __future__ import annotations

from collections.abc import Sequence

from nm2trt.engine.ladder.ladder_row import LadderRow
from nm2trt.tables.table import Column, Mark, Row, Table

_PATTERNS = {"dense by plan": "dense", "not groupable": "no groups"}


def ladder_table(ladder: Sequence[LadderRow]) -> Table:
    """Return the table; a column in which every weight has the same answer is told in one line below."""
    columns = (
        Column("weight", "name"),
        Column("op", rank=1),
        Column("shape"),
        Column("pattern"),
        Column("groups", fold=True),
        Column("dtype"),
        Column("builder lists it", fold=True),
        Column("sparse tactic", "name", fold=True),
        Column("gain", "text", fold=True),
    )
    return Table(columns, tuple(map(_row, ladder)))


def _row(row: LadderRow) -> Row:
    pattern = row.pattern.detail.partition(",")[0]
    dtype = row.dtype.detail.partition(":")[0]
    cells = (
        row.weight,
        row.operator,
        "x".join(map(str, row.shape)),
        _PATTERNS.get(pattern, pattern),
        row.fits.detail,
        dtype + {"no": ": no", "unknown": ": ?"}.get(row.dtype.answer, ""),
        *(rung.detail for rung in (row.listed, row.chosen, row.gain)),
    )
    open_ = row.stopped or "unknown" in (row.fits.answer, row.dtype.answer)
    return Row(cells, _mark(row), row.sentence if open_ else "")


def _mark(row: LadderRow) -> Mark:
    if row.pattern.detail == "dense by plan":
        return ""
    if row.pattern.answer == "no":
        return "bad" if row.pattern.detail.startswith("broken") else "no"
    if row.stopped or row.chosen.answer == "no":
        return "no"
    return "good" if row.answer == "yes" else "doubt"
