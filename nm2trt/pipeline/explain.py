"""The ladder of a model or an engine: is it eligible, was a sparse kernel chosen, and if not, why."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.errors import InputError
from nm2trt.pipeline.in_memory import as_path, takes_values
from nm2trt.pipeline.judged_weights import weights_at

if TYPE_CHECKING:
    import onnx

    from nm2trt.engine.evidence.evidence import Evidence
    from nm2trt.engine.ladder.explanation import Explanation
    from nm2trt.manifest import Manifest

_MOST_LOG_BYTES = 1 << 27


@takes_values(models=("path",))
def explain(
    path: str | os.PathLike[str] | onnx.ModelProto,
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
        path: An engine of `build`, with its manifest beside it, an ONNX model, or an `onnx.ModelProto`.
        log: The builder's verbose log.
        layers: The engine inspector's JSON, with detailed verbosity.
        trace: A profiler's list of kernels: CSV of nsys stats, or a JSON trace.
        version: Version that wrote log and layers; by default what they say themselves.
        backend: Builder that a model is judged for; by default the one that `build` takes, or "trt" if a
            log or layers of another tool are given.
        targets: Architectures that a model is judged for, as in "sm80,sm86".
        shapes: One NAME:SHAPE per input of a model; a free batch is 1 by default.

    Raises:
        InputError: A file is wrong, or an engine has no manifest.
    """
    from nm2trt.backends.choice import identify, place_of
    from nm2trt.engine.ladder.explain import explain as explain_ladder
    from nm2trt.engine.ladder.ladder import ladder_rows, with_evidence
    from nm2trt.engine.ladder.ladder_row import LadderRow

    path = as_path(path)
    kind = identify(path)
    if kind is None:
        foreign = log is not None or layers is not None  # TensorRT wrote them
        place = place_of("trt" if foreign and backend is None else backend, targets)
        builder, wanted = place.builder, place.targets
        evidence = _evidence(log, layers, trace, builder=builder, version=version or "")
        rows = ladder_rows(
            weights_at(path, shapes),
            sparsity="enable",
            builder=builder,
            targets=wanted,
            version=place.version,
            evidence=evidence,
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
    from nm2trt.engine.evidence.build_log import identify_log, parse_build_log
    from nm2trt.engine.evidence.evidence import Evidence
    from nm2trt.engine.evidence.inspector_json import parse_layer_information
    from nm2trt.engine.evidence.kernel_trace import parse_kernel_trace
    from nm2trt.files import read_input
    from nm2trt.text_files import decoded

    parts = []
    if log is not None:
        written = decoded(read_input(log, "a build log", most_bytes=_MOST_LOG_BYTES), errors="replace")
        # Line by line: a list of short lines takes twenty times the log's size.
        version = version or identify_log(io.StringIO(written, newline=None)) or built_by
        parts.append(parse_build_log(io.StringIO(written, newline=None), builder=builder, version=version))
    if layers is not None:
        text = decoded(read_input(layers, "a layer information"), errors="replace")
        parts.append(parse_layer_information(text, builder=builder, version=version or built_by))
    if trace is not None:
        parts.append(parse_kernel_trace(decoded(read_input(trace, "a kernel trace"), errors="replace")))
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
