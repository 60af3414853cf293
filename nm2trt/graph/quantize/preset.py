"""Preset of a quantisation: ranges and integer weights that a joint solve found before pairs are inserted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.calibration.ranges import Ranges
from nm2trt.calibration.stream import SampleStream
from nm2trt.graph.analysis.constant_values import evaluate
from nm2trt.graph.analysis.multiply_accumulates import free_shapes
from nm2trt.graph.edit.node_inserter import Inserter
from nm2trt.graph.quantize.calibrate_model import place_layers
from nm2trt.graph.quantize.number_formats import FORMATS, quantise_weight
from nm2trt.graph.quantize.pair_insertion import Rounded, channel_axis, point_scales, rounded_to, weight_key
from nm2trt.graph.quantize.qdq_placement import Placement
from nm2trt.graph.quantize.range_search import best_ranges, search_ranges
from nm2trt.graph.quantize.report import QuantizeOptions
from nm2trt.graph.quantize.search_report import RangeSearch
from nm2trt.graph.quantize.work_shares import layer_work
from nm2trt.graph.storage.model import Model
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.nm.outlook import assumed_sparse


@dataclass(frozen=True, slots=True, eq=False)
class Preset:
    """Ranges, and steps of weights that lie on a grid.

    Args:
        ranges: Range of each value.
        steps: Scale of each output channel, by the name of a weight; others are rounded to the nearest.
        sharp: Reasons by label of the layers that a search left in float.
        search: What the search tried; None if there was none.
    """

    ranges: Ranges
    steps: Arrays
    sharp: Mapping[str, str] = field(default_factory=dict)
    search: RangeSearch | None = None

    def rounded(self, placed: Placement) -> Rounded:
        """Return the integers of the weights whose steps are known."""
        return {
            weight_key(layer): rounded_to(
                np.asarray(evaluate(layer.consumer.scope, layer.consumer.value)),
                self.steps[layer.weight],
                layer,
                FORMATS["int8"],
            )
            for layer in placed.quantised
            if layer.weight in self.steps
        }


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What a joint solve needs to know of the quantisation to come.

    Args:
        options: The options, with the method of the ranges.
        ranges: The ranges.
        scales: Scale of each value that is rounded.
        axes: Axis of the output channels of each weight that is rounded, by its name; None for one scale.
        sharp: Reasons by label of the layers that a search left in float.
        search: What the search tried; None if there was none.
    """

    options: QuantizeOptions
    ranges: Ranges
    scales: Mapping[str, float]
    axes: Mapping[str, int | None]
    sharp: Mapping[str, str] = field(default_factory=dict)
    search: RangeSearch | None = None

    def nearest(self, weight: str, numbers: Array) -> Array:
        """Return a weight with each number rounded to the nearest of its grid."""
        done = quantise_weight(numbers, self.options.form, self.axes[weight])
        shape = [-1 if index == done.axis else 1 for index in range(numbers.ndim)]
        return np.asarray(
            done.numbers * done.scale.reshape(shape if done.axis is not None else ()), np.float32
        )

    def preset(self, steps: Arrays) -> Preset:
        """Return the quantisation with the steps that a solve found."""
        return Preset(self.ranges, steps, self.sharp, self.search)


def prepare(model: Model, samples: SampleStream, options: QuantizeOptions) -> Prepared:
    """Choose ranges of the float model's values, and say what will be rounded.

    With `options.max_loss`, ranges and layers that stay in float are searched on the model as it is, so that
    INT8 by itself loses no more.

    Args:
        model: The float32 model; it is left as it was.
        samples: Calibration samples.
        options: How to quantise.

    Raises:
        ModelError: The model has nothing to quantise.
        DifferenceError: No trial of the search is within the limit.
        DataError: The samples do not fit the model.
    """
    sharp: Mapping[str, str] = {}
    search: RangeSearch | None = None
    if options.max_loss is None:
        options, ranges = best_ranges(model, samples, options)
    else:
        report = verify_model(model)
        pruned = replace(report, weights=tuple(assumed_sparse(report.weights)))
        work = layer_work(model, pruned, free_shapes(model, next(samples.read(1))))
        found = search_ranges(model, samples, options, work, cache=None)
        options, ranges, sharp, search = found.options, found.ranges, found.sharp, found.record
    editor = Inserter(model, "quantized")
    placed = place_layers(editor, options, sharp)
    axes = {
        layer.weight: channel_axis(layer, np.ndim(evaluate(layer.consumer.scope, layer.consumer.value)))
        for layer in placed.quantised
    }
    return Prepared(options, ranges, point_scales(placed, ranges, options.form), axes, sharp, search)
