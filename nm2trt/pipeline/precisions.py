"""Another precision in the graph: cast, quantise."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nm2trt.errors import InputError

if TYPE_CHECKING:
    from nm2trt.calibration.ranges import Method
    from nm2trt.calibration.stream import SampleStream
    from nm2trt.graph.precision import CastReport
    from nm2trt.graph.quantize_report import QuantizeReport

__all__ = ["cast", "quantize"]


def cast(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    to: Literal["fp16", "bf16"] = "fp16",
    keep: Sequence[str] = (),
    io: bool = False,
    calib: str | os.PathLike[str] | None = None,
    batch: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
    compare: bool = True,
) -> CastReport:
    """Cast an ONNX model to fp16 or bf16; weights that hold N:M still do.

    Args:
        model: The float32 ONNX file.
        output: The file to write; None puts `.fp16.onnx` (or `.bf16.onnx`) beside the model.
        to: "fp16" or "bf16".
        keep: Globs on names of nodes, or types of operators, that stay in float32 too.
        io: Cast the model's inputs and outputs too.
        calib: Samples (an `.npz` of arrays by input name, or a calibration recipe) that show which values
            overflow; the nodes around those stay in float32.
        batch: Samples of a batch; None takes the recipe's, and few for an `.npz`.
        cache: File that keeps what calibration found; None puts `.ranges.npz` beside the output.
        data_root: Folder that a recipe's paths are relative to; its own by default.
        allow_functions: Run a recipe's `function` source, which is code.
        compare: Run both models in ONNX Runtime and say how far they differ.

    Raises:
        InputError: A path or an option is wrong, or the model is not sound or has nothing to cast.
        DataError: The samples do not fit the model.
        DifferenceError: An output becomes NaN or infinite.
        LineageError: A zero was lost.
        Interrupted: Calibration was stopped.
    """
    from nm2trt.graph.precision import cast_model

    model = Path(model)
    out = model.with_suffix(f".{to}.onnx") if output is None else Path(output)
    samples = None
    kept = out.with_suffix(".ranges.npz") if cache is None else Path(cache)
    if calib is not None:
        _refuse_replacing(model, out, kept, calib)
        samples = _samples(calib, batch, data_root, allow_functions=allow_functions)
    return cast_model(
        model, out, to=to, keep=tuple(keep), io=io, samples=samples, cache=kept, compare=compare
    )


def quantize(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    calib: str | os.PathLike[str],
    to: Literal["int8", "fp8"] = "int8",
    method: Method = "minmax",
    percentile: float = 99.99,
    exclude: Sequence[str] = (),
    float_weights: bool = False,
    float_depthwise: bool = False,
    batch: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
    compare: bool = True,
) -> QuantizeReport:
    """Quantise an ONNX model with explicit Q/DQ; weights that hold N:M still do.

    Args:
        model: The float32 ONNX file.
        output: The file to write; None puts `.int8.onnx` (or `.fp8.onnx`) beside the model.
        calib: Samples: an `.npz` of arrays by input name, or a calibration recipe.
        to: "int8" or "fp8" (E4M3FN).
        method: How ranges are chosen: "minmax", "percentile" or "entropy".
        percentile: Share of magnitudes inside a range, in percent, for "percentile".
        exclude: Globs on names of nodes and weights that stay float.
        float_weights: Keep weights in float behind a Q/DQ pair, as older parsers want them.
        float_depthwise: Leave depthwise convolutions, which never have sparse kernels, in float.
        batch: Samples of a batch; None takes the recipe's, and few for an `.npz`.
        cache: File that keeps what calibration found; None puts `.ranges.npz` beside the output.
        data_root: Folder that a recipe's paths are relative to; its own by default.
        allow_functions: Run a recipe's `function` source, which is code.
        compare: Run both models on the first batch and say how far they differ.

    Raises:
        InputError: A path or an option is wrong, or the model is not sound, not float32, or of too old an
            opset.
        DataError: The samples do not fit the model.
        LineageError: A zero was lost.
        Interrupted: Calibration was stopped; the cache is up to date.
    """
    from nm2trt.graph.quantize import quantize_model
    from nm2trt.graph.quantize_report import QuantizeOptions

    options = QuantizeOptions(to, method, percentile, tuple(exclude), float_weights, float_depthwise)
    model = Path(model)
    out = model.with_suffix(f".{to}.onnx") if output is None else Path(output)
    kept = out.with_suffix(".ranges.npz") if cache is None else Path(cache)
    _refuse_replacing(model, out, kept, calib)
    samples = _samples(calib, batch, data_root, allow_functions=allow_functions)
    return quantize_model(model, out, samples, options, cache=kept, compare=compare)


def _refuse_replacing(model: Path, out: Path, cache: Path, calib: str | os.PathLike[str]) -> None:
    """Raise when the output or the cache would replace what is read, or each other."""
    from nm2trt.graph.save import is_same_file

    samples = Path(calib)
    if is_same_file(samples, out):
        raise InputError(f"the output {out} is the file of samples; give another path with -o")
    for other, what in ((model, "the model"), (samples, "the file of samples"), (out, "the output")):
        if is_same_file(other, cache):
            raise InputError(f"the cache {cache} is {what}; give another path with --cache")


def _samples(
    calib: str | os.PathLike[str],
    batch: int | None,
    data_root: str | os.PathLike[str] | None,
    *,
    allow_functions: bool,
) -> SampleStream:
    from nm2trt.calibration.stream import open_samples

    if batch is not None and batch < 1:
        raise InputError(f"a batch of {batch} holds no sample; give 1 or more")
    samples = open_samples(calib, data_root=data_root, allow_functions=allow_functions)
    return samples if batch is None else replace(samples, batch=batch)
