"""Mask schedules: how many of each M are kept at a step, and from which step on a mask stays.

Shares of the run are given as fractions of `total_steps`. Pruning over the first share keeps

    n(t) = N + ceil((M - N) (1 - t / t_end)^3)

of each M at step t, with t_end = share * total_steps.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nm2trt.errors import SparsifyError
from nm2trt.nm.pattern import NMPattern
from nm2trt.sparsity.core.parametrization import SparseWeight


def still_to_go(count: int, step: int, last_step: int, exponent: float = 3.0) -> int:
    """Return ceil(count (1 - t / t_end)^p), from `count` at step 0 to 0 at `last_step`; clamped outside."""
    left = (last_step - min(max(step, 0), last_step)) / last_step
    # A whole number but for rounding is not rounded up, and one just above 0 is not taken for 0.
    return math.ceil(count * math.pow(left, exponent) * (1 - 1e-12))


def share_in_steps(name: str, share: float, total_steps: int | None) -> int:
    """Return how many optimizer steps a share of the run is.

    Raises:
        SparsifyError: It is less than one step.
    """
    steps = round((total_steps or 0) * share)
    if steps < 1:
        raise SparsifyError(
            f"total_steps={total_steps} is too small: {name}={share:g} of it is less than one step; give the "
            f"optimizer steps of the whole run, or a larger {name}"
        )
    return steps


def check_share(name: str, share: float) -> None:
    """Check a share that must not be 0.

    Raises:
        SparsifyError: It is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise SparsifyError(f"{name} must be above 0 and at most 1, a share of total_steps, not {share}")


def check_freeze_and_ramp(freeze: float, ramp: float) -> None:
    """Check the last share of a run, in which masks stay, and the first, over which the model is pruned.

    Raises:
        SparsifyError: One is not in [0, 1], or they overlap.
    """
    for name, share in (("freeze", freeze), ("ramp", ramp)):
        if not 0 <= share <= 1:
            raise SparsifyError(f"{name} is a share of total_steps, 0 to 1, not {share}")
    if freeze + ramp > 1:
        raise SparsifyError(
            f"ramp={ramp:g} and freeze={freeze:g} overlap: the masks would stay before the pattern holds; "
            "their sum may be at most 1"
        )


class RampedWeight(SparseWeight):
    """An N:M weight that keeps M of each M at the start of its ramp and N at its end; see `SparseWeight`.

    Raises:
        SparsifyError: The run is so short that the ramp has no step.
    """

    def __init__(
        self, weight: Tensor, pattern: NMPattern, *, axis: int, options: Any, total_steps: int | None = None
    ) -> None:
        name, share = self.ramp(options)
        self._ramp_end = share_in_steps(name, share, total_steps) if share else 0
        super().__init__(weight, pattern, axis=axis, options=options, total_steps=total_steps)

    @classmethod
    def ramp(cls, options: Any) -> tuple[str, float]:
        """Return the ramp's option and its share of `total_steps`; 0 starts with the pattern."""
        return "ramp", options.ramp

    @classmethod
    def has_schedule(cls, options: Any) -> bool:
        """A ramp is a share of the run."""
        return bool(cls.ramp(options)[1])

    def kept_at(self, step: int) -> int:
        """Return how many of each M are kept at a step: N, or more during the ramp."""
        n = self.pattern.n
        return n + still_to_go(self.pattern.m - n, step, self._ramp_end) if self._ramp_end else n

    def kept_now(self) -> int:
        """Return how many of each M are kept at the steps taken."""
        return self.kept_at(self.updates)

    def first_mask(self, weight: Tensor) -> Tensor:
        """Return the N:M mask, or an all-true one before a ramp."""
        if self._ramp_end:
            return torch.ones_like(weight, dtype=torch.bool)
        return super().first_mask(weight)

    def unfinished(self) -> str | None:
        """Say which step ends it, when that lies ahead."""
        if self.kept_now() == self.pattern.n:
            return None
        return f"gradual pruning ends at step {self._ramp_end}, and {self.updates} were taken"
