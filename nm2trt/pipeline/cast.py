"""FP16 or BF16 written into an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nm2trt.pipeline.calibration_input import open_calibration, refuse_replacing

if TYPE_CHECKING:
    from nm2trt.graph.cast.cast_model import CastReport

__all__ = ["cast"]


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
    from nm2trt.graph.cast.cast_model import cast_model
    from nm2trt.graph.storage.model import load

    model = Path(model)
    opened = load(model, leave_weights=True)
    out = model.with_suffix(f".{to}.onnx") if output is None else Path(output)
    samples = None
    kept = out.with_suffix(".ranges.npz") if cache is None else Path(cache)
    if calib is not None:
        refuse_replacing(model, out, kept, calib)
        samples = open_calibration(calib, batch, data_root, allow_functions=allow_functions, model=opened)
    return cast_model(
        opened, out, to=to, keep=tuple(keep), io=io, samples=samples, cache=kept, compare=compare
    )
