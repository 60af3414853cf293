"""The scores of one shard of validation samples, for `validate(merge=True)`; and what names such a job."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nm2trt.errors import InputError
from nm2trt.hashes import sha256_file
from nm2trt.pipeline.in_memory import as_path, takes_values
from nm2trt.pipeline.sessions import is_recorded, is_url, open_session

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx
    import torch

    from nm2trt.calibration.parts import ShardReport
    from nm2trt.validation.samples.samples import Samples

_Artefact = str | os.PathLike[str]
_FORMAT = 1


@takes_values(models=("model", "against"), samples=("data",), output="parts")
def validate_shard(
    model: str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module,
    shard: str,
    *,
    against: str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module,
    data: str | os.PathLike[str] | Mapping[str, Any] | npt.ArrayLike,
    labels: Any = None,  # noqa: ARG001 - `takes_values` puts them beside the arrays
    parts: str | os.PathLike[str] | None = None,
    metrics: Sequence[str] = (),
    metric_options: Sequence[str] = (),
    rtol: float | None = None,
    atol: float | None = None,
    min_agreement: float | None = None,
    output: str | None = None,
    batch: int | None = None,
    threads: int = 0,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
) -> ShardReport:
    """Run one shard of the samples through two models, and write scores and differences for a merge.

    `validate` with the same arguments and `merge=True` then compares and judges as if one process had run all
    samples. Latency is not measured here.

    Args:
        model: As `validate` takes it, but not recorded outputs.
        shard: "I/N": this is shard I, counted from 0, of N. It takes whole batches.
        against: The model to compare with, likewise.
        data: The samples of all shards, as `validate` takes them.
        labels: As `validate` takes them.
        parts: Folder of the shards' files; None is `.parts` beside the model.
        metrics: As `validate` takes them.
        metric_options: As `validate` takes them.
        rtol: As `validate` takes it: elements beyond are counted.
        atol: As `validate` takes it.
        min_agreement: As `validate` takes it: agreement is then scored.
        output: As `validate` takes it.
        batch: As `validate` takes it.
        threads: As `validate` takes it.
        data_root: As `validate` takes it.
        allow_functions: As `validate` takes it.

    Raises:
        InputError: A file or option is wrong, there are fewer batches than shards, or as `validate`.
        OutputError: The file cannot be written.
        Nm2trtError: As `validate`; nothing is written.
    """
    from nm2trt.calibration.parts import Shard
    from nm2trt.validation.comparison import ComparisonJob
    from nm2trt.validation.gate import Limits
    from nm2trt.validation.metrics.table import metric_options as read_options
    from nm2trt.validation.samples.open_samples import open_samples
    from nm2trt.validation.shards import score_shard

    which = Shard.parse(shard)
    sides: list[_Artefact] = [
        side if isinstance(side, str) and is_url(side) else as_path(side) for side in (model, against)
    ]
    path = as_path(data)
    refuse_recorded(*sides)
    folder = scores_folder(sides[0], parts)
    tolerance = Limits(rtol, atol, None, min_agreement).tolerance
    with contextlib.ExitStack() as stack:
        candidate, reference = (stack.enter_context(open_session(side, threads=threads)) for side in sides)
        samples = open_samples(
            path, data_root=data_root, allow_functions=allow_functions, inputs=candidate.inputs
        )
        chosen = chosen_metrics(metrics, samples, min_agreement)
        options = read_options(metric_options, chosen)
        job = ComparisonJob.of(
            candidate,
            reference,
            samples,
            metrics=chosen,
            options=options,
            output=output,
            batch=batch,
            tolerance=tolerance,
        )
        key = job_key(sides[0], sides[1], chosen, options, output, tolerance)
        return score_shard(job, samples, which, key=key, folder=folder)


def chosen_metrics(metrics: Sequence[str], samples: Samples, min_agreement: float | None) -> tuple[str, ...]:
    """Return the metrics to score: those named or the default, and what a limit asks for."""
    from nm2trt.validation.comparison import default_metrics

    chosen = tuple(metrics) or default_metrics(samples)
    return (*chosen, "agreement") if min_agreement is not None and "agreement" not in chosen else chosen


def job_key(
    model: _Artefact,
    against: _Artefact,
    metrics: Sequence[str],
    options: Mapping[str, str],
    output: str | None,
    tolerance: tuple[float, float] | None,
) -> dict[str, Any]:
    """Return what tells a validation from another, apart from the samples: models by hash, or by address."""
    from nm2trt.validation.metrics.table import FILE_OPTIONS

    return {
        "format": _FORMAT,
        "kind": "validate",
        "model": _identity(model),
        "reference": _identity(against),
        "metrics": list(metrics),
        "metric options": {
            name: sha256_file(value) if name in FILE_OPTIONS and Path(value).is_file() else value
            for name, value in options.items()
        },
        "output": output,
        "tolerance": None if tolerance is None else list(tolerance),
    }


def _identity(artefact: _Artefact) -> str:
    if is_url(artefact):
        return str(artefact)
    if Path(artefact).suffix == ".onnx":
        from nm2trt.graph.storage.model_hash import model_hash

        return model_hash(artefact)
    return sha256_file(artefact)


def refuse_recorded(*artefacts: _Artefact) -> None:
    """Raise InputError if outputs were recorded, which need no model to run."""
    for artefact in artefacts:
        if is_recorded(artefact):
            raise InputError(
                f"{artefact} holds recorded outputs, which take no time to run; validate without --shard and "
                "--merge"
            )


def scores_folder(model: _Artefact, parts: str | os.PathLike[str] | None) -> Path:
    """Return the folder of the shards' scores.

    Raises:
        InputError: The model is an address, which has no folder, and none is given.
    """
    from nm2trt.calibration.parts import parts_folder

    if parts is None and is_url(model):
        raise InputError(f"{model} has no folder beside it; name one for the shards with --parts")
    return parts_folder(Path(model), parts, ".parts")
