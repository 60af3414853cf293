"""SAD, sparse architecture divergence: how many weights changed between kept and pruned.

For masks E_i and E_j of one weight, SAD is the number of entries in which they differ (SR-STE, Zhou et
al. 2021). Exactly N are kept in each group, so it is even, and at most 2 min(N, M - N) a group. Patterns
are compared only after dividing by that maximum.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from nm2trt.json_value import JsonValue
from nm2trt.nm.pattern import NMPattern


@dataclass(frozen=True, slots=True)
class Sad(JsonValue):
    """SAD of one weight, or of several together.

    Args:
        count: Entries whose state differs.
        size: Entries compared.
        most: Largest `count` that the patterns allow.
    """

    json_names = "* fraction normalised"

    count: int
    size: int
    most: float

    @property
    def fraction(self) -> float:
        """Share of the entries that differ."""
        return self.count / self.size if self.size else 0.0

    @property
    def normalised(self) -> float:
        """`count` over the largest that the pattern allows, 0..1."""
        return self.count / self.most if self.most else 0.0


def sad_count(before: Tensor, after: Tensor) -> Tensor:
    """Count the entries in which two bool masks of one shape differ; a 0-dim integer on their device."""
    return torch.count_nonzero(before != after)


def largest_fraction(pattern: NMPattern) -> float:
    """Return the largest share of entries that can differ, 2 min(N, M - N) / M."""
    return 2 * min(pattern.n, pattern.m - pattern.n) / pattern.m


def total(parts: Iterable[Sad]) -> Sad:
    """Add up layers: the SAD of all their weights as one tensor, not the mean of their shares."""
    count, size, most = 0, 0, 0.0
    for part in parts:
        count, size, most = count + part.count, size + part.size, most + part.most
    return Sad(count, size, most)
