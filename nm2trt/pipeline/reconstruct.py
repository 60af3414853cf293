"""A model rebuilt to N:M from samples: BatchNorms folded, then masks and values solved layer by layer."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.errors import InputError
from nm2trt.pipeline.calibration_input import open_calibration

if TYPE_CHECKING:
    from nm2trt.graph.reconstruct.report import ReconstructOptions, ReconstructReport

__all__ = ["reconstruct"]


def reconstruct(
    model: str | os.PathLike[str],
    output: Path,
    options: ReconstructOptions,
    *,
    calib: str | os.PathLike[str],
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
) -> ReconstructReport:
    """Write an N:M copy of a model whose masks and values are solved from samples.

    Args:
        model: The float32 ONNX file.
        output: The file to write.
        options: Pattern, weights, seed.
        calib: Samples: an `.npz` of arrays by input name, or a calibration recipe.
        data_root: Folder that a recipe's paths are relative to; its own by default.
        allow_functions: Run a recipe's `function` source, which is code.

    Raises:
        InputError: A path or an option is wrong, or the model is not sound or is quantised.
        DataError: The samples do not fit the model.
        SparsityError: No weight can hold the pattern.
    """
    from nm2trt.graph.fuse.fuse_model import fuse_model
    from nm2trt.graph.reconstruct.reconstruct_model import check_request, reconstruct_model
    from nm2trt.graph.storage.save import is_same_file

    model = Path(model)
    if is_same_file(calib, output):
        raise InputError(f"the output {output} is the file of samples; give another path with -o")
    samples = open_calibration(calib, None, data_root, allow_functions=allow_functions)
    check_request(model, output)
    with tempfile.TemporaryDirectory(prefix="nm2trt-") as folder:
        # A folded BatchNorm leaves each layer a bias, which is what repairs means.
        fused = Path(folder) / model.name
        done = fuse_model(model, fused)
        report = reconstruct_model(fused, output, samples, options, name=str(model))
    return replace(
        report, batchnorms_folded=done.batchnorms_folded, parent_mask_sha256=done.parent_mask_sha256
    )
