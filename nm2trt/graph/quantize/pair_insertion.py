"""Q/DQ pairs written into a graph: scales of values, integers of weights, and the plan under new names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping

import numpy as np

from nm2trt.arrays import Array
from nm2trt.calibration.ranges import Ranges
from nm2trt.errors import ModelError
from nm2trt.graph.analysis.constant_values import evaluate
from nm2trt.graph.analysis.operator_cost import Opaque
from nm2trt.graph.edit.node_inserter import Inserter
from nm2trt.graph.quantize.number_formats import Format, Quantised, quantise_weight, scale_for
from nm2trt.graph.quantize.qdq_placement import Layer, Placement
from nm2trt.graph.quantize.report import QuantizedLayer, QuantizeOptions
from nm2trt.graph.storage.light_onnx import onnx
from nm2trt.graph.storage.stage_metadata import plan_of
from nm2trt.nm.plan import Plan

# Weights that were rounded already, by value, operator and `transB`: a search rounds each of them once.
Rounded = MutableMapping[tuple[str, str, bool], Quantised]


def point_scales(placed: Placement, ranges: Ranges, form: Format) -> dict[str, float]:
    """Return the scale of each point; points that share one take that of the largest range."""
    largest = {
        root: max(ranges.largest(value) for value in members) for root, members in placed.members().items()
    }
    return {value: scale_for(largest[placed.scale_of[value]], form) for value in placed.points}


def weight_key(layer: Layer) -> tuple[str, str, bool]:
    """Return what a rounded weight is known by."""
    return (layer.consumer.value, layer.operator, bool(layer.consumer.attributes.get("transB")))


def rounded_to(weight: Array, steps: Array, layer: Layer, form: Format) -> Quantised:
    """Return a weight that lies on a grid of known steps, one per output channel."""
    axis = channel_axis(layer, weight.ndim)
    shape = [-1 if index == axis else 1 for index in range(weight.ndim)]
    numbers = np.clip(np.rint(weight / steps.reshape(shape)), -form.largest, form.largest)
    return Quantised(numbers.astype(form.dtype), steps.astype(np.float32), axis, 0)


class PairInsertion:
    """The insertion of all pairs into one graph.

    Args:
        editor: The graph.
        placed: Where pairs go.
        ranges: Range of each value.
        options: How to quantise.
        rounded: Weights that were rounded already; what is rounded here is added to it.
    """

    def __init__(
        self,
        editor: Inserter,
        placed: Placement,
        ranges: Ranges,
        options: QuantizeOptions,
        rounded: Rounded | None = None,
    ) -> None:
        self._rounded: Rounded = {} if rounded is None else rounded
        self._editor, self._placed, self._ranges, self._options = editor, placed, ranges, options
        self._form = options.form
        self._weights: dict[tuple[str, int | None], str] = {}
        self._zero = ""
        self._renamed: dict[str, str] = {}
        self.scales: dict[str, float] = {}
        self.notes: list[str] = []

    def insert_pairs(self) -> None:
        """Insert a pair after every point."""
        self.scales = point_scales(self._placed, self._ranges, self._form)
        for value in self._placed.points:
            if self._ranges.low[value] == self._ranges.high[value]:
                self.notes.append(f"{value!r} is {self._ranges.low[value]:g} for all samples")
            self._pair(value, self.scales[value])
        folded = sum(node.op_type == "BatchNormalization" for _, node in self._editor.live())
        if folded:
            self.notes.append(
                f"{folded} BatchNormalizations are left, and compute in float unless the builder folds them: "
                "run nm2trt fuse first"
            )

    def _pair(self, value: str, scale: float) -> None:
        editor = self._editor
        maker = editor.producers.get(value, -1)
        readers = sorted(editor.readers.get(value, ()))
        scale_name = editor.add_tensor(np.array(scale, np.float32), f"{value}_scale")
        zero = self._zero_point()
        made = value
        for operator, kind in (("QuantizeLinear", "quantized"), ("DequantizeLinear", "dequantized")):
            inputs, made = [made, scale_name, zero], editor.unique(f"{value}_{kind}")
            editor.insert(operator, inputs, made, after=maker, label=f"{value}_{operator}")
        for index, slot in readers:
            editor.set_input(index, slot, made)

    def _zero_point(self) -> str:
        if not self._zero:
            self._zero = self._editor.add_tensor(
                np.zeros((), self._form.dtype), f"{self._form.name}_zero_point"
            )
        return self._zero

    def quantise(self, layer: Layer) -> QuantizedLayer:
        """Quantise a layer's weight, once for all layers that read it alike."""
        if layer.why_float:
            return QuantizedLayer(layer.label, layer.operator, layer.weight, False, layer.why_float, 0, 0)
        key = weight_key(layer)
        if key not in self._rounded:
            weight = self._numbers(layer)
            self._rounded[key] = quantise_weight(weight, self._form, channel_axis(layer, weight.ndim))
        done = self._rounded[key]
        place = (layer.consumer.value, done.axis)
        lost = parameters = 0
        if place not in self._weights:
            self._weights[place] = self._weight(layer, done)
            lost, parameters = done.lost, done.numbers.size
        self._editor.set_input(layer.index, layer.consumer.input_index, self._weights[place])
        self._write_kernel_shape(layer, done.numbers.shape)
        return QuantizedLayer(layer.label, layer.operator, layer.weight, True, "", lost, parameters)

    def _write_kernel_shape(self, layer: Layer, shape: tuple[int, ...]) -> None:
        """Write what ONNX lets a reader infer; TensorRT 8.6's parser does not, of a computed weight."""
        node = self._editor.nodes[layer.index]
        if layer.operator == "Conv" and not any(a.name == "kernel_shape" for a in node.attribute):
            node.attribute.append(onnx.helper.make_attribute("kernel_shape", shape[2:]))

    def _numbers(self, layer: Layer) -> Array:
        try:
            weight = evaluate(layer.consumer.scope, layer.consumer.value)
        except Opaque as why:
            raise ModelError(
                f"the weight of {layer.label} cannot be evaluated: {why}; leave the layer out with --exclude"
            ) from why
        if not np.isfinite(weight).all():
            raise ModelError(f"weight {layer.weight!r} holds NaN or infinity; repair it before quantising")
        return weight

    def _weight(self, layer: Layer, done: Quantised) -> str:
        editor, form, axis = self._editor, self._form, done.axis
        scale = editor.add_tensor(done.scale, f"{layer.weight}_scale")
        zero = editor.add_tensor(np.zeros(done.scale.shape, form.dtype), f"{layer.weight}_zero_point")
        attributes = {} if axis is None else {"axis": axis}
        maker = -1
        if self._options.float_weights:
            numbers = editor.unique(f"{layer.weight}_quantized")
            maker = editor.producers.get(layer.consumer.value, -1)
            label = f"{layer.weight}_QuantizeLinear"
            inputs = [layer.consumer.value, scale, zero]
            editor.insert("QuantizeLinear", inputs, numbers, after=maker, label=label, **attributes)
        else:
            numbers = editor.add_tensor(done.numbers, layer.weight)
            self._renamed[layer.weight] = numbers
        back = editor.unique(f"{layer.weight}_dequantized")
        label = f"{layer.weight}_DequantizeLinear"
        editor.insert(
            "DequantizeLinear", [numbers, scale, zero], back, after=maker, label=label, **attributes
        )
        return back

    def plan(self, finals: Mapping[str, str], weights: Collection[str]) -> Plan | None:
        """Return the model's plan under the names of the new tensors, and of those that layers still read."""
        plan = plan_of(self._editor.model)
        if plan is None:
            return None
        renamed = {old: finals[new] for old, new in self._renamed.items() if finals.get(new, old) != old}
        return plan.renamed(renamed, weights) if renamed else plan


def channel_axis(layer: Layer, rank: int) -> int | None:
    """Return the axis of a weight's output channels."""
    if layer.operator == "Conv":
        return 0
    if layer.operator == "Gemm":
        return 0 if layer.consumer.attributes.get("transB") else 1
    return rank - 1 if rank == 2 else None
