"""STE and SR-STE: train from scratch with a mask that follows the weights.

The forward uses `W~ = E * W`, where the mask E keeps the N largest magnitudes of each group. The gradient
of W~ is given to W unchanged, pruned entries included. SR-STE (Zhou et al., ICLR 2021, arXiv 2102.04010)
adds a decay of the pruned entries to what the optimizer sees,

    dL/dW  <-  G + lambda_w (1 - E) W,

which keeps the mask from oscillating. The term is added once an optimizer step and to unscaled gradients:
inside the backward it would vanish under a loss scale and multiply under gradient accumulation.

With SGD an entry that stays pruned and gets no gradient shrinks by about exp(-d) over a run, with

    d = sum of lr * (1 - dampening) / (1 - momentum) * lambda_w    over the steps,

the decay's e-foldings: below about 1 the decay does nothing, and the method is STE.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from nm2trt.errors import SparsifyError
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.torch_mask import add_pruned, magnitude_mask
from nm2trt.sparsity.core.distributed import local, local_part
from nm2trt.sparsity.core.training_step import UpdateContext, adds_gradients
from nm2trt.sparsity.methods.mask_schedule import RampedWeight, check_freeze_and_ramp, share_in_steps


@dataclass(frozen=True, slots=True)
class SteOptions:
    """Options of STE.

    Args:
        freeze: Last share of `total_steps` in which the masks stay as they are, 0..1.
        ramp: First share of `total_steps` over which the model goes from dense to the pattern, by the gradual
            schedule of magnitude pruning; 0 starts with the pattern.

    Raises:
        SparsifyError: A share is out of range.
    """

    freeze: float = 0.0
    ramp: float = 0.0

    def __post_init__(self) -> None:
        check_freeze_and_ramp(self.freeze, self.ramp)


@dataclass(frozen=True, slots=True)
class SrSteOptions:
    """Options of SR-STE.

    Args:
        lambda_w: Strength of the decay of pruned entries; 0 is plain STE. "auto" scales it to the run, so
            that the decay reaches `efoldings`; it needs `total_steps`, and SGD unless `decoupled`.
        decoupled: Shrink the pruned entries directly by `lr * lambda_w`, as AdamW does with its decay, and
            leave the gradient alone. With Adam the gradient form is divided by the second moment.
        efoldings: How far "auto" shrinks an entry that stays pruned, in powers of e.
        freeze: Last share of `total_steps` in which the masks stay as they are, 0..1.
        ramp: First share of `total_steps` over which the model goes from dense to the pattern; 0 starts with
            the pattern.

    Raises:
        SparsifyError: `lambda_w` is not finite, `efoldings` is not positive, or a share is out of range.
    """

    lambda_w: float | Literal["auto"] = 2e-4
    decoupled: bool = False
    efoldings: float = 2.0
    freeze: float = 0.0
    ramp: float = 0.0

    def __post_init__(self) -> None:
        check_decay(self.lambda_w, self.efoldings)
        check_freeze_and_ramp(self.freeze, self.ramp)


def check_decay(lambda_w: float | str, efoldings: float) -> None:
    """Check the decay's strength.

    Raises:
        SparsifyError: `lambda_w` is neither finite nor "auto", or `efoldings` is not positive.
    """
    if lambda_w != "auto" and (isinstance(lambda_w, str) or not math.isfinite(lambda_w)):
        raise SparsifyError(
            f'lambda_w must be a finite number or "auto", not {lambda_w!r}; the default is 2e-4'
        )
    if not (math.isfinite(efoldings) and efoldings > 0):
        raise SparsifyError(f"efoldings must be a positive number, not {efoldings}; the default is 2")


# How far "auto" may exceed, near the end, the strength that a learning rate of half the peak needs.
_STRONGEST = 4.0


class SteWeight(RampedWeight):
    """Plain straight-through estimator: SR-STE without the decay."""

    nm2trt_method: ClassVar[str] = "ste"

    def __init__(
        self, weight: Tensor, pattern: NMPattern, *, axis: int, options: Any, total_steps: int | None = None
    ) -> None:
        super().__init__(weight, pattern, axis=axis, options=options, total_steps=total_steps)
        frozen_for = share_in_steps("freeze", options.freeze, total_steps) if options.freeze else 0
        # Shares that add up to 1 may both be rounded up: no mask is frozen before the pattern holds.
        last = max((total_steps or 0) - frozen_for, self._ramp_end)
        self._last_change = last if frozen_for else None
        if options.freeze:  # a frozen mask is in no weight; the state has the same keys all through the run
            self.register_buffer("mask", self.mask)

    @classmethod
    def has_schedule(cls, options: Any) -> bool:
        """Freezing and the ramp are shares of the run."""
        return bool(options.freeze) or super().has_schedule(options)

    @property
    def frozen(self) -> bool:
        """Whether the last share of the run has begun, in which the mask stays."""
        return self._last_change is not None and self.updates > self._last_change

    @property
    def mask_follows_weight(self) -> bool:
        """Whether the mask is still set from the weight."""
        return not self.frozen

    def new_mask(self, weight: Tensor) -> Tensor | None:
        """Return the mask of the weight's magnitudes, or None once it stays."""
        if self.frozen:
            return None
        pattern = self.followed_pattern()
        if pattern is None:
            return torch.ones_like(weight, dtype=torch.bool)
        return magnitude_mask(weight, pattern, axis=self.axis)

    def followed_pattern(self) -> NMPattern | None:
        """Return the pattern of the weight's magnitudes that the mask has now, unless all or none changes."""
        kept = self.kept_now()
        return None if self.frozen or kept == self.pattern.m else NMPattern(kept, self.pattern.m)

    def telemetry(self) -> dict[str, float]:
        """Return how many of each M are kept during a ramp, and whether the mask is frozen."""
        found: dict[str, float] = {"kept_of_m": self.kept_now()} if self._ramp_end else {}
        return found if self._last_change is None else {**found, "frozen": self.frozen}


class SrSteWeight(SteWeight):
    """Straight-through estimator with the sparse-refined decay of pruned entries.

    Attributes:
        efoldings: The decay's e-foldings so far; None under an optimizer that rescales gradients.
    """

    nm2trt_method: ClassVar[str] = "sr-ste"
    options: SrSteOptions

    def __init__(
        self, weight: Tensor, pattern: NMPattern, *, axis: int, options: Any, total_steps: int | None = None
    ) -> None:
        super().__init__(weight, pattern, axis=axis, options=options, total_steps=total_steps)
        self.efoldings: float | None = 0.0
        self._peak = 0.0

    @classmethod
    def has_schedule(cls, options: Any) -> bool:
        """Freezing and the ramp are shares of the run, and "auto" spreads the decay over it."""
        return super().has_schedule(options) or options.lambda_w == "auto"

    def check_optimizer(self, name: str, group: Mapping[str, Any] | None) -> None:
        """Refuse "auto" under an optimizer whose decay has no known strength."""
        counts_on_sgd = self.options.lambda_w == "auto" and not self.options.decoupled
        if counts_on_sgd and group is not None and not adds_gradients(group):
            raise SparsifyError(
                f'{name}: lambda_w="auto" counts on SGD, and this optimizer rescales gradients; use '
                "decoupled=True, or give lambda_w a number"
            )

    @torch.no_grad()
    def before_update(self, weight: nn.Parameter, context: UpdateContext) -> None:
        """Add `lambda_w (1 - E) W` to the gradient, or take it off the weight when decoupled."""
        if self.options.lambda_w == 0 or weight.grad is None:
            return
        strength = self._strength(context)
        values, mask = local(weight), local_part(self.mask, weight)
        if self.options.decoupled:
            add_pruned(values, values, mask, -context.learning_rate * strength)
        else:
            add_pruned(local(weight.grad), values, mask, context.grad_scale * strength)

    def telemetry(self) -> dict[str, float]:
        """Return the base's numbers and the decay's e-foldings."""
        found = super().telemetry()
        return found if self.efoldings is None else {**found, "efoldings": self.efoldings}

    def counters(self) -> dict[str, float]:
        """Return the decay's e-foldings and the peak learning rate."""
        return {"peak": self._peak} | ({} if self.efoldings is None else {"efoldings": self.efoldings})

    def restore_counters(self, counters: Mapping[str, float]) -> None:
        """Take back what `counters` returned."""
        self._peak = counters.get("peak", 0.0)
        self.efoldings = counters.get("efoldings")

    def progress(self) -> tuple[float, ...]:
        """Return what the decay has reached, on which "auto" depends."""
        return (self.efoldings or 0.0, self._peak) if self.options.lambda_w == "auto" else ()

    def restore_progress(self, progress: Sequence[float]) -> None:
        """Take back what `progress` returned."""
        if self.options.lambda_w == "auto" and progress:
            self.efoldings, self._peak = progress

    def start_again(self, weight: Tensor) -> None:
        """Return to the first step."""
        super().start_again(weight)
        self.efoldings, self._peak = 0.0, 0.0

    def _strength(self, context: UpdateContext) -> float:
        """Return lambda_w for this step, and count the e-foldings that it brings."""
        rate, gain = context.learning_rate, 1.0 if self.options.decoupled else context.gain
        strength = self.options.lambda_w
        if isinstance(strength, str):
            strength = self._scaled(context, gain or 1.0)
        if gain is None or self.efoldings is None:
            self.efoldings = None
        else:
            self.efoldings += rate * gain * strength
        return strength

    def _scaled(self, context: UpdateContext, gain: float) -> float:
        """Spread the e-foldings that are missing over the steps that are left.

        The learning rate is expected to average half its peak, or its present value if that is less.
        """
        self._peak = max(self._peak, context.peak_rate, context.learning_rate)
        if self._peak == 0:
            return 0.0
        total = self.total_steps or 1
        goal, half = self.options.efoldings, self._peak / 2
        strongest = _STRONGEST * goal / (half * gain * total)
        missing = max(0.0, goal - (self.efoldings or 0.0))
        expected = min(half, context.learning_rate) * gain * max(1, total - self.updates)
        return min(strongest, missing / expected) if expected > 0 else 0.0
