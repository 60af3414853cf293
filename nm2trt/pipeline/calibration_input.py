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


def refuse_as_output(out: Path, samples: str | os.PathLike[str]) -> None:
    """Raise if an output would replace the samples."""
    from nm2trt.graph.storage.save import is_same_file

    if is_same_file(samples, out):
        raise InputError(f"the output {out} is the file of samples; give another path with -o")


def refuse_replacing(model: Path, out: Path, cache: Path, calib: str | os.PathLike[str]) -> None:
    """Raise if output or cache would replace what is read, or each other, or the cache is a folder."""
    from nm2trt.graph.storage.save import is_same_file

    samples = Path(calib)
    refuse_as_output(out, samples)
    for other, what in ((model, "the model"), (samples, "the file of samples"), (out, "the output")):
        if is_same_file(other, cache):
            raise InputError(f"the cache {cache} is {what}; give another path with --cache")
    if cache.is_dir():
        raise InputError(f"the cache {cache} is a folder; give the path of a file with --cache")
    if cache.parent != out.parent and not cache.parent.is_dir():
        raise InputError(
            f"the folder of the cache {cache} does not exist; create it, or give another --cache"
        )


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
    inputs = input_specs(model) if model is not None and _is_npz(calib) else ()
    samples = open_sample_stream(calib, data_root=data_root, allow_functions=allow_functions, inputs=inputs)
    return samples if batch is None else replace(samples, batch=batch)


def check_samples(calib: str | os.PathLike[str], model: Model) -> None:
    """Raise unless the first sample of an `.npz` fits a model's inputs; a recipe is left to who opens it.

    Raises:
        InputError: The file is missing or damaged.
        DataError: A name, a shape or a type differs; the message says which, and what to rename.
    """
    if not _is_npz(calib):
        return
    from nm2trt.calibration.stream import fitted

    samples = open_calibration(calib, None, None, allow_functions=False, model=model)
    fitted(next(samples.read(1)), input_specs(model), samples.source)


def _is_npz(calib: str | os.PathLike[str]) -> bool:
    return Path(calib).suffix.lower() == ".npz"


def input_specs(model: Model) -> tuple[TensorSpec, ...]:
    """Return what an ONNX model takes; an input without a rank counts as a scalar."""
    from nm2trt.backends.protocol import TensorSpec
    from nm2trt.graph.storage.model_info import describe_model

    return tuple(TensorSpec(x.name, x.dtype, x.shape or ()) for x in describe_model(model).inputs)
