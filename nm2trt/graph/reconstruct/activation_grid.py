"""Integer grid of a joint solve: activations of the pruned stream rounded to INT8, weights to be rounded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nm2trt.arrays import Array, Arrays
from nm2trt.calibration.collectors import not_finite

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

    def facts(self) -> list[Any]:
        """Return, for JSON, what the solve of a model depends on; the model decides what `nearest` does."""
        scales = sorted((name, float(scale)) for name, scale in self.scales.items())
        return [scales, sorted(self.weights), self.largest]

    def holds(self, rows: Array, step: Array) -> bool:
        """Tell whether a weight is what a grid of these steps stores as.

        Args:
            rows: The weight, (outputs, inputs), in the type that stores it.
            step: Scale of each output's integers.
        """
        if step.shape != rows.shape[:1] or step.dtype != np.float64:
            return False
        if not ((step > 0) & np.isfinite(step)).all():
            return False
        with np.errstate(over="ignore", invalid="ignore"):
            integers = np.rint(rows.astype(np.float64) / step[:, None])
            same = (integers * step[:, None]).astype(rows.dtype) == rows
        return bool((same & (np.abs(integers) <= self.largest)).all())


def rounded_feeds(feeds: Arrays, grid: IntegerGrid, *, limits_only: bool = False) -> dict[str, Array]:
    """Return a model's inputs with those of the grid rounded, or only brought within its limits.

    Raises:
        DataError: One of these holds infinity.
    """
    return {name: _rounded(name, array, grid.scales.get(name), limits_only) for name, array in feeds.items()}


def _rounded(name: str, array: Array, scale: float | None, limits_only: bool) -> Array:
    if scale is None or array.dtype != np.float32:
        return array
    if not np.isfinite(array).all():
        raise not_finite(name)
    step = np.float32(scale)
    places = array / step if limits_only else np.rint(array / step)
    return np.asarray(np.clip(places, _LOWEST, _HIGHEST) * step, np.float32)


def with_pairs(
    nodes: Sequence[onnx.NodeProto], scales: Mapping[str, float], *, limits_only: bool = False
) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """Return nodes that round some of their outputs, and the constants for it.

    Args:
        nodes: The nodes, in order; they are left as they were.
        scales: Scale of each output that is rounded under its own name.
        limits_only: Bring the outputs within the limits of their integers, and round nothing.
    """
    if not scales:
        return list(nodes), []
    zero = "nm2trt/zero_point"
    constants = [] if limits_only else [numpy_helper.from_array(np.zeros((), np.int8), zero)]
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
            if limits_only:
                more, numbers = _limits(name, scales[name])
            else:
                more, numbers = _pair(name, scales[name], zero)
            found += more
            constants += numbers
    return found, constants


def _limits(name: str, scale: float) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    ends = {f"{name}/least": _LOWEST * scale, f"{name}/largest": _HIGHEST * scale}
    node = helper.make_node("Clip", [f"{name}/float", *ends], [name])
    return [node], [numpy_helper.from_array(np.array(end, np.float32), key) for key, end in ends.items()]


def _pair(name: str, scale: float, zero: str) -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    step, integers = f"{name}/step", f"{name}/integers"
    nodes = [
        helper.make_node("QuantizeLinear", [f"{name}/float", step, zero], [integers]),
        helper.make_node("DequantizeLinear", [integers, step, zero], [name]),
    ]
    return nodes, [numpy_helper.from_array(np.array(scale, np.float32), step)]
