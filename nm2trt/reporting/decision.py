"""Decision to ship: the work that can run sparse, measured speed, and the files that a next command names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from nm2trt.measure import no_speed
from nm2trt.reporting.data import AccuracyRow, ReportData, SparseWork, SpeedRow
from nm2trt.reporting.fields import Fields
from nm2trt.reporting.judged import asked_outlook, eligible_of, place_of_record
from nm2trt.reporting.records import StageRecord


def decisive(data: ReportData) -> list[AccuracyRow]:
    """Return the comparisons that say something about what the run leads to.

    That is what `build` and `deploy` made, or else the model that was made last, and all that it was made
    from. A variant that was only compared decides nothing, unless nothing else was compared.
    """
    compared = [row for row in data.accuracy if row.difference is not None]
    nodes = {node.key: node for node in data.lineage}
    last = {stage.name for stage in data.stages if stage.stage in ("build", "deploy")}
    waiting = [node for node in data.lineage if node.stage in last] or list(data.lineage[-1:])
    leading: set[str] = set()
    while waiting:
        node = waiting.pop()
        if node.key not in leading:
            leading.add(node.key)
            waiting += [nodes[key] for key in node.parents if key in nodes]
    names = {node.name for node in data.lineage if node.key in leading}
    aside = {node.name for node in data.lineage} - names
    return [row for row in compared if row.model not in aside] or compared


def outlook_of(done: Iterable[tuple[StageRecord, Fields]]) -> str:
    """Return the last answer of a stage to "how much can run sparse?": a build's, or else `verify`'s."""
    said = [
        (record.stage, asked_outlook(fields) if record.stage == "verify" else fields.text("outlook", ""))
        for record, fields in done
    ]
    builds = [text for stage, text in said if text and stage == "build"]
    return next(reversed(builds or [text for _, text in said if text]), "")


def sparse_work_of(done: Iterable[tuple[StageRecord, Fields]]) -> SparseWork | None:
    """Return how much of the work can run sparse kernels, by the last `build`, or else the last `verify`."""
    found: dict[str, SparseWork] = {}
    for record, fields in done:
        if record.stage == "build":
            forecast, options = fields.object("forecast"), fields.object("options")
            work = _share(forecast.maybe("eligible"), forecast.maybe("macs"))
            place = _place(options.texts("targets"), fields.text("backend", ""))
        elif record.stage == "verify":
            rows = fields.objects("weights")
            where = place_of_record(fields)
            counts = [(row.maybe("macs"), eligible_of(row, where)) for row in rows]
            known = [(macs, answer) for macs, answer in counts if macs is not None]
            able = sum(macs for macs, answer in known if answer == "yes")
            work = _share(able, sum(macs for macs, _ in known)) if len(known) == len(counts) else None
            place = _place(fields.texts("targets"), fields.text("builder", ""))
        else:
            continue
        if work is not None:
            found[record.stage] = SparseWork(work, place)
    return found.get("build", found.get("verify"))


def speed_of(done: Iterable[tuple[StageRecord, Fields]]) -> tuple[SpeedRow, ...]:
    """Return the speed-ups with an interval, from engines that can run sparse kernels only.

    Those are `prove` on a GPU, and `bench --processes` unless all it timed was ONNX Runtime on a CPU.
    """
    rows: list[SpeedRow] = []
    for record, fields in done:
        if record.stage == "prove" and fields.data.get("measured") is True:
            # What the flag brings to the same weights comes first: the report opens with it.
            flag = ("sparse-on", "sparse-off")
            pairs = fields.objects("comparisons")
            pairs.sort(key=lambda pair: (pair.text("name"), pair.text("against")) != flag)
            rows += [
                SpeedRow(
                    pair.text("name"),
                    pair.text("against"),
                    pair.number("speedup"),
                    pair.number("low"),
                    pair.number("high"),
                    fields.text("device", ""),
                )
                for pair in pairs
            ]
        elif record.stage == "bench":
            conditions = {key: str(value) for key, value in fields.object("conditions").data.items()}
            if not no_speed(conditions):
                rows += _benched(fields, conditions.get("device", ""))
    return tuple(rows)


def files_of(done: Iterable[tuple[StageRecord, Fields]]) -> dict[str, str]:
    """Return the files that a next command may name, as paths from the working folder if they lie below it.

    Keys: "model" (the last one verified or built), "engine", "dense" (the first one pruned), and of the last
    comparison "candidate", "reference" and "data".
    """
    found: dict[str, str] = {}
    for record, fields in done:
        keys: Mapping[str, tuple[str, ...]] = {
            "verify": ("model",),
            "build": ("model", "engine"),
            "validate": ("candidate", "reference", "data"),
        }
        for key in keys.get(record.stage, ()):
            if value := fields.text(key, ""):
                found[key] = _shown(value)
        if record.stage == "prune" and (value := fields.text("model", "")):
            found.setdefault("dense", _shown(value))
    return found


def _benched(fields: Fields, device: str) -> list[SpeedRow]:
    rows = []
    for ratio in fields.objects("ratios"):
        low, high = ratio.maybe("low"), ratio.maybe("high")
        if low and high:
            name, base = (Path(ratio.text(key)).name for key in ("name", "base"))
            rows.append(SpeedRow(name, base, 1 / ratio.number("p50"), 1 / high, 1 / low, device))
    return rows


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _place(targets: Iterable[str], builder: str) -> str:
    return " with ".join(filter(None, (", ".join(targets), builder)))


def _shown(path: str) -> str:
    if "://" in path or not Path(path).is_absolute():
        return path
    try:
        below = Path(path).relative_to(Path.cwd())
    except (ValueError, OSError):
        return path
    return str(below)
