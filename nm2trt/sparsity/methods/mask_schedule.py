"""Mask schedules: how many of each M are kept at a step, and from which step on a mask stays.

Shares of the run are given as fractions of `total_steps`. Pruning over the first share keeps

    n(t) = N + ceil((M - N) (1 - t / t_end)^3)

of each M at step t, with t_end = share * total_steps.
"""

from __future__ import annotations

import math

from nm2trt.errors import SparsifyError
from nm2trt.nm.pattern import NMPattern


def still_to_go(count: int, step: int, last_step: int, exponent: float = 3.0) -> int:
    """Return ceil(count (1 - t / t_end)^p), from `count` at step 0 to 0 at `last_step`; clamped outside."""
    left = (last_step - min(max(step, 0), last_step)) / last_step
    # A whole number but for rounding is not rounded up, and one just above 0 is not taken for 0.
    return math.ceil(count * math.pow(left, exponent) * (1 - 1e-12))


def kept_of_m(pattern: NMPattern, step: int, last_step: int) -> int:
    """Return n(t), M at step 0 and N from `last_step` on."""
    return pattern.n + still_to_go(pattern.m - pattern.n, step, last_step)


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
