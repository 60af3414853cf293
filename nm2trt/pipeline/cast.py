"""FP16 or BF16 written into an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from typing import cast as typed

from nm2trt.pipeline.calibration_input import open_calibration, refuse_replacing
from nm2trt.pipeline.in_memory import as_path, takes_values

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx
    import torch

    from nm2trt.graph.cast.report import CastReport


@takes_values(samples=("calib",), output="output")
def cast(
    model: str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module,
    output: str | os.PathLike[str] | None = None,
    *,
    to: Literal["fp16", "bf16"] = "fp16",
    keep: Sequence[str] = (),
    io: bool = False,
    calib: str | os.PathLike[str] | Mapping[str, Any] | npt.ArrayLike | None = None,
    batch: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
    compare: bool = True,
    example: Any = None,  # noqa: ARG001 - `takes_values` exports a module with it
) -> CastReport:
    """Cast an ONNX model to fp16 or bf16; weights that hold N:M still do.

    Args:
        model: The float32 ONNX file; or, with an output, an `onnx.ModelProto`, or a `torch.nn.Module` with an
            example or with arrays as `calib`.
        output: The file to write; None puts `.fp16.onnx` (or `.bf16.onnx`) beside the model.
        to: "fp16" or "bf16".
        keep: Globs on names of nodes, or types of operators, that stay in float32 too.
        io: Cast the model's inputs and outputs too.
        calib: Samples, as `quantize` takes them, that show which values overflow; the nodes around those stay
            in float32.
        batch: Samples of a batch; None takes the recipe's, and few for an `.npz`.
        cache: File that keeps what calibration found; None puts `.ranges.npz` beside the output.
        data_root: Folder that a recipe's paths are relative to; its own by default.
        allow_functions: Run a recipe's `function` source, which is code.
        compare: Run both models in ONNX Runtime and say how far they differ.
        example: With a module, what it takes: a tensor, a tuple (positional) or a dict (by the names of
            `forward`).

    Raises:
        InputError: A path or an option is wrong, or the model is not sound or has nothing to cast.
        DataError: The samples do not fit the model.
        DifferenceError: An output becomes NaN or infinite.
        LineageError: A zero was lost.
        Interrupted: Calibration was stopped.
    """
    from nm2trt.files import real_output, suffixed, unnamed_output
    from nm2trt.graph.cast.cast_model import cast_model
    from nm2trt.graph.storage.model import load

    model, calib = as_path(model), typed("str | None", calib)
    opened = load(model, leave_weights=True)
    out = unnamed_output(suffixed(model, f".{to}.onnx")) if output is None else Path(output)
    samples = None
    kept = suffixed(out, ".ranges.npz") if cache is None else real_output(cache)
    if calib is not None:
        refuse_replacing(model, out, kept, calib)
        samples = open_calibration(calib, batch, data_root, allow_functions=allow_functions, model=opened)
    return cast_model(
        opened, out, to=to, keep=tuple(keep), io=io, samples=samples, cache=kept, compare=compare
    )
