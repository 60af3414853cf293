"""Cast plan: the nodes of a graph that compute in the lower type, and why the others do not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt

from nm2trt.errors import InputError
from nm2trt.graph.analysis.constant_values import stored_tensor
from nm2trt.graph.analysis.moving_operators import MOVING
from nm2trt.graph.analysis.numpy_operators import cast_array
from nm2trt.graph.analysis.stored_sources import few_numbers
from nm2trt.graph.cast.cast_rules import Low, keep_reason, low_slots
from nm2trt.graph.cast.positions import positions
from nm2trt.graph.cast.report import CastTensor, KeptNode, body_nodes
from nm2trt.graph.cast.value_bounds import ValueBounds
from nm2trt.graph.edit.editor import Editor
from nm2trt.graph.storage.light_onnx import TensorProto, onnx
from nm2trt.graph.storage.model import opset
from nm2trt.graph.storage.tensors import iter_elements

_FLOAT = TensorProto.FLOAT
# They only move or compare numbers, so they can run in the type of their input.
_FOLLOWS = MOVING | {"Neg", "Abs", "Sqrt", "Relu", "Max", "Min"}
_PRODUCTS = ("Conv", "Gemm", "MatMul")


class PrecisionPlan:
    """Decides for every node of the main graph.

    Args:
        editor: The graph.
        types: Element type of each value, by ONNX's numbers, if it is known.
        low: The type to cast to.
        keep: Globs on names of nodes, or types of operators, that stay in float32.
        overflowing: Values that were seen beyond the type's range, with their largest magnitude.
        bounds: Magnitudes expected of the graph's values; None if samples show them.
        seen_in: What showed `overflowing`, for the reason.

    Raises:
        InputError: A glob matches nothing.
        ModelError: A stored tensor is damaged.
    """

    def __init__(
        self,
        editor: Editor,
        types: Mapping[str, int],
        low: Low,
        keep: Sequence[str],
        overflowing: Mapping[str, float],
        *,
        bounds: ValueBounds | None = None,
        seen_in: str = "calibration",
    ) -> None:
        self._editor, self._types, self._low = editor, types, low
        self._opset = opset(editor.model.proto) or 0
        self.reasons: dict[int, str] = {}
        self.inputs: dict[int, set[int]] = {}
        self.outputs: dict[int, set[int]] = {}
        self.tensors: dict[str, CastTensor] = {}
        self._check_globs(keep)
        for index, node in editor.live():
            self._look(index, node, keep)
        for index in positions(editor, types):
            if index in self.inputs:
                self.reasons.setdefault(index, f"a position, angle or index loses its digits in {low.name}")
        for value, largest in overflowing.items():
            maker = editor.producers.get(value)
            around = {index for index, _ in editor.readers.get(value, ())}
            for index in around if maker is None else {maker, *around}:
                self.reasons.setdefault(index, f"{value!r} reached {largest:.4g} in {seen_in}")
        if bounds is not None:
            self._keep_growing(bounds)
        self._keep_constants()
        self._keep_tiny()
        self._follow()

    def is_low(self, index: int) -> bool:
        """Tell whether a node computes in the lower type."""
        return index in self.inputs and index not in self.reasons

    def low_values(self) -> list[str]:
        """Return every value that is of the lower type somewhere, in the order of the graph; no constants."""
        found: dict[str, None] = {}
        for index, node in self._editor.live():
            if self.is_low(index):
                for slot in sorted(self.inputs[index]):
                    if not self._constant(node.input[slot]):
                        found[node.input[slot]] = None
                for slot in sorted(self.outputs[index]):
                    found[node.output[slot]] = None
        return list(found)

    def kept(self) -> list[KeptNode]:
        """Return the nodes that stay in float32 and could be cast, in the graph's order, bodies' last."""
        found = [
            KeptNode(self._editor.label(index), self._editor.nodes[index].op_type, reason)
            for index, reason in sorted(self.reasons.items())
            if index in self.inputs
        ]
        return [*found, *body_nodes(self._editor, self._types, self._low)]

    def _constant(self, value: str) -> bool:
        return self._editor.scope.state(value).kind == "constant"

    def _check_globs(self, keep: Sequence[str]) -> None:
        names = [(self._editor.label(index), node.op_type) for index, node in self._editor.live()]
        for glob in keep:
            if not any(fnmatchcase(name, glob) or operator == glob for name, operator in names):
                shown = ", ".join(name for name, _ in names[:6]) or "none"
                raise InputError(f"keep: {glob!r} matches no node and no operator; the model has {shown} ...")

    def _look(self, index: int, node: onnx.NodeProto, keep: Sequence[str]) -> None:
        slots = low_slots(node, self._opset, self._low)
        if slots is None or node.op_type == "Cast":
            return
        inputs = {slot for slot in slots[0] if node.input[slot]}
        kinds = [self._types.get(node.input[slot]) for slot in inputs]
        outputs = {
            s for s in slots[1] if node.output[s] and self._types.get(node.output[s], _FLOAT) == _FLOAT
        }
        if _FLOAT not in kinds or any(kind not in (_FLOAT, None) for kind in kinds):
            inputs = {slot for slot in inputs if self._types.get(node.input[slot]) == _FLOAT}
            if not inputs:
                return
        self.inputs[index], self.outputs[index] = inputs, outputs
        if None in kinds:
            self.reasons[index] = "the type of its input is unknown"
        label = self._editor.label(index)
        glob = next((g for g in keep if fnmatchcase(label, g) or node.op_type == g), None)
        if glob is not None:
            self.reasons[index] = f"kept by {glob!r}"
        elif reason := keep_reason(node.op_type, self._low):
            self.reasons[index] = reason

    def _keep_growing(self, bounds: ValueBounds) -> None:
        """Keep what makes and reads squares and sums in float32 until they are back in the type's range."""
        for index, node in self._editor.live():
            if index not in self.inputs:
                continue
            touched = [node.output[slot] for slot in self.outputs[index]]
            touched += [node.input[slot] for slot in self.inputs[index]]
            for value in touched:
                if not self._constant(value) and bounds.largest(value) > self._low.largest:
                    top = bounds.largest(value)
                    self.reasons.setdefault(
                        index,
                        f"{value!r} may reach {top:.3g}, beyond {self._low.largest:g}: a square, sum or mask",
                    )

    def _keep_constants(self) -> None:
        """Look at every constant that would be cast; those that overflow stay, with their readers."""
        already = set(self.reasons)
        measured: dict[str, CastTensor | None] = {}
        for index, node in self._editor.live():
            for slot in sorted(self.inputs.get(index, ())):
                value = node.input[slot]
                if not self._constant(value) or index in already:
                    continue
                if value not in measured:
                    measured[value] = self._measure(value)
                found = measured[value]
                if found is None:
                    continue
                if found.overflow:
                    reason = f"its constant {value!r} of {found.largest:.4g} overflows"
                    self.reasons.setdefault(index, reason)
                    # What it makes may be as large, so that a cast right after it would do the same.
                    for reader in self._readers(index):
                        self._keep_after(reader, index, reason)
                if found.overflow or (found.size == 1 and found.lost):
                    found = replace(found, subnormal=0, lost=0, cast=False)
                elif index in self.reasons:
                    continue
                self.tensors[value] = found

    def _readers(self, index: int) -> set[int]:
        """Return the nodes that read what a node makes and could compute in the lower type."""
        made = self._editor.nodes[index].output
        return {r for name in made for r, _ in self._editor.readers.get(name, ()) if r in self.inputs}

    def _keep_after(self, reader: int, index: int, reason: str) -> None:
        self.reasons.setdefault(reader, f"{self._editor.label(index)} in front of it: {reason}")

    def _keep_tiny(self) -> None:
        """Keep an epsilon that the type cannot hold in float32, and what reads its root or reciprocal."""
        # The number that a value may be as small or large as, the node that made it, and why it matters.
        carried: dict[str, tuple[float, int, str]] = {}
        for index, node in self._editor.live():
            if index not in self.inputs:
                continue
            passed = []
            for number, maker, reason in [carried[name] for name in node.input if name in carried]:
                after = self._carried(node, number)
                # A product of many terms does not depend on one that small.
                small = number < 1 and node.op_type in _PRODUCTS
                if not (small or self._holds(number)) or not (after is None or self._holds(after)):
                    self._keep_after(index, maker, reason)
                if after is not None:
                    passed.append((after, index, reason))
            for what, number, given in self._tiny_numbers(index, node):
                held = self._holds(number)
                why = "has a reciprocal that overflows" if held else "becomes zero"
                reason = f"its {what} of {number:.4g} {why}"
                if not held:
                    self.reasons.setdefault(index, reason)
                if given:
                    passed.append((abs(number), index, reason))
            if passed:
                farthest = max(passed, key=lambda item: abs(math.log(item[0])))
                carried.update(dict.fromkeys(node.output, farthest))

    def _tiny_numbers(self, index: int, node: onnx.NodeProto) -> Iterator[tuple[str, float, bool]]:
        """Yield a node's numbers whose reciprocal overflows: name, number, whether a result may be one."""
        # A norm adds the epsilon in its attribute to a variance: its result is not as small.
        given = node.op_type in ("Clip", "Pad")
        numbers = [(f"attribute {a.name!r}", a.f, given) for a in node.attribute if a.type == a.FLOAT]
        for slot in self.inputs[index]:
            one = self._single(node.input[slot])
            numbers += [] if one is None else [(f"constant {node.input[slot]!r}", one, True)]
        yield from (item for item in numbers if 0 < abs(item[1]) < 1 / self._low.largest)

    def _holds(self, number: float) -> bool:
        rounded = cast_array(np.array(number, np.float32), self._low.dtype).astype(np.float32)
        return bool(rounded != 0 and np.isfinite(rounded))

    def _carried(self, node: onnx.NodeProto, number: float) -> float | None:
        """Return what a root, power, reciprocal or move makes of a number; None for another operator."""
        if node.op_type in MOVING:
            return number
        exponent = {"Sqrt": 0.5, "Reciprocal": -1.0}.get(node.op_type)
        if node.op_type == "Pow":
            exponent = self._single(node.input[1])
        elif node.op_type == "Div" and self._constant(node.input[0]):
            exponent = -1.0
        if exponent is None:
            return None
        with np.errstate(all="ignore"):
            power = np.power(number, exponent)
        return float(np.clip(power, np.finfo(np.float32).tiny, np.finfo(np.float32).max))

    def _single(self, value: str) -> float | None:
        """Return the number of a float32 constant that holds one; None for other values."""
        array = few_numbers(self._editor.scope, value) if self._constant(value) else None
        if array is None or array.dtype != np.float32 or array.size != 1:
            return None
        return float(array.item())

    def _measure(self, value: str) -> CastTensor | None:
        pieces = self._pieces(value)
        if pieces is None:
            return None
        size = overflow = subnormal = lost = 0
        largest = 0.0
        for piece in pieces:
            rounded = cast_array(piece, self._low.dtype).astype(np.float32)
            magnitude = np.abs(rounded)
            size += piece.size
            largest = max(largest, float(np.abs(piece).max(initial=0.0)))
            overflow += int(np.count_nonzero(np.isinf(rounded) & np.isfinite(piece)))
            lost += int(np.count_nonzero((rounded == 0) & (piece != 0)))
            subnormal += int(np.count_nonzero((magnitude > 0) & (magnitude < self._low.smallest)))
        return CastTensor(value, size, largest, overflow, subnormal, lost, True)

    def _pieces(self, value: str) -> Iterable[npt.NDArray[np.float32]] | None:
        """Return the float32 numbers of a constant; None for many that are computed of stored ones."""
        scope = self._editor.scope
        tensor = stored_tensor(scope, value)
        if tensor is not None:
            return iter_elements(tensor, self._editor.model.root) if tensor.data_type == _FLOAT else None
        found = few_numbers(scope, value)
        return [found] if found is not None and found.dtype == np.float32 else None

    def _follow(self) -> None:
        """Keep a data-movement node in float32 if all its neighbours are."""
        changed = True
        while changed:
            changed = False
            for index, node in self._editor.live():
                if not self.is_low(index) or node.op_type not in _FOLLOWS:
                    continue
                makers = {
                    self._editor.producers.get(node.input[slot])
                    for slot in self.inputs[index]
                    if not self._constant(node.input[slot])
                }
                readers = {r for name in node.output for r, _ in self._editor.readers.get(name, ())}
                around = makers | readers
                if around and all(item is not None and item in self.reasons for item in around):
                    self.reasons[index] = "all its neighbours are float32"
                    changed = True
