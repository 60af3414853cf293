"""Permute the channels of an open model: find the spaces, search an order for each, move the stored tensors.

The saliency is an argument, so that a pass with samples can give a better one than the magnitude.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nm2trt.graph.analysis.quantised_values import refuse_quantised
from nm2trt.graph.analysis.scopes import main_scope
from nm2trt.graph.analysis.stored_sources import stored_tensors
from nm2trt.graph.permute.channel_spaces import find_spaces
from nm2trt.graph.permute.space_search import (
    Order,
    PermuteOptions,
    SaliencyOf,
    SpaceResult,
    SpaceSearch,
    magnitude,
)
from nm2trt.graph.storage.element_types import element_type
from nm2trt.graph.storage.external_data import pack
from nm2trt.graph.storage.light_onnx import onnx
from nm2trt.graph.storage.model import Model
from nm2trt.graph.storage.model_file import Rewrite
from nm2trt.graph.storage.stage_metadata import plan_of
from nm2trt.graph.storage.tensors import read_tensor
from nm2trt.nm.plan import check_globs


@dataclass(frozen=True, slots=True, eq=False)
class Permutation:
    """Orders for the stored tensors of one model.

    Args:
        spaces: The result for each space that a weight to be pruned reduces.
        orders: Name of a stored tensor, then axis: place i of the axis gets what stood at `order[i]`.
        kept_before: Share of all weights' saliency that the pattern keeps in the stored order, 0..1.
        kept_after: The same after the permutation.
    """

    spaces: tuple[SpaceResult, ...]
    orders: Mapping[str, Mapping[int, Order]]
    kept_before: float
    kept_after: float

    @property
    def moved(self) -> int:
        """Number of spaces whose channels move."""
        return sum(space.moved for space in self.spaces)


def find_permutation(
    model: Model,
    options: PermuteOptions | None = None,
    *,
    saliency: SaliencyOf = magnitude,
    fixed: Mapping[str, str] | None = None,
    same: Iterable[Sequence[str]] = (),
) -> Permutation:
    """Search orders of channels under which an N:M pattern keeps more saliency; the model is not changed.

    Args:
        model: The model; its weights are read one at a time.
        options: Which weights count, and how long to search.
        saliency: How much each element of a weight matters; weights that share a space are added up.
        fixed: Names of tensors that must keep their order, each with the clause that says why.
        same: Groups of stored tensors that hold one parameter, and are permuted alike.

    Raises:
        InputError: A glob matches no weight.
        ModelError: The model is quantised, or is not a valid ONNX file.
    """
    options = options or PermuteOptions()
    refuse_quantised(model, "permute the float model, and quantise it afterwards")
    spaces = find_spaces(model, fixed=fixed, same=same)
    names = sorted({weight.weight for space in spaces for weight in space.weights})
    check_globs({"include": options.include, "exclude": options.exclude}, names)
    scope = main_scope(model)
    chosen = SpaceSearch(options, saliency, scope, plan_of(model))
    results: list[SpaceResult] = []
    orders: dict[str, dict[int, Order]] = {}
    total = np.zeros(3)  # saliency, kept before, kept after
    for space in spaces:
        found = chosen.run(space)
        if found is None:
            continue
        result, order, sums = found
        results.append(result)
        total += sums
        if result.moved:
            for name, axis in space.stored:
                orders.setdefault(name, {})[axis] = order
    before, after = (float(part / total[0]) if total[0] else 1.0 for part in total[1:])
    return Permutation(tuple(results), orders, before, after)


def rewrites_of(model: Model, permutation: Permutation) -> list[Rewrite]:
    """Return the moved stored tensors, made as the file is written, so that not all are in memory."""
    stored = stored_tensors(model.proto.graph)
    return [
        Rewrite(stored[name], functools.partial(_permuted, stored[name], model, orders))
        for name, orders in permutation.orders.items()
    ]


def _permuted(tensor: onnx.TensorProto, model: Model, orders: Mapping[int, Order]) -> Iterator[bytes]:
    numbers = read_tensor(tensor, model.root)
    for axis, order in orders.items():
        numbers = numbers.take(order, axis=axis)
    yield pack(numbers, element_type(tensor))
