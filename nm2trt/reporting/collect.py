"""Collection of a run's records into what a report shows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath

from nm2trt.backends.address import is_url
from nm2trt.nm.eligibility import NOWHERE, Place
from nm2trt.reporting.curves import curves_of
from nm2trt.reporting.data import RUNGS, AccuracyRow, Answer, ReasonRow, ReportData, StageRow, WeightRow
from nm2trt.reporting.decision import files_of, outlook_of, sparse_work_of, speed_of
from nm2trt.reporting.fields import Fields
from nm2trt.reporting.folder import RunFolder
from nm2trt.reporting.judged import eligible_of, place_of_record
from nm2trt.reporting.latency_rows import latency_rows
from nm2trt.reporting.lineage import lineage_of
from nm2trt.reporting.rebuilt import rebuilt_of
from nm2trt.reporting.records import STAGES, RunHeader, StageRecord
from nm2trt.reporting.sentences import sentence_of

Done = list[tuple[StageRecord, Fields]]
Producers = list[tuple[PurePath, StageRecord]]


def collect(folder: str | os.PathLike[str]) -> ReportData:
    """Read the folder of a run.

    Raises:
        InputError: It is not the folder of a run, of another release, or a record is damaged.
    """
    run = RunFolder(folder)
    header, found = run.header(), run.records()
    records = [record for record in found if _belongs(record, header)]
    reports = {"report", *(record.name for record in found if record.stage == "report")}
    results = [(record, Fields(dict(record.result), _where(run, record))) for record in records]
    # A failed gate keeps its figures: they are what the reader came for.
    done = [(record, fields) for record, fields in results if record.status == "done" or record.result]
    producers = [(PurePath(file.path), record) for record, _ in done for file in record.outputs]
    weights, weights_of = _weights(done)
    versions: dict[str, str] = {"nm2trt": header.nm2trt}
    for record, fields in done:
        versions.update({str(key): str(value) for key, value in record.versions.items()})
        if fields.has("backend") and fields.has("backend_version"):
            versions[fields.text("backend")] = fields.text("backend_version")
    return ReportData(
        name=header.name,
        created=header.created,
        stages=_stages([name for name in header.stages if name not in reports], results),
        accuracy=_accuracy(done, producers),
        weights=weights,
        weights_of=weights_of,
        reasons=_reasons(done),
        latency=latency_rows(done),
        curves=curves_of(run.telemetry()),
        lineage=lineage_of([record for record, _ in done]),
        versions=versions,
        notes=_notes(done),
        outlook=outlook_of(done),
        sparse_work=sparse_work_of(done),
        speed=speed_of(done),
        files=files_of(done),
        rebuilt=rebuilt_of(done),
    )


def _belongs(record: StageRecord, header: RunHeader) -> bool:
    """Tell whether a record is part of the run: not a report, nor a stage that the recipe has no longer.

    Only `nm2trt run` writes a key; what others put into the folder stays.
    """
    dropped = bool(record.key and header.stages) and record.name not in header.stages
    return record.stage != "report" and not dropped


def _where(run: RunFolder, record: StageRecord) -> str:
    path = run.stage_path(record.name)
    wrapped = record.started or record.command or record.key or record.outputs
    return f"{path}: result" if wrapped else f"{path}: value"


def _stages(wanted: Iterable[str], results: Done) -> tuple[StageRow, ...]:
    by_name = {record.name: (record, fields) for record, fields in results}
    rows = []
    for name in [*wanted, *(name for name in by_name if name not in set(wanted))]:
        if name not in by_name:
            rows.append(StageRow(name, name, "not run", None, "", ""))
            continue
        record, fields = by_name[name]
        done = record.status == "done"
        sentence = record.sentence or (sentence_of(record.stage, fields) if done else "")
        measured = record.stage == "validate" and bool(fields.data)  # one that ended early has no result
        lost = measured and any(row.lost for row in _validated_accuracy(fields, []))
        rows.append(
            StageRow(name, record.stage, record.status, record.seconds, sentence, record.command, lost)
        )
    return tuple(rows)


def _accuracy(done: Done, producers: Producers) -> tuple[AccuracyRow, ...]:
    rows: dict[tuple[str, ...], AccuracyRow] = {}
    for record, fields in done:
        if record.stage == "accuracy":
            found = [_given_accuracy(item) for item in fields.objects("entries")]
        elif record.stage == "validate":
            found = _validated_accuracy(fields, producers)
        else:
            continue
        for row in found:
            rows[row.stage, row.model, row.metric, fields.text("data", ""), row.reference] = row
    # A reference is met in every comparison; if it was itself compared on the same data, that says more.
    compared = {key[:4] for key in rows if key[4]}
    kept = [row for key, row in rows.items() if key[4] or key[:4] not in compared]
    kinds = {record.name: record.stage for _, record in producers}
    return tuple(sorted(kept, key=lambda row: _rank(row.stage, kinds)))


def _rank(standing: str, kinds: Mapping[str, str]) -> int:
    order = ("PyTorch", "ONNX", *STAGES[: STAGES.index("build")], "engine", "served")
    found = kinds.get(standing, standing)
    return order.index(found) if found in order else len(order)


def _given_accuracy(item: Fields) -> AccuracyRow:
    return AccuracyRow(
        stage=item.text("stage"),
        model=item.text("name"),
        metric=item.text("metric", "top-1"),
        value=item.number("value"),
        low=item.maybe("low"),
        high=item.maybe("high"),
        n=item.count("n"),
        reference=item.text("reference", ""),
        difference=item.maybe("difference"),
        difference_low=item.maybe("difference_low"),
        difference_high=item.maybe("difference_high"),
    )


def _validated_accuracy(fields: Fields, producers: Producers) -> list[AccuracyRow]:
    names = {side: fields.text(side) for side in ("candidate", "reference")}
    return [
        AccuracyRow(
            stage=_standing(names[side], producers),
            model=PurePath(names[side]).name,
            metric=metric.text("name"),
            value=metric.object(side).number("value"),
            low=metric.object(side).maybe("low"),
            high=metric.object(side).maybe("high"),
            n=paired.count("n"),
            reference=PurePath(names["reference"]).name if side == "candidate" else "",
            difference=paired.maybe("difference") if side == "candidate" else None,
            difference_low=paired.maybe("low") if side == "candidate" else None,
            difference_high=paired.maybe("high") if side == "candidate" else None,
        )
        for metric in fields.objects("metrics")
        if metric.data.get("against_reference") is not True
        for paired in (metric.object("paired"),)
        for side in ("reference", "candidate")
    ]


def _standing(name: str, producers: Producers) -> str:
    """Say where in the pipeline a model stands: by the stage that wrote it, or by its kind."""
    if is_url(name):
        return "served"
    parts = PurePath(name).parts
    producer = next(
        (record for path, record in reversed(producers) if parts[-len(path.parts) :] == path.parts), None
    )
    if producer is not None and producer.stage != "export":
        return "engine" if producer.stage == "build" else producer.name
    suffix = PurePath(name).suffix
    return {".onnx": "ONNX", ".pt2": "PyTorch"}.get(suffix, "engine" if suffix else "model")


def _weights(done: Done) -> tuple[tuple[WeightRow, ...], str]:
    """Join the last verdicts with the last ladder, weight by weight."""
    verdicts: list[Fields] = []
    ladder: list[Fields] = []
    place, model = NOWHERE, ""
    for record, fields in done:
        if record.stage == "verify":
            verdicts, model = fields.objects("weights"), fields.text("model", "")
            place = place_of_record(fields)
        elif record.stage in ("build", "prove", "explain"):
            found = fields.objects("ladder")
            if found:
                ladder, model = found, fields.text("model", "") or fields.text("subject", model)
    rungs = {(row.text("weight"), row.text("consumer", "")): row for row in ladder}
    seen = {(row.text("weight"), row.text("consumer", "")) for row in verdicts}
    if rungs and not seen & rungs.keys():
        # Another model was built than verified: what was built counts.
        return tuple(_weight(row, row, place) for row in ladder), PurePath(model).name
    rows = [
        _weight(row, rungs.get((row.text("weight"), row.text("consumer", ""))), place) for row in verdicts
    ]
    return tuple(rows), PurePath(model).name


def _weight(verdict: Fields, row: Fields | None, place: Place) -> WeightRow:
    laddered = verdict is row
    return WeightRow(
        weight=verdict.text("weight"),
        operator=verdict.text("operator", ""),
        shape=verdict.sizes("shape"),
        dtype="" if laddered else verdict.text("dtype", ""),
        status="" if laddered else verdict.text("pattern", ""),
        wanted="" if laddered else verdict.text("wanted", ""),
        zero_share=verdict.maybe("zero_share"),
        parameters=verdict.count("parameters"),
        macs=verdict.count("macs"),
        rungs=_from_verdict(verdict, place) if row is None else _from_ladder(row),
        sentence=(row or verdict).text("sentence", ""),
    )


def _from_ladder(row: Fields) -> dict[str, Answer]:
    found = {key: row.object(key) for key in RUNGS}
    return {key: Answer(rung.text("answer", ""), rung.text("detail", "")) for key, rung in found.items()}


def _from_verdict(verdict: Fields, place: Place) -> dict[str, Answer]:
    status, wanted = verdict.text("pattern", ""), verdict.text("wanted", "")
    answers = dict.fromkeys(RUNGS, Answer("", ""))
    answers["pattern"] = Answer(
        "yes" if status == "holds" else "no", wanted if status == "holds" else status.replace("-", " ")
    )
    if status == "holds":
        eligible = eligible_of(verdict, place)
        answers["fits"] = Answer(eligible, "eligible" if eligible == "yes" else verdict.text("reason", ""))
        answers["dtype"] = Answer("", verdict.text("dtype", ""))
    return answers


def _reasons(done: Done) -> tuple[ReasonRow, ...]:
    """Return the reasons of the last `explain`."""
    found = [fields for record, fields in done if record.stage == "explain"]
    return tuple(
        ReasonRow(
            reason.text("rung", ""),
            reason.text("sentence"),
            len(reason.texts("weights")),
            reason.maybe("share"),
            reason.text("remedy", ""),
        )
        for reason in (found[-1].objects("reasons") if found else ())
    )


def _notes(done: Done) -> tuple[str, ...]:
    notes: list[str] = []
    for record, fields in done:
        if record.stage in ("build", "prove", "explain", "quantize", "cast", "deploy", "probe", "gain"):
            notes += [f"{record.name}: {note}" for note in fields.texts("notes")]
            kind = fields.text("kind", "")
            if record.stage == "build" and kind:
                notes.append(f"{record.name}: {Path(fields.text('engine', '')).name} is a {kind}")
        elif record.stage == "prune":
            for key in ("quantized", "budget"):
                notes += [f"{record.name}: {note}" for note in fields.object(key).texts("notes")]
    return tuple(dict.fromkeys(notes))
