"""The table of verdicts that `nm2trt verify` prints."""

from __future__ import annotations

from collections.abc import Sequence

from nm2trt.figures import percent
from nm2trt.nm.verdict import WeightVerdict
from nm2trt.tables.table import Column, Mark, Row, Table


def verdict_table(weights: Sequence[WeightVerdict]) -> Table:
    """Return one row per weight and consumer; what speaks against a sparse kernel stands below."""
    wanted = {verdict.wanted for verdict in weights if verdict.wanted}
    one = len(wanted) == 1
    columns = (
        Column("weight", "name"),
        Column("consumer", "name", rank=4),
        Column("op", rank=1),
        Column("shape"),
        Column("dtype", rank=2, fold=True),
        Column("axis", "number", rank=3),
        Column(next(iter(wanted)) if one else "pattern", "text"),
        Column("zeros", "number"),
        Column("sparse"),
    )
    return Table(columns, tuple(_row(verdict, "" if one else verdict.wanted) for verdict in weights))


def _row(verdict: WeightVerdict, wanted: str) -> Row:
    cells = (
        verdict.weight,
        verdict.consumer,
        verdict.operator,
        "x".join(map(str, verdict.shape)),
        _dtype(verdict),
        "-" if verdict.axis is None else str(verdict.axis),
        f"{verdict.pattern.replace('-', ' ')} {wanted}".strip(),
        "-" if verdict.zero_share is None else percent(verdict.zero_share),
        verdict.eligible,
    )
    return Row(cells, _mark(verdict), "" if verdict.eligible == "yes" else verdict.sentence)


def _dtype(verdict: WeightVerdict) -> str:
    """Return the stored type, and the one that its consumer computes in, as in a QAT file."""
    computed = verdict.facts.dtype if verdict.facts is not None else verdict.dtype
    return verdict.dtype if computed == verdict.dtype else f"{verdict.dtype} as {computed}"


def _mark(verdict: WeightVerdict) -> Mark:
    if verdict.pattern == "broken":
        return "bad"
    if verdict.pattern == "dense-by-plan":
        return ""
    if verdict.eligible == "yes":
        return "good"
    return "no" if verdict.eligible == "no" and verdict.pattern != "untraceable" else "doubt"
