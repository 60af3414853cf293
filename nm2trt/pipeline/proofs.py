"""Is it eligible, was a sparse kernel chosen, does it pay?"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.errors import InputError

if TYPE_CHECKING:
    from nm2trt.engine.evidence import Evidence
    from nm2trt.engine.gain import GainReport
    from nm2trt.engine.reasons import Explanation
    from nm2trt.manifest import Manifest
    from nm2trt.nm.verdict import WeightVerdict

__all__ = ["explain", "gain"]

_DTYPES = {"fp16": "float16", "bf16": "bfloat16"}


def gain(
    model: str | os.PathLike[str],
    table: str | os.PathLike[str],
    *,
    shapes: Sequence[str] = (),
    as_dtype: str | None = None,
    device: str | None = None,
    at_least: float | None = None,
) -> GainReport:
    """Say which layers of a model would pay for 2:4, by a table that was measured on one GPU.

    Args:
        model: The ONNX model; whether it is sparse yet does not matter.
        table: What `benchmarks/gpu_gain.py` wrote.
        shapes: One NAME:SHAPE an input, as in "x:8x3x224x224" or "x:8"; a free batch is 1 by default.
        as_dtype: "fp16", "bf16" or "int8" instead of the model's own type.
        device: Name or architecture of the GPU that the model is for; by default the one that is here.
        at_least: Speed-up from which a layer pays; 1.05 by default.

    Raises:
        InputError: A file or shape is wrong, or the table was measured on another GPU.
    """
    from nm2trt.backends.cuda import probe_gpus
    from nm2trt.engine.gain import AT_LEAST, check_device, estimate_gain
    from nm2trt.files import check_input
    from nm2trt.nm.gain_table import parse_gain_table

    if at_least is not None and not (math.isfinite(at_least) and at_least > 0):
        raise InputError(f"a speed-up of {at_least} is none; give a number over 0, as in --at-least 1.05")
    path = check_input(table, "a gain table (benchmarks/gpu_gain.py makes one)")
    loaded = parse_gain_table(path.read_bytes(), where=str(path))
    notes = check_device(loaded, device, probe_gpus()[0])
    return estimate_gain(
        _weights_at(Path(model), shapes),
        loaded,
        model=str(model),
        as_dtype=None if as_dtype is None else _DTYPES.get(as_dtype, as_dtype),
        at_least=AT_LEAST if at_least is None else at_least,
        notes=notes,
    )


def explain(
    path: str | os.PathLike[str],
    *,
    log: str | os.PathLike[str] | None = None,
    layers: str | os.PathLike[str] | None = None,
    trace: str | os.PathLike[str] | None = None,
    version: str | None = None,
    backend: str | None = None,
    targets: str | None = None,
    shapes: Sequence[str] = (),
) -> Explanation:
    """Say why an engine is not faster: the reasons that apply, in order, with their share of the work.

    Args:
        path: An engine of `build`, with its manifest beside it, or an ONNX model.
        log: The builder's verbose log.
        layers: The engine inspector's JSON, with detailed verbosity.
        trace: A profiler's list of kernels: CSV of nsys stats, or a JSON trace.
        version: Version that wrote log and layers; by default what they say themselves.
        backend: Builder that a model is judged for; by default the one that `build` takes, or "trt" where a
            log or layers of another tool are given.
        targets: Architectures that a model is judged for, as in "sm80,sm86".
        shapes: One NAME:SHAPE an input of a model; a free batch is 1 by default.

    Raises:
        InputError: A file is wrong, or an engine has no manifest.
    """
    from nm2trt.backends.choice import identify
    from nm2trt.engine.proof import LadderRow, climb, with_evidence
    from nm2trt.engine.reasons import explain as explain_ladder

    path = Path(path)
    kind = identify(path)
    if kind is None:
        builder, wanted = _judged_for(backend, targets, foreign=log is not None or layers is not None)
        evidence = _evidence(log, layers, trace, builder=builder, version=version or "")
        rows = climb(
            _weights_at(path, shapes), sparsity="enable", builder=builder, targets=wanted, evidence=evidence
        )
        return explain_ladder(str(path), rows, evidence, builder=builder, targets=wanted, built=False)
    manifest = _manifest_of(path)
    evidence = _evidence(
        log,
        layers,
        trace,
        builder=manifest.backend,
        version=version or "",
        built_by=manifest.versions.get(manifest.backend, ""),
    )
    rows = tuple(LadderRow.from_json(row, where=f"{path.name}.json") for row in manifest.ladder)
    if log or layers or trace:
        rows = with_evidence(rows, evidence)
    return explain_ladder(
        str(path),
        rows,
        evidence,
        builder=manifest.backend,
        targets=manifest.targets,
        built=True,
        strict_nans=bool(manifest.options.get("strict_nans")),
    )


def _judged_for(backend: str | None, targets: str | None, *, foreign: bool) -> tuple[str, tuple[str, ...]]:
    """Return builder and architectures that a model is judged for."""
    from nm2trt.backends.choice import choose_backend
    from nm2trt.backends.options import parse_targets
    from nm2trt.errors import BackendMissingError

    wanted = () if targets is None else parse_targets(targets)
    if backend is not None or foreign:
        return backend or "trt", wanted
    try:
        builder = choose_backend()
    except BackendMissingError:
        return "", wanted
    return builder.name, builder.choose_targets(wanted)


def _evidence(
    log: str | os.PathLike[str] | None,
    layers: str | os.PathLike[str] | None,
    trace: str | os.PathLike[str] | None,
    *,
    builder: str,
    version: str,
    built_by: str = "",
) -> Evidence:
    """Read what a builder and a profiler said of an engine.

    A log's own word on its version goes before `built_by`, that of the engine's manifest.
    """
    from nm2trt.engine.build_log import identify_log, parse_build_log
    from nm2trt.engine.evidence import Evidence
    from nm2trt.engine.kernel_trace import parse_kernel_trace
    from nm2trt.engine.layer_information import parse_layer_information
    from nm2trt.files import check_input

    parts = []
    if log is not None:
        lines = check_input(log, "a build log").read_text(errors="replace").splitlines()
        version = version or identify_log(lines) or built_by
        parts.append(parse_build_log(lines, builder=builder, version=version))
    if layers is not None:
        text = check_input(layers, "a layer information").read_text(errors="replace")
        parts.append(parse_layer_information(text, builder=builder, version=version or built_by))
    if trace is not None:
        parts.append(parse_kernel_trace(check_input(trace, "a kernel trace").read_text(errors="replace")))
    return Evidence.merged(parts)


def _manifest_of(engine: Path) -> Manifest:
    from nm2trt.manifest import read_manifest

    try:
        fit = read_manifest(engine)
    except OSError as error:
        raise InputError(f"{engine} cannot be read: {error.strerror or error}") from error
    if fit.manifest is None:
        raise InputError(
            f"{engine} has no record of its weights: {fit.sentence}; or explain its ONNX model, with --log, "
            "--layers or --trace of this engine"
        )
    return fit.manifest


def _weights_at(model: Path, texts: Sequence[str]) -> tuple[WeightVerdict, ...]:
    """Judge a model's weights, with their work at these shapes of its inputs."""
    from nm2trt.backends.options import parse_static_shapes
    from nm2trt.backends.protocol import TensorSpec
    from nm2trt.engine.profiles import resolve_static
    from nm2trt.graph.describe import describe_model
    from nm2trt.graph.model import load
    from nm2trt.graph.shapes import with_macs
    from nm2trt.graph.verify import verify_model

    report = verify_model(model)
    if not texts:
        return report.weights
    inputs = tuple(TensorSpec(x.name, x.dtype, x.shape or ()) for x in describe_model(model).inputs)
    fixed = resolve_static(inputs, parse_static_shapes(texts))
    opened = load(model, leave_weights=True)
    return with_macs(opened, report.weights, {shape.input: shape.shape for shape in fixed})
