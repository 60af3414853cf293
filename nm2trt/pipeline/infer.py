"""One run of one artefact: the first thing to try."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from nm2trt.pipeline.in_memory import takes_values
from nm2trt.pipeline.sessions import is_url, open_session, parse_shapes

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx
    import torch

    from nm2trt.validation.inference import InferResult


@takes_values(models=("artefact",), samples=("data",), output="output")
def infer(
    artefact: str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module,
    output: str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | Mapping[str, Any] | npt.ArrayLike | None = None,
    batch: int | None = None,
    shapes: Sequence[str] = (),
    seed: int = 0,
    threads: int = 0,
) -> InferResult:
    """Run an artefact on what a file holds, or on random inputs, and save its outputs.

    Args:
        artefact: An ONNX model, an engine, a `.pt2` program, or the address of a served model;
            or, with an output, an `onnx.ModelProto`, or a `torch.nn.Module` with arrays as `data`.
        output: The `.npz` to write, outputs by their names; None puts `.outputs.npz` beside the artefact, and
            in the current folder for a served model.
        data: Arrays by input name, or one array for a model with one input; or a file: `.npz`, `.npy` if
            there is one input, Polygraphy's `.json`, or a recipe. None draws inputs by shape and dtype.
        batch: Largest batch to run at once; with random inputs, the batch to draw.
        shapes: Whole shapes of random inputs, as "x:1x3x224x224".
        seed: Seed of the random inputs.
        threads: Threads of ONNX Runtime; 0 leaves it to the library.

    Raises:
        InputError: A file or argument is wrong, or the data does not fit.
        OutputError: The outputs cannot be written.
        BackendError: A library is missing or failed.
        ServerError: The server cannot be reached.
    """
    from nm2trt.backends.feeds import random_feeds
    from nm2trt.files import check_output, unnamed_output
    from nm2trt.validation.inference import InferResult, read_inputs, run_once, save_arrays, summarise

    artefact, data = cast("str", artefact), cast("str | None", data)
    sources = [artefact] if data is None else [artefact, data]
    target = check_output(
        unnamed_output(_default_output(artefact)) if output is None else output, sources=sources
    )
    given = parse_shapes(shapes)
    with open_session(artefact, threads=threads) as session:
        if data is None:
            arrays = random_feeds(session.inputs, batch=batch or 1, free=None, seed=seed, shapes=given)
            outputs, conversions, taken = run_once(session, arrays, batch=None)
        else:
            arrays = read_inputs(data, session)
            outputs, conversions, taken = run_once(session, arrays, batch=batch)
    save_arrays(target, outputs)
    source = f"random, seed {seed}" if data is None else str(data)
    tensors = tuple(summarise(name, array) for name, array in outputs.items())
    return InferResult(str(artefact), source, target, tensors, conversions, taken)


def _default_output(artefact: str | os.PathLike[str]) -> Path:
    if is_url(artefact):
        name = urlsplit(str(artefact)).path.strip("/").replace("/", "-") or "served"
        return Path(f"{name}.outputs.npz")
    from nm2trt.files import suffixed

    return suffixed(artefact, ".outputs.npz")
