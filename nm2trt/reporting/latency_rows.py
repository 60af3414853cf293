"""Latencies of a run's stages as rows of the report."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any

from nm2trt.measure import no_speed
from nm2trt.reporting.data import LatencyRow
from nm2trt.reporting.fields import Fields
from nm2trt.reporting.records import StageRecord

_PERCENTILE = re.compile(r"p(\d{1,2}(?:_\d+)?)_ms")


def latency_rows(done: Iterable[tuple[StageRecord, Fields]]) -> tuple[LatencyRow, ...]:
    """Return the rows of every stage that timed something."""
    rows: list[LatencyRow] = []
    for record, fields in done:
        reader = _LATENCIES.get(record.stage)
        if reader is not None:
            rows += reader(record.name, fields)
    return tuple(rows)


def _validated_latency(group: str, fields: Fields) -> list[LatencyRow]:
    names = {side: PurePath(fields.text(side, side)).name for side in ("candidate", "reference")}
    return _benchmark(group, fields.object("benchmark"), names)


def _benched(group: str, fields: Fields) -> list[LatencyRow]:
    # What the others are divided by comes first there and last here, as with validate.
    return _benchmark(group, fields, {})[::-1]


def _probed(group: str, fields: Fields) -> list[LatencyRow]:
    where = f"{fields.text('server', '')} at {fields.text('url', '')}, from sending to the answer"
    rows = []
    for load in fields.objects("loads"):
        clients, rate = load.count("concurrency"), load.maybe("requests_per_s")
        name = f"{clients} client{'' if clients == 1 else 's'}" + (f", {rate:.0f} requests/s" if rate else "")
        rows.append(_latency_row(group, name, None, load.object("latency"), where))
    return rows


def _proved(group: str, fields: Fields) -> list[LatencyRow]:
    taken = ", ".join(f"{key} {value}" for key, value in fields.object("conditions").data.items())
    where = f"{fields.text('device', '')}, {taken}".strip(", ")
    return [
        _latency_row(group, variant.text("name"), None, variant.object("latency"), where)
        for variant in fields.objects("variants")
        if variant.has("latency")
    ]


def _benchmark(group: str, bench: Fields, names: Mapping[str, str]) -> list[LatencyRow]:
    conditions = bench.object("conditions").data
    shown = ", ".join(f"{key} {value}" for key, value in conditions.items())
    if warning := no_speed({key: str(value) for key, value in conditions.items()}):
        shown = f"{warning}. {shown}"
    batch = bench.object("batch")
    return [
        _latency_row(group, names.get(name, PurePath(name).name), batch.count(name), fields, shown)
        for name, fields in bench.object("latencies").entries()
    ]


def _latency_row(group: str, name: str, batch: int | None, fields: Fields, conditions: str) -> LatencyRow:
    percentiles: dict[float, float] = {}
    for key in fields.data:
        match = _PERCENTILE.fullmatch(key)
        value = fields.maybe(key) if match else None
        if match and value is not None:
            percentiles[float(match[1].replace("_", "."))] = value
    samples: list[Any] = fields.data.get("samples_ms") or []
    kept = tuple(float(value) for value in samples if isinstance(value, int | float))
    return LatencyRow(
        group, name, batch, dict(sorted(percentiles.items())), fields.count("runs"), conditions, kept
    )


_LATENCIES: Mapping[str, Callable[[str, Fields], list[LatencyRow]]] = {
    "validate": _validated_latency,
    "bench": _benched,
    "probe": _probed,
    "prove": _proved,
}
