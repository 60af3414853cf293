"""Search for a better order of channels under N:M: random matchings of groups, the best swap of each pair.

The objective is the sum, over all rows and all groups of M consecutive channels, of the N largest saliencies.
Each round pairs the groups at random and exchanges, in every pair, the two channels that gain most; a pair
that gains nothing stays. So the objective never falls, and the channels' order inside a group is free.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nm2trt.arrays import Array
from nm2trt.nm.pattern import NMPattern

ROUNDS = 150
_PATIENCE = 15  # rounds without a swap after which the search ends
_LEAST_GAIN = 1e-6  # of what the pair keeps: float32 sums are not finer
_PIECE_ELEMENTS = 1 << 20
_MOST_ROWS = 1024


def kept_saliency(saliency: Array, pattern: NMPattern) -> float:
    """Return the sum of the N largest of each M consecutive channels, over all rows, in float64.

    Args:
        saliency: (rows, channels), not negative; M divides the channels.
        pattern: The pattern.
    """
    groups = saliency.reshape(len(saliency), -1, pattern.m)
    if pattern.n < pattern.m:
        groups = np.partition(groups, pattern.m - pattern.n, axis=2)[:, :, pattern.m - pattern.n :]
    return float(groups.sum(dtype=np.float64))


def search_order(
    saliency: Array, pattern: NMPattern, *, seed: int = 0, rounds: int = ROUNDS
) -> npt.NDArray[np.int64]:
    """Return an order of the channels under which the pattern keeps at least as much saliency as before.

    The same arguments give the same order. Large matrices are searched on 1,024 rows drawn at random; the
    order that is found is then held against all rows.

    Args:
        saliency: (rows, channels) float array, not negative; M divides the channels.
        pattern: The pattern.
        seed: Seed of the matchings and of the rows drawn.
        rounds: Most rounds.

    Returns:
        (channels,) indices: channel `order[i]` goes to place i.
    """
    random = np.random.default_rng(seed)
    channels = saliency.shape[1]
    order = np.arange(channels).reshape(-1, pattern.m)
    rows = saliency
    if len(saliency) > _MOST_ROWS:
        rows = saliency[np.sort(random.choice(len(saliency), _MOST_ROWS, replace=False))]
    if len(order) < 2 or pattern.n == pattern.m or not len(saliency):
        return order.reshape(-1)
    groups = _Groups(rows, order, pattern)
    idle = 0
    for _ in range(rounds):
        idle = 0 if groups.swap_best(random.permutation(len(order))) else idle + 1
        if idle == _PATIENCE:
            break
    found = np.sort(groups.order, axis=1)
    found = found[np.argsort(found[:, 0])].reshape(-1)
    better = kept_saliency(saliency[:, found], pattern) > kept_saliency(saliency, pattern)
    return found if better else np.arange(channels)


class _Groups:
    """The groups, with what each keeps if one of its channels is replaced.

    A group that loses channel a and gets saliency v keeps `rest[a] + max(v, last[a])`: the N - 1 largest of
    the channels that stay, and the larger of v and the N-th of them.
    """

    def __init__(self, saliency: Array, order: Array, pattern: NMPattern) -> None:
        self.order, self.pattern = order.copy(), pattern
        self.values = np.ascontiguousarray(saliency.T, dtype=np.float32)  # (channels, rows)
        self.last = np.empty((*order.shape, len(saliency)), np.float32)
        self.rest = np.empty(order.shape, np.float32)  # summed over the rows
        self.kept = np.empty(len(order), np.float32)
        self._refresh(np.arange(len(order)))

    def _refresh(self, groups: Array) -> None:
        step = max(1, _PIECE_ELEMENTS // (self.values.shape[1] * self.pattern.m))
        for start in range(0, len(groups), step):
            part = groups[start : start + step]
            values = self.values[self.order[part]]  # (groups, M, rows)
            ranked = -np.sort(-values, axis=1)
            top = ranked[:, : self.pattern.n].sum(1)
            nth, following = ranked[:, self.pattern.n - 1], ranked[:, self.pattern.n]
            among = values >= nth[:, None]
            self.last[part] = np.where(among, following[:, None], nth[:, None])
            self.rest[part] = (top[:, None] - np.where(among, values, nth[:, None])).sum(2)
            self.kept[part] = top.sum(1)

    def swap_best(self, shuffled: Array) -> bool:
        """Pair the groups in the given order, swap in each pair what gains most; tell whether any did."""
        half = len(shuffled) // 2
        first, second = shuffled[:half], shuffled[half : 2 * half]
        m = self.pattern.m
        step = max(1, _PIECE_ELEMENTS // (self.values.shape[1] * m * m))
        gains = np.concatenate(
            [self._gains(first[i : i + step], second[i : i + step]) for i in range(0, half, step)]
        )
        best = gains.argmax(1)
        base = self.kept[first] + self.kept[second]
        won = gains[np.arange(half), best] > _LEAST_GAIN * base
        first, second, best = first[won], second[won], best[won]
        mine, other = self.order[first, best // m].copy(), self.order[second, best % m].copy()
        self.order[first, best // m], self.order[second, best % m] = other, mine
        self._refresh(np.concatenate([first, second]))
        return bool(won.any())

    def _gains(self, first: Array, second: Array) -> Array:
        """Return (pairs, M * M) gains of exchanging channel a of the first group with b of the second."""
        mine, other = self.values[self.order[first]], self.values[self.order[second]]
        kept = np.maximum(other[:, None], self.last[first][:, :, None]).sum(-1)
        kept += np.maximum(mine[:, :, None], self.last[second][:, None]).sum(-1)
        kept += self.rest[first][:, :, None] + self.rest[second][:, None]
        kept -= (self.kept[first] + self.kept[second])[:, None, None]
        return np.asarray(kept.reshape(len(first), -1))
