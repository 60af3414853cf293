"""The N:M pattern as a value, and the only parser of texts such as "2:4"."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from nm2trt.errors import PatternError


@dataclass(frozen=True, slots=True, order=True)
class NMPattern:
    """At most `n` non-zeros in every group of `m` consecutive elements of the reduction axis.

    Args:
        n: Elements kept in a group, 1 <= n <= m.
        m: Elements in a group.

    Raises:
        PatternError: `n` or `m` is not a positive integer, or `n` exceeds `m`.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        for name, value in (("N", self.n), ("M", self.m)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise PatternError(
                    f"{name} of an N:M pattern must be a positive integer, not {value!r}; try 2:4"
                )
        if self.n > self.m:
            raise PatternError(
                f"{self.n}:{self.m} keeps more elements than a group has; N must be at most M, as in 2:4"
            )

    @classmethod
    def parse(cls, text: str | NMPattern) -> NMPattern:
        """Read a text such as "2:4"; a pattern is returned as it is.

        Raises:
            PatternError: The text is not two positive integers joined by a colon, or N exceeds M.
        """
        if isinstance(text, NMPattern):
            return text
        match = re.fullmatch(r"\s*([0-9]{1,6}):([0-9]{1,6})\s*", text) if isinstance(text, str) else None
        if match is None:
            raise PatternError(
                f"{text!r} is not an N:M pattern; write two positive integers, as in 2:4 or 1:16"
            )
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    def to_json(self) -> str:
        """Return the text, as in "2:4"."""
        return str(self)

    @property
    def density(self) -> float:
        """Share of weights kept, N/M."""
        return self.n / self.m

    @property
    def sparsity(self) -> float:
        """Share of weights that are zero, 1 - N/M."""
        return 1.0 - self.density

    def admits(self, other: NMPattern) -> bool:
        """Tell whether every weight that holds `other` holds this pattern too.

        2:4 admits 1:4 and 2:8, but not 4:8: four non-zeros of eight may all stand in one group of four.
        """
        # One period of both groupings; the worst case fills `other`'s groups inside one of ours.
        for start in range(0, math.lcm(self.m, other.m), self.m):
            worst = 0
            for group in range(start // other.m, math.ceil((start + self.m) / other.m)):
                overlap = min(start + self.m, (group + 1) * other.m) - max(start, group * other.m)
                worst += min(other.n, overlap)
            if worst > self.n:
                return False
        return True
