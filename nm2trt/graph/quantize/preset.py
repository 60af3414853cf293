"""Preset of a quantisation: ranges and integer weights that a joint solve found before pairs are inserted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nm2trt.calibration.ranges import Ranges
from nm2trt.calibration.stream import SampleStream
from nm2trt.errors import ModelError
from nm2trt.graph.analysis.constant_values import evaluate
from nm2trt.graph.edit.node_inserter import Inserter
from nm2trt.graph.quantize.number_formats import FORMATS
from nm2trt.graph.quantize.pair_insertion import Rounded, point_scales, rounded_to, weight_key
from nm2trt.graph.quantize.qdq_placement import Placement, place
from nm2trt.graph.quantize.range_search import best_ranges
from nm2trt.graph.quantize.report import QuantizeOptions
from nm2trt.graph.storage.model import Model

__all__ = ["Prepared", "Preset", "prepare"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Preset:
    """Ranges, and steps of weights that lie on a grid.

    Args:
        ranges: Range of each value.
        steps: Scale of each output channel, by the name of a weight; others are rounded to the nearest.
    """

    ranges: Ranges
    steps: Mapping[str, Array]

    def rounded(self, model: Model, placed: Placement) -> Rounded:
        """Return the integers of the weights whose steps are known."""
        del model  # the placement knows its weights
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
        weights: Names of the weights that are rounded.
    """

    options: QuantizeOptions
    ranges: Ranges
    scales: Mapping[str, float]
    weights: frozenset[str]


def prepare(model: Model, samples: SampleStream, options: QuantizeOptions) -> Prepared:
    """Choose ranges of the float model's values, and say what will be rounded.

    Args:
        model: The float32 model; it is left as it was.
        samples: Calibration samples.
        options: How to quantise.

    Raises:
        ModelError: The model has nothing to quantise.
        DataError: The samples do not fit the model.
    """
    chosen, ranges = best_ranges(model, samples, options)
    editor = Inserter(model, "quantized")
    placed = place(editor, options.exclude, float_depthwise=options.float_depthwise)
    if not placed.quantised:
        raise ModelError(f"{model.name} has no Conv, Gemm or MatMul to quantise")
    scales = point_scales(placed, ranges, options.form)
    return Prepared(chosen, ranges, scales, frozenset(layer.weight for layer in placed.quantised))
