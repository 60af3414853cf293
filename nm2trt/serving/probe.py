"""Probe of a served model: its answers batch by batch and while many ask at once, and its latency.

Under concurrency every request carries samples of its own and is checked against their own answers, so that
a batch whose answers are handed to the wrong clients shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.backends._triton_server import TritonServer
from nm2trt.backends.options import format_shape
from nm2trt.backends.ort import open_onnx
from nm2trt.backends.served.statistics import ServerCounts, counted_since, server_time
from nm2trt.backends.triton import TritonSession, open_triton
from nm2trt.compare.output_difference import OutputDifference
from nm2trt.compare.outputs import compare_outputs, require_close
from nm2trt.errors import BackendError, DataError, DifferenceError
from nm2trt.json_value import named
from nm2trt.limits.bounds import bounds
from nm2trt.serving.artefact import Artefact
from nm2trt.serving.config_message import parameter_of, served_differences
from nm2trt.serving.load import LoadLevel, run_level
from nm2trt.serving.options import ProbeOptions
from nm2trt.serving.probe_report import BatchCheck, LoadCheck, ProbeReport
from nm2trt.serving.samples import as_served, fit_samples, random_samples, repeated

# Enough for every client to send something that no other client sends at the time.
_POOL = 64
_MOST_COMPARED = 4096


@dataclass(frozen=True, slots=True)
class _Reference:
    """Samples and what the reference answers to each."""

    inputs: Arrays
    outputs: Arrays
    count: int


def probe_model(
    url: str,
    name: str,
    reference: Artefact,
    *,
    samples: Arrays | None = None,
    config: Any = None,
    options: ProbeOptions | None = None,
) -> ProbeReport:
    """Probe a served model.

    Args:
        url: The server; `grpc://` in front speaks gRPC, `http+shm://` and `grpc+shm://` use shared memory.
        name: The model.
        reference: The ONNX model.
        samples: Real samples by input name; random ones by default.
        config: The ModelConfig that was deployed, to compare the server's with.
        options: How.

    Raises:
        InputError: The address is wrong.
        DataError: The samples do not fit the reference.
        DifferenceError: The served inputs or outputs are others than the reference's.
        BackendError: The model is not loaded, or refuses a request.
        ServerError: The server cannot be reached.
    """
    options = options or ProbeOptions()
    with TritonServer(url, timeout_s=options.timeout_s) as server:
        # Not the server's own readiness, which it denies while it unloads any version of any model.
        if not server.is_model_ready(name):
            raise BackendError(
                f"the server at {server.address.host} has no model {name!r} loaded; see its log"
            )
        metadata, loaded = server.metadata(), server.model_metadata(name)
        served = server.model_config(name)
        notes: list[str] = []
        before = ServerCounts.of(server, name)
        with open_triton(server.address, name, timeout_s=options.timeout_s) as session:
            _require_same_tensors(session, reference)
            known = _answers(reference, samples, session, options)
            batches = tuple(
                _check_batch(session, known, batch, options) for batch in _sizes(session, options)
            )
        notes += [
            f"output {output!r} of the reference is not finite for any sample, so its numbers say nothing"
            for output, array in known.outputs.items()
            if array.size and not np.isfinite(array.astype(np.float64)).any()
        ]
        loads: tuple[LoadCheck, ...] = ()
        if options.concurrency:
            alike = _alike(known)
            if alike:
                notes.append(
                    f"{alike:,} of {known.count:,} samples have identical answers, so swapped responses "
                    "among them cannot be detected"
                )
            loads = tuple(
                _check_load(server, name, known, clients, options) for clients in options.concurrency
            )
        sent = sum(check.batch if session.max_batch else 1 for check in batches)
        sent += sum(check.samples if session.max_batch else check.requests for check in loads)
        statistics = _statistics(server, name, before, sent)
    changes = [] if config is None else served_differences(config, served)
    lineage, sentence = _lineage(parameter_of(served, "nm2trt.mask_sha256"), reference.mask_sha256)
    notes += [*([sentence] if sentence else []), *(f"configuration: {change}" for change in changes)]
    return ProbeReport(
        url=str(server.address),
        name=name,
        server=f"{metadata.get('name')} {metadata.get('version')}",
        versions=tuple(map(str, loaded.get("versions", []))),
        reference=str(reference.path),
        config="not compared" if config is None else "other" if changes else "same",
        lineage=lineage,
        notes=tuple(notes),
        batches=batches,
        loads=loads,
        statistics=statistics,
    )


def _require_same_tensors(session: TritonSession, reference: Artefact) -> None:
    for what, served, wanted in (
        ("input", session.inputs, reference.inputs),
        ("output", session.outputs, reference.outputs),
    ):
        theirs, ours = ({spec.name: spec.dtype for spec in specs} for specs in (served, wanted))
        if theirs != ours:
            raise DifferenceError(
                f"the served model's {what}s are {theirs}, those of {reference.path} {ours}"
            )
        shapes = {spec.name: spec.shape for spec in served}
        for spec in wanted:
            # One scalar per sample is served as one element. A shape may be unknown, which says nothing.
            mine, other = spec.shape[1:] or (1,), shapes[spec.name][1:] or (1,)
            known = [pair for pair in zip(mine, other, strict=False) if all(isinstance(k, int) for k in pair)]
            if spec.shape and (len(mine) != len(other) or any(a != b for a, b in known)):
                raise DifferenceError(
                    f"the served model's {what} {spec.name!r} has shape {format_shape(shapes[spec.name])}, "
                    f"that of {reference.path} {format_shape(spec.shape)}"
                )


def _answers(
    reference: Artefact, samples: Arrays | None, session: TritonSession, options: ProbeOptions
) -> _Reference:
    """Run the reference on every sample; a fixed batch is one sample of its own here."""
    fixed = _fixed_batch(session)
    firsts = {spec.shape[0] for spec in reference.inputs if spec.shape and isinstance(spec.shape[0], int)}
    if len(firsts) > 1:
        raise DataError(
            f"the inputs of {reference.path} have different first dimensions, {sorted(firsts)}: only models "
            "whose inputs have the batch first can be probed"
        )
    count = max(_POOL, *_sizes(session, options)) if fixed is None else _POOL * fixed
    _require_affordable(reference, count, session)
    if samples is None:
        inputs = random_samples(reference.inputs, count, seed=options.seed)
    else:
        given = fit_samples(reference.inputs, samples, "the data")
        inputs = repeated(given, max(count, 1), options.seed)
    parts: dict[str, list[Array]] = {}
    with open_onnx(reference.path) as runtime:
        step = fixed or 1
        for start in range(0, count, step):
            answer = runtime.run({name: array[start : start + step] for name, array in inputs.items()})
            for name, array in answer.items():
                if array.ndim == 0 or len(array) != step:
                    raise DataError(
                        f"output {name!r} of {reference.path} has shape {array.shape} for a batch of {step}: "
                        "only models whose outputs have the batch first can be probed"
                    )
                parts.setdefault(name, []).append(array)
    outputs = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return _Reference(as_served(session.inputs, inputs), as_served(session.outputs, outputs), count)


def _require_affordable(reference: Artefact, count: int, session: TritonSession) -> None:
    """Raise BackendError if the batch that the server states takes more memory than samples may."""
    elements = sum(
        math.prod(size for size in spec.shape[1:] if isinstance(size, int)) for spec in reference.inputs
    )
    if count * max(elements, 1) * 4 > bounds().sample_bytes:
        stated = _fixed_batch(session) or session.max_batch
        most = f"{bounds().sample_bytes / (1 << 30):g} GB"
        raise BackendError(
            f"the server states a batch of {stated}, whose {count} samples exceed the {most} for samples; "
            "give --batch, or raise nm2trt --sample-memory"
        )


def _fixed_batch(session: TritonSession) -> int | None:
    sizes = [spec.shape[0] for spec in session.inputs if spec.shape]
    return next((size for size in sizes if isinstance(size, int)), None)


def _sizes(session: TritonSession, options: ProbeOptions) -> list[int]:
    fixed, most = _fixed_batch(session), session.max_batch
    if fixed is not None:
        return [fixed]
    if options.batches:
        return list(options.batches)
    if not most:
        return [1, 3]
    return sorted({size for size in (1, 3, most // 2 | 1, most - 1, most) if 1 <= size <= most})


def _check_batch(session: TritonSession, known: _Reference, batch: int, options: ProbeOptions) -> BatchCheck:
    picked = np.arange(batch)
    answer = session.run({name: np.ascontiguousarray(array[picked]) for name, array in known.inputs.items()})
    return BatchCheck(batch, *_compared(answer, known, picked, options))


def _compared(
    answer: Arrays, known: _Reference, picked: Array, options: ProbeOptions
) -> tuple[tuple[OutputDifference, ...], str]:
    differences: list[OutputDifference] = []
    try:
        differences = compare_outputs(answer, {name: array[picked] for name, array in known.outputs.items()})
        require_close(differences, dtype=options.precision, what="served")
    except DifferenceError as error:
        return tuple(differences), str(error)
    return tuple(differences), ""


def _alike(known: _Reference) -> int:
    """Count the samples whose answer is that of another within a thousandth of the largest value."""
    columns = [array.reshape(known.count, -1)[:_POOL] for array in known.outputs.values()]
    # A share of large outputs is enough to tell samples apart.
    rows = np.concatenate(
        [part[:, :: part.shape[1] // _MOST_COMPARED + 1].astype(np.float64) for part in columns], axis=1
    )
    rows = np.nan_to_num(rows, posinf=0.0, neginf=0.0)
    limit = 1e-3 * (float(np.abs(rows).max(initial=0.0)) or 1.0)
    return sum(int((np.abs(rows - row).max(axis=1, initial=0.0) < limit).sum()) > 1 for row in rows)


def _check_load(
    server: TritonServer, name: str, known: _Reference, clients: int, options: ProbeOptions
) -> LoadCheck:
    wrong, problem = 0, ""

    def check(answer: Arrays, picked: Array) -> None:
        nonlocal wrong, problem
        found = _compared(answer, known, picked, options)[1]
        wrong += bool(found)
        problem = problem or found

    requests = max(options.requests, clients)
    levels: list[LoadLevel] = []

    def send() -> None:
        levels.append(
            run_level(
                lambda: open_triton(server.address, name, timeout_s=options.timeout_s),
                known.inputs,
                clients=clients,
                requests=requests,
                check=check,
                seed=options.seed,
            )
        )

    served = server_time(server, name, send, requests)
    level = levels[0]
    return LoadCheck(
        concurrency=clients,
        requests=level.requests,
        samples=level.samples,
        wrong=wrong,
        problem=problem,
        latency=level.latency,
        requests_per_s=level.requests_per_s,
        server=served,
    )


def _statistics(server: TritonServer, name: str, before: ServerCounts, sent: int) -> dict[str, Any]:
    """Return what the server counted of the samples that were sent."""
    found = counted_since(before, server, name, inferences=sent)
    return {
        **named(found, "inferences executions failures"),
        "queue_ms": found.nanoseconds["queue_ms"] / 1e6,
        "compute_ms": found.nanoseconds["infer_ms"] / 1e6,
        "executions_by_batch": dict(found.executions_by_batch),
    }


def _lineage(served: str, reference: str) -> tuple[str, str]:
    if not served or not reference:
        whose = "the served model" if not served else "the reference"
        return "unknown", f"{whose} carries no mask hash, so their masks cannot be compared"
    if served == reference:
        return "same", ""
    return "other", (
        f"the served model has other masks ({served[:12]}) than the reference ({reference[:12]}): another "
        "lineage; outputs are compared anyway"
    )
