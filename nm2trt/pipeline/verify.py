"""Verification of every weight of an ONNX model: does it hold the pattern, may it run sparse?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from nm2trt.pipeline.in_memory import as_path, takes_values

if TYPE_CHECKING:
    import onnx
    import torch

    from nm2trt.graph.verify.report import VerifyReport
    from nm2trt.nm.pattern import NMPattern


@takes_values()
def verify(
    model: str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module,
    *,
    pattern: NMPattern | str | None = None,
    as_dtype: str | None = None,
    external_data_root: str | os.PathLike[str] | None = None,
    backend: str | None = None,
    targets: str | None = None,
    example: Any = None,  # noqa: ARG001 - `takes_values` exports a module with it
) -> VerifyReport:
    """Judge every weight of an ONNX model: does it hold the pattern, and may a sparse kernel run it?

    Args:
        model: The ONNX file, an `onnx.ModelProto`, or a `torch.nn.Module` with an example.
        pattern: The pattern to hold. By default each weight is held to the plan in the file, or to 2:4
            if there is none. If given, it replaces the plan's patterns;
            layers that the plan keeps dense stay dense.
        as_dtype: "fp16" or "bf16" judges what rounding floating-point weights to that type leaves.
        external_data_root: Folder below which external data is read; by default the real model's folder.
        backend: Builder that "eligible" is answered for: "trt", "trt-rtx" or "ort"; by default the one that
            `build` takes here. No engine library is imported.
        targets: Architectures, as in "sm80,sm86"; "yes" only if all of them say yes. By default those that
            `build` takes here.
        example: With a module, what it takes: a tensor, a tuple (positional) or a dict (by the names of
            `forward`).

    Raises:
        InputError: The path or an argument is wrong.
        ModelError: The file is not a sound ONNX model.
        PatternError: `pattern` is not an N:M pattern.
    """
    from nm2trt.backends.choice import place_of
    from nm2trt.graph.verify.verify_model import verify_model

    place = place_of(backend, targets)
    return verify_model(
        as_path(model),
        pattern=pattern,
        as_dtype=as_dtype,
        external_data_root=external_data_root,
        place=place,
    )
