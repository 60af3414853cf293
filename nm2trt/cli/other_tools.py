"""Command lines of trtexec and Polygraphy that do the same as a command of nm2trt."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.terminal_text import shell_line

if TYPE_CHECKING:
    from nm2trt.backends.options import BuildOptions
    from nm2trt.engine.build_result import BuildResult
    from nm2trt.engine.ladder.ladder_row import LadderRow
    from nm2trt.engine.twin.report import TwinReport
    from nm2trt.options.checks import ValidateCommand

_PROGRAMS = {"trt": "trtexec", "trt-rtx": "tensorrt_rtx"}
_ENGINES = (".engine", ".plan", ".trt")
# What a weakly typed builder has to be allowed, by what the ladder says of a weight's type.
_WEAK_TYPES = {"float16": "--fp16", "int8": "--int8"}


def trtexec_line(result: BuildResult) -> str:
    """Return the line that builds the same engine from the same file; "" if trtexec cannot.

    It has no option to pass NaNs through every layer, nor the same one to leave cuBLAS and cuDNN out.
    """
    options = result.options
    program = _program(result.backend, options)
    if not program:
        return ""
    words = [f"--onnx={result.model}", f"--saveEngine={result.engine}"]
    if options.sparsity != "disable":
        words.append(f"--sparsity={options.sparsity}")
    io = {spec.dtype for spec in (*result.inputs, *result.outputs)}
    words += _types(result.backend, result.backend_version, result.ladder, io)
    words += _shapes(options)
    if program == "tensorrt_rtx" and options.targets:
        words.append(f"--computeCapabilities={','.join(t.removeprefix('sm') for t in options.targets)}")
    words += _limits(options)
    return shell_line([program, *words, "--skipInference"])


def trtexec_timing_line(report: TwinReport, model: str | os.PathLike[str], options: BuildOptions) -> str:
    """Return the line that times the engine with sparse kernels only, at the shapes of the twins.

    "" if trtexec cannot; see `trtexec_line`.
    """
    program = _program(report.backend, options)
    if not program:
        return ""
    words = [f"--onnx={model}", "--sparsity=enable"]
    words += _types(report.backend, report.backend_version, report.ladder)
    words += [*_at("shapes", report.feeds), *_limits(options)]
    return shell_line([program, *words, "--noDataTransfers"])


def polygraphy_line(options: ValidateCommand) -> str:
    """Return the line that compares the two models' outputs on random inputs; "" if Polygraphy cannot.

    Polygraphy reads neither labels nor `.npz`; its own JSON of inputs is taken if that is the data.
    """
    sides = [_runner(model) for model in (options.against, options.model)]
    if None in sides:
        return ""
    given = options.data.lower().endswith(".json")
    tolerances = [
        word
        for flag, value in (("--rtol", options.rtol), ("--atol", options.atol))
        if value is not None
        for word in (flag, f"{value:g}")
    ]
    inputs = options.data if given else "inputs.json"
    first = [*(sides[0] or ()), "--load-inputs" if given else "--save-inputs", inputs]
    second = [*(sides[1] or ()), "--load-inputs", inputs, "--load-outputs", "reference.json", *tolerances]
    return (
        f"{shell_line(['polygraphy', 'run', *first, '--save-outputs', 'reference.json'])} && "
        f"{shell_line(['polygraphy', 'run', *second])}"
    )


def _runner(model: str) -> list[str] | None:
    suffix = Path(model).suffix.lower()
    if "://" in model or suffix not in (".onnx", *_ENGINES):
        return None
    return [model, "--onnxrt"] if suffix == ".onnx" else [model, "--trt", "--model-type", "engine"]


def _program(backend: str, options: BuildOptions) -> str:
    """Return the name of NVIDIA's program that takes these options; "" if none does."""
    cannot = options.strict_nans or not options.library_tactics
    return "" if cannot else _PROGRAMS.get(backend, "")


def _types(backend: str, version: str, ladder: Sequence[LadderRow], more: Iterable[str] = ()) -> list[str]:
    """Return the flags of types: TensorRT 8 needs them, 10 one, and later releases none."""
    if backend != "trt":
        return []
    release = version.split(".")[0]
    if release == "10":
        return ["--stronglyTyped"]
    if release != "8":
        return []
    dtypes = {row.dtype.detail.split(":")[0] for row in ladder} | {*more}
    return [flag for dtype, flag in _WEAK_TYPES.items() if dtype in dtypes]


def _shapes(options: BuildOptions) -> list[str]:
    fixed = {shape.input: shape.shape for shape in options.static_shapes}
    many = len(options.profiles) > 1
    words: list[str] = []
    for number, profile in enumerate(options.profiles):
        words += [f"--profile={number}"] if many else []
        for kind in ("min", "opt", "max"):
            ranged = {shapes.input: getattr(shapes, kind) for shapes in profile}
            words += _at(f"{kind}Shapes", {**fixed, **ranged})
    return words or (_at("shapes", fixed) if fixed else [])


def _at(flag: str, shapes: Mapping[str, Sequence[int]]) -> list[str]:
    given = ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items() if shape)
    return [f"--{flag}={given}"] if given else []


def _limits(options: BuildOptions) -> list[str]:
    words = []
    if options.workspace_bytes is not None:
        words.append(f"--memPoolSize=workspace:{options.workspace_bytes / 2**20:g}M")
    if options.effort is not None:
        words.append(f"--builderOptimizationLevel={options.effort}")
    if options.timing_cache is not None:
        words.append(f"--timingCacheFile={options.timing_cache}")
    if not options.tf32:
        words.append("--noTF32")
    return words + [f"--dynamicPlugins={plugin}" for plugin in options.plugins]
