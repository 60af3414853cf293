"""The samples of cast and quantize, and the files that they may not replace."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.errors import InputError

if TYPE_CHECKING:
    from nm2trt.backends.protocol import TensorSpec
    from nm2trt.calibration.stream import SampleStream
    from nm2trt.graph.storage.model import Model


def refuse_replacing(model: Path, out: Path, cache: Path, calib: str | os.PathLike[str]) -> None:
    """Raise when the output or the cache would replace what is read, or each other."""
    from nm2trt.graph.storage.save import is_same_file

    samples = Path(calib)
    if is_same_file(samples, out):
        raise InputError(f"the output {out} is the file of samples; give another path with -o")
    for other, what in ((model, "the model"), (samples, "the file of samples"), (out, "the output")):
        if is_same_file(other, cache):
            raise InputError(f"the cache {cache} is {what}; give another path with --cache")


def open_calibration(
    calib: str | os.PathLike[str],
    batch: int | None,
    data_root: str | os.PathLike[str] | None,
    *,
    allow_functions: bool,
    model: Model | None = None,
) -> SampleStream:
    """Open calibration samples, in batches of `batch` unless it is None, as `model`'s inputs lay them out.

    Raises:
        InputError: The batch is below 1, or a path is wrong.
        DataError: The samples cannot be read.
    """
    from nm2trt.calibration.stream import open_sample_stream

    if batch is not None and batch < 1:
        raise InputError(f"a batch of {batch} holds no sample; give 1 or more")
    inputs: tuple[TensorSpec, ...] = ()
    if model is not None and Path(calib).suffix.lower() == ".npz":
        from nm2trt.backends.protocol import TensorSpec
        from nm2trt.graph.storage.model_info import describe_model

        inputs = tuple(TensorSpec(x.name, x.dtype, x.shape or ()) for x in describe_model(model).inputs)
    samples = open_sample_stream(calib, data_root=data_root, allow_functions=allow_functions, inputs=inputs)
    return samples if batch is None else replace(samples, batch=batch)
