"""Times from files: trtexec's `--exportTimes`, and an earlier benchmark to compare with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nm2trt.errors import DataError, InputError
from nm2trt.files import check_input, read_regular
from nm2trt.json_types import number, text, whole
from nm2trt.json_value import JsonValue
from nm2trt.measure import Latency, ServerTime, WarmUp
from nm2trt.validation.latency.bench import ratio_of
from nm2trt.validation.latency.benchmark import Benchmark, Ratio, Timing
from nm2trt.validation.statistics.process_means import ratio_interval

# What says nothing of how the times were taken.
_SELF = frozenset({"models"})


@dataclass(frozen=True, slots=True)
class Comparability(JsonValue):
    """An earlier benchmark beside this one.

    Args:
        ratios: This one's medians over the earlier ones', by session and batch size.
        differences: Sentences on conditions that are not the same.
    """

    ratios: tuple[Ratio, ...]
    differences: tuple[str, ...]


def read_trtexec(path: str | os.PathLike[str]) -> Timing:
    """Read what `trtexec --exportTimes=FILE` wrote: latency with transfers, one entry a query.

    Raises:
        InputError: The file is missing.
        DataError: The file is of another kind.
    """
    path = check_input(path, "a trtexec times")
    data = _json(path)
    try:
        ms = tuple(number(entry["latencyMs"]) for entry in data)
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(
            f"{path} holds no times of trtexec; write them with trtexec --exportTimes={path.name}"
        ) from error
    if not ms:
        raise DataError(f"{path} holds no time")
    latency = Latency.of([one / 1e3 for one in ms])
    return Timing(str(path), None, latency, ms, source="trtexec, H2D + compute + D2H")


def with_recorded(benchmark: Benchmark, recorded: tuple[Timing, ...], *, anyway: bool) -> Benchmark:
    """Put recorded times beside measured ones; ratios across them only `anyway`."""
    if not recorded:
        return benchmark
    timings = (*benchmark.timings, *recorded)
    ratios, notes = benchmark.ratios, benchmark.notes
    if anyway:
        base = timings[0]
        ratios += tuple(
            ratio_of(one.name, base.name, one.batch, one.samples_ms, base.samples_ms)
            for one in recorded
            if one is not base
        )
    elif len(timings) > 1:
        names = ", ".join(one.name for one in recorded)
        note = f"{names}: taken by trtexec, which records no conditions, so no ratio is given; see --anyway"
        notes = (*notes, note)
    return replace(benchmark, timings=timings, ratios=ratios, notes=notes)


def compare_with(benchmark: Benchmark, earlier: str | os.PathLike[str], *, anyway: bool) -> Comparability:
    """Divide this benchmark's medians by an earlier one's.

    Args:
        benchmark: What was measured now.
        earlier: The JSON that `nm2trt bench` wrote before.
        anyway: Compare although conditions differ.

    Raises:
        InputError: The file is missing, or conditions differ and `anyway` is False.
        DataError: The file is not a benchmark, or lacks the session and batch sizes of this one.
    """
    path = check_input(earlier, "an earlier benchmark's JSON")
    data = _json(path)
    try:
        conditions: Mapping[str, str] = dict(data["conditions"])
        old = {
            (text(entry["name"]), None if entry["batch"] is None else whole(entry["batch"])): [
                number(one) for one in entry["samples_ms"]
            ]
            for entry in data["latencies"].values()
        }
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is not a benchmark; write one with nm2trt bench ... -o FILE.json") from error
    differences = tuple(
        f"{key}: {conditions.get(key, 'not recorded')} then, {benchmark.conditions.get(key, 'none')} now"
        for key in sorted((set(conditions) | set(benchmark.conditions)) - _SELF)
        if conditions.get(key) != benchmark.conditions.get(key)
    )
    if differences and not anyway:
        raise InputError(
            f"{path} was taken under other conditions ({'; '.join(differences)}); --anyway compares them"
        )
    ratios = tuple(
        ratio_of(one.name, str(path), one.batch, one.samples_ms, old[one.name, one.batch])
        for one in benchmark.timings
        if old.get((one.name, one.batch))
    )
    if not ratios:
        held = ", ".join(f"{name} at batch {batch}" for name, batch in old) or "nothing"
        raise DataError(f"{path} has times of {held}, but of nothing that was measured now")
    return Comparability(ratios, differences)


def merged(parts: Sequence[tuple[Mapping[str, Any], Mapping[str, str]]], names: Sequence[str]) -> Benchmark:
    """Return one benchmark of those that several processes took, with intervals over the processes.

    Args:
        parts: What each process printed as JSON, and the session's name here by its name there.
        names: The sessions in their order; the first is the base of the ratios.
    """
    runs: dict[tuple[str, int], list[list[float]]] = {}
    served: dict[tuple[str, int], list[ServerTime]] = {}
    for data, name_of in parts:
        for entry in data["latencies"].values():
            key = (name_of[entry["name"]], entry["batch"])
            runs.setdefault(key, []).append(entry["samples_ms"])
            if entry["server"] is not None:
                served.setdefault(key, []).append(ServerTime(**entry["server"]))
    batches = list(dict.fromkeys(batch for _, batch in runs))
    timings = tuple(
        Timing(
            name,
            batch,
            Latency.of([1e-3 * one for one in pooled]),
            tuple(pooled),
            server=ServerTime.pooled(served.get((name, batch), ())),
        )
        for batch in batches
        for name in names
        if (pooled := [one for block in runs.get((name, batch), ()) for one in block])
    )
    ratios = tuple(
        _over_processes(timing, names[0], runs[timing.name, timing.batch or 0], base)
        for timing in timings
        if timing.name != names[0] and (base := runs.get((names[0], timing.batch or 0)))
    )
    first, last = parts[0][0], parts[-1][0]
    order = f"interleaved, in {len(parts)} processes one after another"
    warm = WarmUp(
        max(data["warmup"]["runs"] for data, _ in parts), all(data["warmup"]["stable"] for data, _ in parts)
    )
    conditions = {**first["conditions"], "order": order}
    return Benchmark(timings, ratios, warm, conditions, first["state"]["before"], last["state"]["after"])


def _over_processes(
    timing: Timing, base: str, blocks: Sequence[Sequence[float]], others: Sequence[Sequence[float]]
) -> Ratio:
    each = tuple(
        ratio_of(timing.name, base, timing.batch, own, other).p50
        for own, other in zip(blocks, others, strict=True)
    )
    if len(each) < 2:
        return Ratio(timing.name, base, timing.batch, each[0])
    return Ratio(timing.name, base, timing.batch, *ratio_interval(each), each)


def _json(path: Path) -> Any:
    try:
        return json.loads(read_regular(path))
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(f"{path} is not sound JSON") from error
