"""The search in one channel space: which weights count, what they hold already, how much N:M keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nm2trt.arrays import Array
from nm2trt.errors import InputError
from nm2trt.graph.analysis.constant_values import evaluate
from nm2trt.graph.analysis.numpy_operators import cast_array
from nm2trt.graph.analysis.operator_cost import Opaque
from nm2trt.graph.analysis.value_states import Scope
from nm2trt.graph.permute.channel_spaces import ChannelSpace, SpaceWeight
from nm2trt.graph.permute.swap_search import kept_saliency, search_order
from nm2trt.json_value import JsonValue
from nm2trt.nm.mask import check
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import Plan, dense_by_name

Order = npt.NDArray[np.int64]

# From a weight and its numbers as its node reads them: how much each element matters, in the same shape; None
# leaves the weight out of the search.
SaliencyOf = Callable[[SpaceWeight, Array], "Array | None"]


@dataclass(frozen=True, slots=True)
class PermuteOptions:
    """Which weights the search is for.

    Args:
        pattern: The pattern that the weights will be pruned to.
        include: Globs on names of weights that will be pruned; () means all that can be.
        exclude: Globs on names of weights that will stay dense.
        min_channels: Fewest input channels of a weight that will be pruned.
        seed: Seed of the search.
    """

    pattern: NMPattern = NMPattern(2, 4)  # noqa: RUF009 - a frozen value
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_channels: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("seed", "min_channels"):
            value, least = getattr(self, name), 0 if name == "seed" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name} is {value!r}; give a whole number from {least}")


@dataclass(frozen=True, slots=True)
class SpaceResult(JsonValue):
    """The search in one channel space.

    Args:
        space: A value of the space, by which to name it.
        channels: Its channels.
        weights: Names of the weights that reduce it and that will be pruned.
        tensors: Stored tensors that move with it, producers' rows and vectors included.
        kept_before: Share of the weights' saliency that the pattern keeps in the stored order, 0..1.
        kept_after: The same in the order that was found.
        moved: Whether the channels move.
        reason: Why they do not, or "".
    """

    space: str
    channels: int
    weights: tuple[str, ...]
    tensors: tuple[str, ...]
    kept_before: float
    kept_after: float
    moved: bool
    reason: str


def magnitude(weight: SpaceWeight, numbers: Array) -> Array:  # noqa: ARG001 - one of several such functions
    """Return |w| over its mean in the weight, so that weights of different scales count alike."""
    sizes = np.abs(numbers.astype(np.float32))
    mean = float(sizes.mean(dtype=np.float64))
    return sizes / np.float32(mean) if mean > 0 else sizes


@dataclass(frozen=True, slots=True)
class SpaceSearch:
    """The search in one channel space after another of a model.

    Args:
        options: Which weights count, and how long to search.
        saliency: How much each element of a weight matters.
        scope: The main graph.
        plan: The plan in the model's metadata, or None.
    """

    options: PermuteOptions
    saliency: SaliencyOf
    scope: Scope
    plan: Plan | None

    def run(self, space: ChannelSpace) -> tuple[SpaceResult, Order, Array] | None:
        """Return the result, the order, and the saliency in all, kept before and kept after.

        None if no weight of the space will be pruned.
        """
        pattern = self.options.pattern
        rows: list[Array] = []
        names: list[str] = []
        for weight in filter(self._counts, space.weights):
            matrix = self._matrix(weight)
            if matrix is not None:
                rows.append(matrix)
                names.append(weight.weight)
        if not rows:
            return None
        obstacle = space.obstacle or next(filter(None, map(self._held, space.weights)), "")
        saliency = np.concatenate(rows)
        before = after = kept_saliency(saliency, pattern)
        order = np.arange(saliency.shape[1])
        if not obstacle:
            order = search_order(saliency, pattern, seed=self.options.seed)
            after = kept_saliency(saliency[:, order], pattern)
        moved = bool((order != np.arange(len(order))).any())
        if not moved:
            obstacle = obstacle or "no swap of channels keeps more"
        sums = np.array([saliency.sum(dtype=np.float64), before, after])
        share = sums[1:] / sums[0] if sums[0] else np.ones(2)
        tensors = tuple(dict.fromkeys(name for name, _ in space.stored)) if moved else ()
        result = SpaceResult(
            space.name,
            len(order),
            tuple(dict.fromkeys(names)),
            tensors,
            float(share[0]),
            float(share[1]),
            moved,
            "" if moved else obstacle,
        )
        return result, order, sums

    def _counts(self, weight: SpaceWeight) -> bool:
        """Tell whether a weight is to be pruned, by the rules of `nm2trt prune`."""
        options, name = self.options, weight.weight
        entry = None if self.plan is None else self.plan.get(name)
        named = name in options.include
        return not (
            dense_by_name([name], options.include, options.exclude)
            or weight.channels % options.pattern.m
            or (not named and weight.channels < options.min_channels)
            or (not named and entry is not None and entry.pattern is None)
        )

    def _matrix(self, weight: SpaceWeight) -> Array | None:
        """Return the saliency as (rows, channels); None if the weight cannot be read, or does not count."""
        numbers = self._numbers(weight)
        if numbers is None or not np.isfinite(cast_array(numbers, np.dtype(np.float32))).all():
            return None
        scores = self.saliency(weight, numbers)
        if scores is None:
            return None
        if scores.shape != numbers.shape:
            raise InputError(
                f"the saliency of {weight.weight} has shape {list(scores.shape)}; the weight has "
                f"{list(numbers.shape)}"
            )
        return np.asarray(np.moveaxis(scores, weight.axis, -1).reshape(-1, weight.channels), np.float32)

    def _held(self, weight: SpaceWeight) -> str:
        """Say that a weight holds its pattern, with zeros, which another order would break; else ""."""
        entry = None if self.plan is None else self.plan.get(weight.weight)
        pattern = entry.pattern if entry is not None and entry.pattern is not None else self.options.pattern
        numbers = self._numbers(weight)
        if numbers is None or weight.channels % pattern.m:
            return ""
        present = numbers.astype(np.float32) != 0
        held = not present.all() and check(present, pattern, axis=weight.axis).holds
        return f"{weight.weight} holds {pattern} already" if held else ""

    def _numbers(self, weight: SpaceWeight) -> Array | None:
        try:
            numbers = evaluate(self.scope, weight.value)
        except Opaque:
            return None
        return None if numbers.dtype.kind in "iub" else numbers
