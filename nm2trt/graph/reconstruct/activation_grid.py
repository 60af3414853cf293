"""Integer grid of a joint solve: activations of the pruned stream rounded to INT8, weights to be rounded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["IntegerGrid", "rounded_feeds", "with_pairs"]

Array = npt.NDArray[Any]
_LOWEST, _HIGHEST = -128, 127


@dataclass(frozen=True, slots=True, eq=False)
class IntegerGrid:
    """What computes in INT8.

    Args:
        scales: Scale of each value that is rounded.
        weights: Names of the weights that are rounded.
        nearest: Rounds a weight that no layer solves, given its name and numbers.
        largest: Largest integer of a weight.
        steps: Scale of each output of a weight, by its name; filled by the solve.
    """

    scales: Mapping[str, float]
    weights: Collection[str]
    nearest: Callable[[str, Array], Array]
    largest: int = 127
    steps: dict[str, Array] = field(default_factory=dict)


def rounded_feeds(feeds: Mapping[str, Array], grid: IntegerGrid) -> dict[str, Array]:
    """Return a model's inputs with those of the grid rounded."""
    return {name: _rounded(array, grid.scales.get(name)) for name, array in feeds.items()}


def _rounded(array: Array, scale: float | None) -> Array:
    if scale is None or array.dtype != np.float32:
        return array
    step = np.float32(scale)
    return np.asarray(np.clip(np.rint(array / step), _LOWEST, _HIGHEST) * step, np.float32)


def with_pairs(
    nodes: Sequence[onnx.NodeProto], scales: Mapping[str, float]
) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """Return nodes that round some of their outputs, and the constants for it.

    Args:
        nodes: The nodes, in order; they are left as they were.
        scales: Scale of each output that is rounded under its own name.
    """
    if not scales:
        return list(nodes), []
    zero = "nm2trt/zero_point"
    constants = [numpy_helper.from_array(np.zeros((), np.int8), zero)]
    found: list[onnx.NodeProto] = []
    for node in nodes:
        names = [name for name in node.output if name in scales]
        if not names:
            found.append(node)
            continue
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.output[:]
        copy.output.extend(f"{name}/float" if name in scales else name for name in node.output)
        found.append(copy)
        for name in names:
            step = f"{name}/step"
            constants.append(numpy_helper.from_array(np.array(scales[name], np.float32), step))
            integers = f"{name}/integers"
            found.append(helper.make_node("QuantizeLinear", [f"{name}/float", step, zero], [integers]))
            found.append(helper.make_node("DequantizeLinear", [integers, step, zero], [name]))
    return found, constants
