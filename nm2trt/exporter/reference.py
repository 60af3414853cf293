"""Reference outputs of PyTorch, and whether ONNX Runtime computes them from the exported file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree

from nm2trt.arrays import Array
from nm2trt.backends.ort import open_onnx
from nm2trt.compare.output_difference import OutputDifference
from nm2trt.compare.outputs import compare_outputs, require_close
from nm2trt.errors import DataError, DifferenceError, InputError, ModelError
from nm2trt.exporter.dynamo_export import kind_and_line
from nm2trt.exporter.example import Example


def run_reference(model: nn.Module, example: Example, dtype: torch.dtype) -> Any:
    """Return what `model` returns for `example`, its floating inputs in `dtype`.

    Raises:
        DataError: The model fails on the example.
    """
    typed = example.typed(dtype)
    try:
        with torch.no_grad():
            return model(*typed.args, **typed.kwargs)
    except Exception as error:
        raise DataError(
            f"the model fails on the example (batch {example.batch}): {kind_and_line(error)}"
        ) from error


def output_names_of(returned: Any, names: Sequence[str] | None) -> tuple[str, ...]:
    """Return one name for each tensor that the model returns.

    Args:
        returned: What the model returned.
        names: The caller's names, or None for the defaults: a dict's keys, else "output" or "output_0"...

    Raises:
        InputError: The names are too few, too many or repeated.
        DataError: The model returned no tensor.
    """
    count = len(_tensors(returned))
    if count == 0:
        raise DataError(
            f"the model returns no tensor but {type(returned).__name__}; there is nothing to export"
        )
    if names is not None:
        if len(names) != count or len(set(names)) != count:
            raise InputError(
                f"output_names {list(names)} must be {count} different names, one per returned tensor"
            )
        return tuple(names)
    if isinstance(returned, Mapping) and len(returned) == count:
        return tuple(str(key) for key in returned)
    return ("output",) if count == 1 else tuple(f"output_{index}" for index in range(count))


def compare_with_runtime(
    path: Path,
    model: nn.Module,
    example: Example,
    returned: Any,
    names: tuple[str, ...],
    dtype: torch.dtype,
) -> tuple[OutputDifference, ...]:
    """Compare ONNX Runtime's outputs with PyTorch's, on the example and on another batch size.

    Args:
        path: The exported file.
        model: The model in float32, the reference for every dtype.
        example: The example; if its batch is free, a batch of twice its size plus one is run too.
        returned: What `model` returned for the example.
        names: Output names.
        dtype: The dtype exported; its tolerance applies.

    Returns:
        The differences of the example, then those of the other batch.

    Raises:
        DifferenceError: An output differs by more than the tolerance.
    """
    label = str(dtype).removeprefix("torch.")
    found: list[OutputDifference] = []
    try:
        session = open_onnx(path)
    except ModelError as error:
        reason = str(error).partition(": ")[2]
        raise InputError(f"ONNX Runtime cannot load what PyTorch exported: {reason}") from error
    with session:
        for batch in (example.batch, 2 * example.batch + 1) if example.dynamic else (example.batch,):
            sized = example if batch == example.batch else example.resized(batch)
            expected = returned if batch == example.batch else run_reference(model, sized, torch.float32)
            feeds = {
                name: tensor.numpy()
                for name, tensor in zip(sized.names, sized.typed(dtype).tensors, strict=True)
            }
            outputs = session.run(feeds)
            reference = dict(zip(names, arrays_of(expected), strict=True))
            what = f"ONNX Runtime against PyTorch (batch {batch})"
            try:
                differences = compare_outputs(outputs, reference)
            except DifferenceError as error:
                raise DifferenceError(f"{what}: {error}; nothing was written") from error
            require_close(differences, dtype=label, what=what)
            found += differences
    return tuple(found)


def _tensors(returned: Any) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(returned) if isinstance(leaf, Tensor)]


def arrays_of(returned: Any) -> list[Array]:
    """Return the tensors of what a model returned as arrays, in order."""
    return [np.asarray(tensor.detach().numpy()) for tensor in _tensors(returned)]
