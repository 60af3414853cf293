"""Allocation of one global rate to the layers: ERK densities, and a choice from a menu.

ERK gives layer l the density eps * (sum of its dimensions) / (product of its dimensions), with eps such that
the whole keeps its share; small and thin layers stay denser.

From a menu, each layer takes one option with its zeros and its cost; the cheapest choice with enough zeros
is found exactly by dynamic programming over zeros, or greedily if the table would not fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nm2trt.errors import SparsifyError

# Entries of the table of decisions: one per layer and unit of zeros.
_TABLE_LIMIT = 1 << 27


@dataclass(frozen=True, slots=True)
class Allocation:
    """One option a layer.

    Args:
        options: Index of the option taken, by layer.
        zeros: Zeros in all.
        cost: Cost in all.
        exact: Whether no cheaper choice exists.
    """

    options: tuple[int, ...]
    zeros: int
    cost: float
    exact: bool


def erk_densities(shapes: Sequence[Sequence[int]], rate: float) -> tuple[float, ...]:
    """Return the share of weights that each layer keeps.

    Args:
        shapes: Shape of each weight, kernel dimensions included.
        rate: Share of zeros over all of them, 0 <= rate < 1.

    Returns:
        Densities in (0, 1] whose sum, weighted by size, is `1 - rate` of all weights. A layer whose density
        would pass 1 stays dense, and the others make up for it.

    Raises:
        SparsifyError: `rate` is outside its range.
    """
    if not 0 <= rate < 1:
        raise SparsifyError(f"a rate of {rate} cannot be allocated; give at least 0 and below 1")
    sizes = np.array([math.prod(shape) for shape in shapes], dtype=np.float64)
    raw = np.array([sum(shape) / math.prod(shape) for shape in shapes])
    dense = np.zeros(len(sizes), dtype=bool)
    while True:
        free = ~dense
        left = (1 - rate) * sizes.sum() - sizes[dense].sum()
        if not free.any():
            return tuple(np.ones(len(sizes)))
        eps = left / (raw[free] * sizes[free]).sum()
        over = free & (eps * raw > 1)
        if not over.any():
            return tuple(float(d) for d in np.where(dense, 1.0, eps * raw))
        dense |= over


def allocate(costs: Sequence[Sequence[float]], zeros: Sequence[Sequence[int]], needed: int) -> Allocation:
    """Choose exactly if the table fits in memory, greedily else; see `allocate_exactly`."""
    unit = _unit(zeros)
    if len(zeros) * (math.ceil(needed / unit) + 1) > _TABLE_LIMIT:
        return allocate_greedily(costs, zeros, needed)
    return allocate_exactly(costs, zeros, needed)


def allocate_exactly(
    costs: Sequence[Sequence[float]], zeros: Sequence[Sequence[int]], needed: int
) -> Allocation:
    """Find the cheapest choice of one option a layer with at least `needed` zeros in all.

    Args:
        costs: By layer, the cost of each option.
        zeros: By layer, the zeros that each option brings, in ascending order.
        needed: Least number of zeros in all.

    Raises:
        SparsifyError: Every layer's last option together does not reach `needed`.
    """
    _check(costs, zeros, needed)
    unit = _unit(zeros)
    target = math.ceil(needed / unit)
    best = np.full(target + 1, np.inf)  # by units reached; the last entry stands for "enough"
    best[0] = 0.0
    taken = []  # by layer: the option, and the units reached before it
    for layer_costs, layer_zeros in zip(costs, zeros, strict=True):
        new = np.full(target + 1, np.inf)
        option_of = np.zeros(target + 1, dtype=np.int16)
        before_enough = 0
        for option, (cost, count) in enumerate(zip(layer_costs, layer_zeros, strict=True)):
            shift = min(count // unit, target)
            reached = np.full(target + 1, np.inf)
            reached[shift:] = best[: target + 1 - shift] + cost
            # "Enough" is reached from every state that the shift lifts to it.
            start = target - shift + int(np.argmin(best[target - shift :]))
            reached[target] = best[start] + cost
            better = reached < new
            if better[target]:
                before_enough = start
            new[better] = reached[better]
            option_of[better] = option
        taken.append((option_of, before_enough))
        best = new
    options = []
    at = target
    for (option_of, before_enough), layer_zeros in zip(reversed(taken), reversed(zeros), strict=True):
        option = int(option_of[at])
        options.append(option)
        at = before_enough if at == target else at - layer_zeros[option] // unit
    return _allocation(options[::-1], costs, zeros, exact=True)


def allocate_greedily(
    costs: Sequence[Sequence[float]], zeros: Sequence[Sequence[int]], needed: int
) -> Allocation:
    """Start from each layer's cheapest option; add zeros where they cost least, then undo what can be undone.

    Args and errors are those of `allocate_exactly`; the result costs at least as much.
    """
    _check(costs, zeros, needed)
    options = [min(range(len(row)), key=row.__getitem__) for row in costs]
    total = sum(zeros[layer][option] for layer, option in enumerate(options))
    while total < needed:
        moves = [
            (
                (costs[layer][more] - costs[layer][option]) / (zeros[layer][more] - zeros[layer][option]),
                layer,
                more,
            )
            for layer, option in enumerate(options)
            for more in range(option + 1, len(costs[layer]))
            if zeros[layer][more] > zeros[layer][option]
        ]
        _, layer, more = min(moves)
        total += zeros[layer][more] - zeros[layer][options[layer]]
        options[layer] = more
    while True:
        moves = [
            (costs[layer][less] - costs[layer][option], layer, less)
            for layer, option in enumerate(options)
            for less in range(len(costs[layer]))
            if costs[layer][less] < costs[layer][option]
            and total + zeros[layer][less] - zeros[layer][option] >= needed
        ]
        if not moves:
            return _allocation(options, costs, zeros, exact=False)
        _, layer, less = min(moves)
        total += zeros[layer][less] - zeros[layer][options[layer]]
        options[layer] = less


def _allocation(
    options: Sequence[int], costs: Sequence[Sequence[float]], zeros: Sequence[Sequence[int]], *, exact: bool
) -> Allocation:
    return Allocation(
        options=tuple(options),
        zeros=sum(zeros[layer][option] for layer, option in enumerate(options)),
        cost=float(sum(costs[layer][option] for layer, option in enumerate(options))),
        exact=exact,
    )


def _unit(zeros: Sequence[Sequence[int]]) -> int:
    return max(1, math.gcd(*(count for row in zeros for count in row)))


def _check(costs: Sequence[Sequence[float]], zeros: Sequence[Sequence[int]], needed: int) -> None:
    if any(list(row) != sorted(row) for row in zeros) or [len(r) for r in costs] != [len(r) for r in zeros]:
        raise SparsifyError("every layer needs one cost for each of its options, in ascending order of zeros")
    most = sum(row[-1] for row in zeros)
    if needed > most:
        raise SparsifyError(f"{needed} zeros are out of reach; the menu gives {most} at most")
