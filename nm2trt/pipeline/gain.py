"""Gain of 2:4 for the layers of a model, by a table measured on one GPU."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nm2trt.errors import InputError
from nm2trt.pipeline.in_memory import as_path, takes_values
from nm2trt.pipeline.judged_weights import weights_at

if TYPE_CHECKING:
    import onnx

    from nm2trt.engine.gain import GainReport
    from nm2trt.nm.gain_table import GainTable

_DTYPES = {"fp16": "float16", "bf16": "bfloat16"}


@takes_values()
def gain(
    model: str | os.PathLike[str] | onnx.ModelProto,
    table: str | os.PathLike[str],
    *,
    shapes: Sequence[str] = (),
    as_dtype: str | None = None,
    device: str | None = None,
    at_least: float | None = None,
    backend: str | None = None,
) -> GainReport:
    """Say which layers of a model would pay for 2:4, by a table that was measured on one GPU.

    Args:
        model: The ONNX model, or an `onnx.ModelProto`; whether it is sparse yet does not matter.
        table: What `benchmarks/gpu_gain.py` wrote.
        shapes: One NAME:SHAPE per input, as in "x:8x3x224x224" or "x:8"; a free batch is 1 by default.
        as_dtype: "fp16", "bf16" or "int8" instead of the model's own type.
        device: Name or architecture of the GPU that the model is for; by default the one that is here.
        at_least: Speed-up from which a layer pays; 1.05 by default.
        backend: Builder that the model is for; by default the one that `build` takes here.

    Raises:
        InputError: A file or shape is wrong, or the table was measured on another GPU.
    """
    from nm2trt.backends.choice import place_of
    from nm2trt.backends.cuda import probe_gpus
    from nm2trt.engine.gain import AT_LEAST, check_device, estimate_gain

    if at_least is not None and not (math.isfinite(at_least) and at_least > 0):
        raise InputError(f"a speed-up of {at_least} is invalid; give a number over 0, as in --at-least 1.05")
    loaded = open_table(table)
    notes = check_device(loaded, device, probe_gpus()[0])
    return estimate_gain(
        weights_at(as_path(model), shapes),
        loaded,
        model=str(model),
        as_dtype=None if as_dtype is None else _DTYPES.get(as_dtype, as_dtype),
        at_least=AT_LEAST if at_least is None else at_least,
        notes=notes,
        place=place_of(backend),
    )


def open_table(table: str | os.PathLike[str]) -> GainTable:
    """Read a gain table.

    Raises:
        InputError: The file is missing, damaged, of a later schema, or empty.
    """
    from nm2trt.files import read_input
    from nm2trt.nm.gain_table import parse_gain_table

    data = read_input(table, "a gain table")
    return parse_gain_table(data, where=str(table))
