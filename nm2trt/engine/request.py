"""Request of a build, checked before the model is read and before it is parsed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nm2trt.backends.options import BuildOptions
from nm2trt.backends.protocol import Backend
from nm2trt.errors import BackendError, InputError
from nm2trt.files import check_input, check_output, unnamed_output
from nm2trt.manifest import manifest_path, refuse_foreign


def check_request(
    model: Path, out: Path | None, options: BuildOptions, backend: Backend
) -> tuple[Path, BuildOptions]:
    """Check what can be checked before the model is opened.

    Returns:
        Where the engine goes, and the options with the targets chosen.

    Raises:
        InputError: The model cannot be read, or a target is unknown to the backend.
        BackendError: The backend cannot do what the options ask.
        OutputError: Engine or manifest cannot be written there.
    """
    check_input(model, "an ONNX model")
    backend.check(options)
    options = replace(options, targets=backend.choose_targets(options.targets))
    if options.timing_cache is not None:
        check_output(options.timing_cache)
    out = unnamed_output(model.with_suffix(backend.suffix)) if out is None else out
    for path in (check_output(out), check_output(manifest_path(out))):
        if path.exists() and path.samefile(model):
            raise InputError(f"{path} is the model itself; choose another output path with -o")
    refuse_foreign(out)
    cache = options.timing_cache
    if cache is not None and cache.resolve() in [path.resolve() for path in (model, out, manifest_path(out))]:
        raise InputError(f"{cache} is the model, the engine or its manifest; name another timing cache")
    return out, options


def refuse_opset(opset: int | None, backend: Backend, model: Path) -> None:
    """Refuse a model of an ONNX opset that the backend cannot read.

    Raises:
        BackendError: It cannot; both numbers are named.
    """
    if opset is not None and backend.max_opset is not None and opset > backend.max_opset:
        raise BackendError(
            f"{model} has ONNX opset {opset}, {backend.name} {backend.version} reads up to "
            f"{backend.max_opset}; export it with opset={backend.max_opset}"
        )


def refuse_unreadable(backend: Backend, model: Path, *, blocked: str, hazard: str) -> None:
    """Refuse a model that TensorRT's parser would misread, or crash at.

    Args:
        backend: The builder; any but ONNX Runtime.
        model: The ONNX file.
        blocked: What `nm2trt.graph.analysis.parser_hazards.blocked_node` found.
        hazard: What `nm2trt.graph.analysis.parser_hazards.parser_hazard` found.

    Raises:
        BackendError: There is such a node.
    """
    if blocked:
        raise BackendError(
            f"{model} has {blocked} in ONNX Runtime's blocked layout, whose weights {backend.name} would "
            "read in the wrong order; export the original model, which ONNX Runtime did not optimise"
        )
    if hazard:
        raise BackendError(f"{backend.name} cannot read {model}: {hazard}")
