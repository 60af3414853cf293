"""Union-find over the dimensions of a graph's tensors: which of them hold the same channels.

A dimension is a tensor's name and an axis. Dimensions that must be permuted together share a class; a class
with one dimension whose order means something outside the permutation's reach is frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nm2trt.arrays import Array
from nm2trt.graph.storage.light_onnx import onnx

Dimension = tuple[str, int]
Shape = tuple["int | None", ...]


class Dimensions:
    """Classes of dimensions, and why some may not be permuted."""

    def __init__(self) -> None:
        self._up: dict[Dimension, Dimension] = {}
        self._frozen: dict[Dimension, str] = {}

    def find(self, dimension: Dimension) -> Dimension:
        """Return the representative of a dimension's class."""
        root = dimension
        while (up := self._up.setdefault(root, root)) != root:
            root = up
        while (up := self._up[dimension]) != root:
            self._up[dimension], dimension = root, up
        return root

    def join(self, first: Dimension, second: Dimension) -> None:
        """Let two dimensions be permuted together or not at all."""
        keep, gone = self.find(first), self.find(second)
        if keep != gone:
            self._up[gone] = keep
            if gone in self._frozen:
                self._frozen.setdefault(keep, self._frozen[gone])

    def freeze(self, dimension: Dimension, why: str) -> None:
        """Keep a dimension's class in its order; the first reason stays."""
        self._frozen.setdefault(self.find(dimension), why)

    def freeze_tensor(self, name: str, shape: Shape, why: str) -> None:
        """Keep every dimension of a tensor in its order."""
        for axis in range(len(shape)):
            self.freeze((name, axis), why)

    def obstacle(self, dimension: Dimension) -> str:
        """Return the clause that says why a dimension may not be permuted, or ""."""
        return self._frozen.get(self.find(dimension), "")

    def classes(self) -> dict[Dimension, list[Dimension]]:
        """Return the members of each class by its representative, in the order in which they were met."""
        found: dict[Dimension, list[Dimension]] = {}
        for dimension in list(self._up):
            found.setdefault(self.find(dimension), []).append(dimension)
        return found


class NodeDimensions:
    """One node as its operator's rule sees it; a dimension that the rule does not settle is frozen.

    Args:
        node: The node.
        attributes: Its attributes as Python values.
        opset: Version of ONNX's own operators.
        shapes: Shape of every input and output that is present, by name; all are known.
        constant: Returns the numbers of an input, or None if they are not constant.
        dimensions: The classes.
    """

    def __init__(
        self,
        node: onnx.NodeProto,
        attributes: Mapping[str, Any],
        opset: int,
        shapes: Mapping[str, Shape],
        constant: Callable[[str], Array | None],
        dimensions: Dimensions,
    ) -> None:
        self.attributes, self.opset = attributes, opset
        self._inputs = [(name, shapes.get(name)) for name in node.input]
        self._outputs = [(name, shapes.get(name)) for name in node.output]
        self._constant, self._dimensions = constant, dimensions
        self._settled: set[tuple[bool, int, int]] = set()

    @property
    def slots(self) -> list[int]:
        """Positions of the inputs that are present."""
        return [slot for slot, (name, _) in enumerate(self._inputs) if name]

    @property
    def results(self) -> list[int]:
        """Positions of the outputs that are present."""
        return [slot for slot, (name, _) in enumerate(self._outputs) if name]

    def shape(self, slot: int) -> Shape:
        """Return an input's shape; () for one that is absent."""
        return (self._inputs[slot][1] or ()) if slot < len(self._inputs) else ()

    def result_shape(self, slot: int = 0) -> Shape:
        """Return an output's shape."""
        return self._outputs[slot][1] or ()

    def numbers(self, slot: int) -> list[Any] | None:
        """Return a constant input as a flat list; None if it is absent or not constant."""
        if slot >= len(self._inputs) or not self._inputs[slot][0]:
            return None
        array = self._constant(self._inputs[slot][0])
        return None if array is None else list(array.reshape(-1).tolist())

    def pass_on(self, slot: int, axis: int, result_axis: int, result: int = 0) -> None:
        """Join an input's dimension with an output's, and settle both."""
        self._dimensions.join((self._inputs[slot][0], axis), (self._outputs[result][0], result_axis))
        self.free(slot, axis)
        self.free_result(result_axis, result)

    def contract(self, axis: int, other_axis: int) -> None:
        """Join the dimensions of the first two inputs that the operator sums over, and settle both."""
        self._dimensions.join((self._inputs[0][0], axis), (self._inputs[1][0], other_axis))
        self.free(0, axis)
        self.free(1, other_axis)

    def free(self, slot: int, *axes: int) -> None:
        """Settle an input's dimensions, all without axes: the operator gives the same for any order."""
        self._settled.update((True, slot, axis) for axis in axes or range(len(self.shape(slot))))

    def free_result(self, axis: int, result: int = 0) -> None:
        """Settle an output's dimension."""
        self._settled.add((False, result, axis))

    def freeze_rest(self, why: str) -> None:
        """Freeze every dimension that no rule has settled."""
        for is_input, tensors in ((True, self._inputs), (False, self._outputs)):
            for slot, (name, shape) in enumerate(tensors):
                for axis in range(len(shape or ())) if name else ():
                    if (is_input, slot, axis) not in self._settled:
                        self._dimensions.freeze((name, axis), why)

    def broadcast(self, slots: Sequence[int], *, trailing: int = 0) -> None:
        """Join inputs with the output as numpy broadcasts them, without the last `trailing` dimensions.

        A size of 1 that is stretched has no order. A size that is not known may be 1 or not: it stays frozen.
        """
        out = self.result_shape()
        for axis in range(len(out) - trailing):
            pairs = [(slot, axis - len(out) + len(self.shape(slot))) for slot in slots]
            there = [(slot, own) for slot, own in pairs if own >= 0]
            sizes = [self.shape(slot)[own] for slot, own in there]
            stretched = [size == 1 and out[axis] != 1 for size in sizes]
            if out[axis] is None or any(
                size != out[axis] and not wide for size, wide in zip(sizes, stretched, strict=True)
            ):
                continue
            for (slot, own), wide in zip(there, stretched, strict=True):
                if wide:
                    self.free(slot, own)
                else:
                    self.pass_on(slot, own, axis)
            self.free_result(axis)
