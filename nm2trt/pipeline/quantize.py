"""INT8 or FP8 written into an ONNX file as Q/DQ nodes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from nm2trt.options.shares import parse_share
from nm2trt.pipeline.calibration_input import open_calibration, refuse_replacing
from nm2trt.pipeline.in_memory import as_path, takes_values

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx
    import torch

    from nm2trt.calibration.collectors import Method
    from nm2trt.graph.quantize.report import QuantizeReport


@takes_values(samples=("calib",), output="output")
def quantize(
    model: str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module,
    output: str | os.PathLike[str] | None = None,
    *,
    calib: str | os.PathLike[str] | Mapping[str, Any] | npt.ArrayLike,
    to: Literal["int8", "fp8"] = "int8",
    method: Method = "minmax",
    percentile: float = 99.99,
    exclude: Sequence[str] = (),
    float_weights: bool = False,
    float_depthwise: bool = False,
    max_loss: str | float | None = None,
    batch: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
    compare: bool = True,
    example: Any = None,  # noqa: ARG001 - `takes_values` exports a module with it
    merge: bool = False,
    parts: str | os.PathLike[str] | None = None,
) -> QuantizeReport:
    """Quantise an ONNX model with explicit Q/DQ; weights that hold N:M still do.

    A file of too old an opset is converted first, and its outputs are compared.

    Args:
        model: The float32 ONNX file; or, with an output, an `onnx.ModelProto`, or a `torch.nn.Module` with an
            example or with arrays as `calib`.
        output: The file to write; None puts `.int8.onnx` (or `.fp8.onnx`) beside the model.
        calib: Samples: arrays by input name (a dict or an `.npz`), one array for a model with one input, or a
            calibration recipe.
        to: "int8" or "fp8" (E4M3FN).
        method: How ranges are chosen: "minmax", "percentile" or "entropy".
        percentile: Share of magnitudes inside a range, in percent, for "percentile".
        exclude: Globs on names of nodes and weights that stay float.
        float_weights: Store weights as floats followed by a Q/DQ pair, for older parsers.
        float_depthwise: Leave depthwise convolutions, which never have sparse kernels, in float.
        max_loss: Search ranges, and layers to leave in float, until at most this share of held-out samples
            changes its answer ("2%" or 0.02; of an output without scores: until at most this share of its
            variance is lost); `method` and `percentile` are then ignored.
        batch: Samples of a batch; None takes the recipe's, and few for an `.npz`.
        cache: File that keeps what calibration found; None puts `.ranges.npz` beside the output.
        data_root: Folder that a recipe's paths are relative to; its own by default.
        allow_functions: Run a recipe's `function` source, which is code.
        compare: Run both models on the first batch and say how far they differ.
        example: With a module, what it takes: a tensor, a tuple (positional) or a dict (by the names of
            `forward`).
        merge: Merge the ranges that `quantize_shard` found in each shard instead of running the samples.
        parts: Folder of those ranges; None is `.int8.parts` (or `.fp8.parts`) beside the model.

    Raises:
        InputError: A path or an option is wrong, or the model is not sound or not float32, or it is of too
            old an opset and cannot be converted.
        DifferenceError: The conversion to a newer opset changed the outputs, or no ranges and placement are
            within `max_loss`; nothing is written.
        DataError: The samples do not fit the model, or what the shards found is not complete.
        LineageError: A zero was lost.
        Interrupted: Calibration was stopped; the cache is up to date.
    """
    from nm2trt.calibration.parts import parts_folder
    from nm2trt.files import real_output, suffixed, unnamed_output
    from nm2trt.graph.quantize.quantize_model import quantize_model
    from nm2trt.graph.quantize.report import QuantizeOptions
    from nm2trt.graph.storage.model import load

    limit = None if max_loss is None else parse_share(max_loss, "the samples", "2%")
    options = QuantizeOptions(to, method, percentile, tuple(exclude), float_weights, float_depthwise, limit)
    model = as_path(model)
    out = unnamed_output(suffixed(model, f".{to}.onnx")) if output is None else Path(output)
    kept = suffixed(out, ".ranges.npz") if cache is None else real_output(cache)
    calib = cast("str", calib)
    refuse_replacing(model, out, kept, calib)
    opened = load(model, leave_weights=True)
    samples = open_calibration(calib, batch, data_root, allow_functions=allow_functions, model=opened)
    folder = parts_folder(model, parts, f".{to}.parts") if merge else None
    return quantize_model(opened, out, samples, options, cache=kept, compare=compare, parts=folder)
