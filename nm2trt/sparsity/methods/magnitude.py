"""Magnitude pruning with a mask that stays: one-shot, fine-tuned, or gradual.

The N largest magnitudes of each group are kept once, and the rest gets no gradient. Without training this
is one-shot pruning; with it, the fine-tuning of a fixed mask from a dense model. `gradual=True` keeps

    n(t) = N + ceil((M - N) (1 - t / t_end)^3)

of each M at step t, so that pruning is spread over the first `end` of the run; what is pruned stays pruned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.torch_mask import nm_mask
from nm2trt.sparsity.methods.mask_schedule import RampedWeight, check_share


@dataclass(frozen=True, slots=True)
class MagnitudeOptions:
    """Options of magnitude pruning.

    Args:
        gradual: Start dense and prune step by step; needs `total_steps`.
        end: Share of `total_steps` after which the pattern holds.

    Raises:
        SparsifyError: `end` is not in (0, 1].
    """

    gradual: bool = False
    end: float = 0.5

    def __post_init__(self) -> None:
        check_share("end", self.end)


class MagnitudeWeight(RampedWeight):
    """A mask by magnitude that no later step revives."""

    nm2trt_method: ClassVar[str] = "magnitude"
    saves_mask: ClassVar[bool] = True

    @classmethod
    def ramp(cls, options: Any) -> tuple[str, float]:
        """Only gradual pruning has one."""
        return "end", options.end if options.gradual else 0.0

    @property
    def mask_follows_weight(self) -> bool:
        """False: the mask has a history."""
        return False

    def masked(self, weight: Tensor) -> Tensor:
        """Zero the pruned entries; they get no gradient."""
        return weight * self.mask

    def new_mask(self, weight: Tensor) -> Tensor | None:
        """Prune further when the schedule says so."""
        kept = self.kept_now()
        if kept == self.kept_at(self.updates - 1) and self.updates > 0:
            return None
        score = torch.where(self.mask, weight.abs(), -1)
        return nm_mask(score, NMPattern(kept, self.pattern.m), axis=self.axis)

    def telemetry(self) -> dict[str, float]:
        """Return how many of each M are kept now."""
        return {"kept_of_m": self.kept_now()}
