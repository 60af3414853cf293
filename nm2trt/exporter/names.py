"""Parameter names for the weights that PyTorch's exporter transposes and renames.

A Linear on inputs of rank 3 becomes a MatMul whose weight is stored as (in, out), under a name such as
"val_9". Its numbers are the parameter's, so the name can be given back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

__all__ = ["restore_names"]


def restore_names(model: Any, module: nn.Module) -> None:
    """Rename each initializer that is a matrix parameter transposed after that parameter, in place.

    Args:
        model: The exported onnx_ir model.
        module: What it was exported from, on the CPU.
    """
    graph = model.graph
    taken = {value.name for value in graph.inputs} | set(graph.initializers)
    taken |= {value.name for node in graph.all_nodes() for value in node.outputs}
    parameters = dict(module.named_parameters())
    unnamed: dict[tuple[int, ...], list[Any]] = {}
    for name, value in graph.initializers.items():
        if name not in parameters and value.const_value is not None and len(value.const_value.shape) == 2:
            unnamed.setdefault(tuple(value.const_value.shape.numpy()), []).append(value)
    for name, parameter in parameters.items():
        if parameter.ndim != 2 or name in taken:
            continue
        numbers = parameter.detach().numpy().T
        candidates = unnamed.get(numbers.shape, [])
        found = next((value for value in candidates if _equal(value, numbers)), None)
        if found is not None:
            candidates.remove(found)
            found.name = name
            taken.add(name)


def _equal(value: Any, numbers: Any) -> bool:
    stored = value.const_value.numpy()
    # The first row nearly always decides, and spares the rest of a large matrix.
    return bool(
        stored.dtype == numbers.dtype
        and np.array_equal(stored[:1], numbers[:1])
        and np.array_equal(stored, numbers)
    )
