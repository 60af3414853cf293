"""Validation of a model against another on the same samples."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nm2trt.errors import DifferenceError, InputError, Nm2trtError
from nm2trt.files import check_input
from nm2trt.pipeline.in_memory import takes_values
from nm2trt.pipeline.sessions import backend_of, is_recorded, is_url, open_session

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx
    import torch

    from nm2trt.backends.protocol import Session
    from nm2trt.validation.latency.benchmark import Benchmark
    from nm2trt.validation.report import ValidationReport
    from nm2trt.validation.samples.samples import Samples

_Artefact = str | os.PathLike[str]


@takes_values(models=("model", "against"), samples=("data",))
def validate(
    model: str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module,
    against: str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module,
    data: str | os.PathLike[str] | Mapping[str, Any] | npt.ArrayLike,
    *,
    labels: Any = None,  # noqa: ARG001 - `takes_values` puts them beside the arrays
    metrics: Sequence[str] = (),
    metric_options: Sequence[str] = (),
    max_drop: str | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    min_cosine: float | None = None,
    min_agreement: float | None = None,
    output: str | None = None,
    batch: int | None = None,
    runs: int = 200,
    warmup: int = 20,
    threads: int = 0,
    bisect: bool = False,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
    merge: bool = False,
    parts: str | os.PathLike[str] | None = None,
) -> ValidationReport:
    """Compare two models on the same samples: task metrics with paired intervals, outputs, latency.

    Each side is an ONNX model, an engine, an exported PyTorch program (`.pt2`), a served model
    (`http://HOST:PORT/MODEL`, `grpc://...`), or outputs that Polygraphy saved (`.json`). ONNX Runtime and
    PyTorch run on the CPU, on which zeros bring no speed.

    Args:
        model: The model in question, e.g. the sparse one; also an `onnx.ModelProto`, or a module, which is
            exported.
        against: The model to compare with, e.g. the dense one; likewise.
        data: An `.npz` with the inputs by their names and what is known under `labels`, a calibration recipe
            (`.yaml`), or inputs that Polygraphy saved (`.json`); or arrays by input name, or one array for a
            model with one input.
        labels: With arrays as `data`, what is known of each sample.
        metrics: Names in `nm2trt.validation.metrics.table.METRICS`, or `module:function`; top-1 and
            agreement by default if there are labels.
        metric_options: Options of the metrics, as "blank=0".
        max_drop: Largest loss that may not be excluded, as "0.5pt"; judged for each metric that was named, or
            for top-1. `ValidationReport.require_passed` raises when it is.
        rtol: With `atol`, a limit for every element of every output: |a - b| <= atol + rtol * |b|, b the
            reference; one that is not given is 0.
        atol: See `rtol`.
        min_cosine: Lowest cosine of every output; that of an all-zero output is undefined, and fails.
        min_agreement: Lowest share of samples for which both name the same class, from 0 to 1.
        output: Output that the metrics read; by default the only one of a fitting rank. If only one side
            has other outputs, only those that both have are compared.
        batch: Batch size; for the metrics 64 by default, for latency 1.
        runs: Timed runs of each model; 0 leaves latency out.
        warmup: Fewest runs before, not timed.
        threads: Threads of ONNX Runtime; 0 leaves it to the library.
        bisect: Also name the first tensor inside that differs; both must be ONNX models.
        data_root: Folder of a recipe's paths; its own by default.
        allow_functions: Run a recipe's source of kind `function`.
        merge: Take scores and differences from what `validate_shard` wrote for each shard instead of running
            the samples; latency is measured here.
        parts: Folder of what the shards wrote; None is `.parts` beside the model.

    Raises:
        InputError: A file or option is wrong, the data does not fit a model, or a metric fails.
        DifferenceError: The models' outputs cannot be compared, or are NaN.
        BackendError: A library is missing or failed.
        ServerError: A server cannot be reached.
        Interrupted: The user stopped it.

    An error in the midst of the samples carries the report of those before it, as `error.partial`.
    """
    from nm2trt.pipeline.validate_shard import chosen_metrics, job_key, refuse_recorded, scores_folder
    from nm2trt.validation.comparison import compare_sessions, default_metrics
    from nm2trt.validation.gate import Limits, hold_to, parse_drop
    from nm2trt.validation.metrics.table import metric_options as read_options
    from nm2trt.validation.report import ValidationReport
    from nm2trt.validation.samples.open_samples import open_samples
    from nm2trt.validation.shards import merged_sessions

    model, against = cast("_Artefact", model), cast("_Artefact", against)
    data = cast("_Artefact", data)
    if runs < 0 or warmup < 0:
        raise InputError(f"{runs} runs after {warmup} cannot be timed; give 0 or more")
    drop = None if max_drop is None else parse_drop(max_drop)
    limits = Limits(rtol, atol, min_cosine, min_agreement)
    if bisect:
        _require_onnx(model, against)
    if merge:
        refuse_recorded(model, against)
    names = (str(model), str(against), str(data))
    with contextlib.ExitStack() as stack:
        # The samples are laid out as a model's inputs are, and recorded outputs are those of the samples.
        live = [
            None if is_recorded(side) else stack.enter_context(open_session(side, threads=threads))
            for side in (model, against)
        ]
        inputs = next((session.inputs for session in live if session is not None), ())
        samples = open_samples(data, data_root=data_root, allow_functions=allow_functions, inputs=inputs)
        gated = set(metrics) or set(default_metrics(samples)[:1])
        if drop is not None and not gated:
            raise InputError("--max-drop needs a metric, and the data has no labels; name one with --metric")
        chosen = chosen_metrics(metrics, samples, min_agreement)
        options = read_options(metric_options, chosen)
        candidate, reference = (
            session or stack.enter_context(_recorded(side, samples))
            for session, side in zip(live, (model, against), strict=True)
        )
        compare = compare_sessions
        if merge:
            key = job_key(model, against, chosen, options, output, limits.tolerance)
            folder = scores_folder(model, parts)
            compare = functools.partial(merged_sessions, key=key, folder=folder)
        try:
            comparison = compare(
                candidate,
                reference,
                samples,
                metrics=chosen,
                options=options,
                output=output,
                batch=batch,
                tolerance=limits.tolerance,
            )
        except Nm2trtError as error:
            if error.partial is not None:
                error.partial = ValidationReport(*names, error.partial)
            if bisect and isinstance(error, DifferenceError):
                # Outputs that cannot be compared are when the node is wanted most.
                with contextlib.suppress(Nm2trtError):
                    where = _bisection(Path(model), Path(against), candidate, reference, samples)
                    error.args = (f"{error}; {where['sentence']}",)
            raise
        gates = () if drop is None else tuple(hold_to(m, drop) for m in comparison.metrics if m.name in gated)
        gates += tuple(limits.judge(comparison.differences, comparison.metrics))
        report = ValidationReport(*names, comparison, gates=gates)
        try:
            found = _bisection(Path(model), Path(against), candidate, reference, samples) if bisect else None
            benchmark = None
            if runs and not any(is_recorded(side) for side in (model, against)):
                sides = {"candidate": (model, candidate), "reference": (against, reference)}
                benchmark = _timed(sides, samples, runs, warmup, batch or 1, threads)
        except Nm2trtError as error:
            error.partial = report
            raise
    return ValidationReport(*names, comparison, benchmark, gates, found)


def _recorded(artefact: _Artefact, samples: Samples) -> Session:
    from nm2trt.validation.samples.polygraphy_json import load_outputs
    from nm2trt.validation.samples.recorded_session import RecordedSession

    return RecordedSession(load_outputs(artefact), samples)


def _timed(
    sides: Mapping[str, tuple[_Artefact, Session]],
    samples: Samples,
    runs: int,
    warmup: int,
    batch: int,
    threads: int,
) -> Benchmark:
    from nm2trt.validation.latency.bench import bench_sessions
    from nm2trt.validation.samples.feeder import first_batch

    return bench_sessions(
        {name: session for name, (_, session) in sides.items()},
        lambda session, size: first_batch(session, samples, size),
        runs=runs,
        warmup=warmup,
        batches=(batch,),
        conditions={
            **{f"backend of {name}": backend_of(artefact) for name, (artefact, _) in sides.items()},
            "threads": str(threads or "the library's default"),
        },
    )


def _require_onnx(*artefacts: _Artefact) -> None:
    for artefact in artefacts:
        if is_url(artefact) or Path(artefact).suffix.lower() != ".onnx":
            raise InputError(
                f"--bisect looks inside both models, and {artefact} shows only its outputs; bisect the ONNX "
                "model that it was made from, or let Polygraphy build that with every tensor as an output, "
                f"on the engine's GPU: {_polygraphy(artefact)}"
            )


def _polygraphy(artefact: _Artefact) -> str:
    """Return the command that compares every tensor of an engine's model, which its manifest names."""
    from nm2trt.backends.choice import identify
    from nm2trt.manifest import read_manifest

    model, library = "MODEL.onnx", ""
    if not is_url(artefact):
        path = check_input(artefact, "an engine")
        manifest = read_manifest(path).manifest
        model = model if manifest is None else str(path.with_name(manifest.model))
        library = "POLYGRAPHY_USE_TENSORRT_RTX=1 " if identify(path) == "trt-rtx" else ""
    return f"{library}polygraphy run {model} --onnxrt --trt --onnx-outputs mark all --trt-outputs mark all"


def _bisection(
    model: Path, against: Path, candidate: Session, reference: Session, samples: Samples
) -> dict[str, Any]:
    from nm2trt.graph.execute.bisect import bisect_models
    from nm2trt.validation.samples.feeder import Feeder, first_batch

    sides = {"candidate": candidate, "reference": reference}
    batches = {Feeder(session, samples, what=side).fixed for side, session in sides.items()}
    fixed = sorted(batch for batch in batches if batch is not None)
    if len(fixed) > 1:
        raise InputError(
            f"--bisect gives both models the same samples, and their batches are fixed to {fixed[0]} and "
            f"{fixed[1]}; export one with the other's batch, or with a free one"
        )
    size = fixed[0] if fixed else min(4, len(samples))
    feeds = [first_batch(session, samples, size) for session in sides.values()]
    return bisect_models(model, against, *feeds).to_json()
