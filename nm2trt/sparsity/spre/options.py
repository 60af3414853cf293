"""Options and base weights of SpRe; the method itself is `nm2trt.sparsity.spre.session`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from nm2trt.errors import SparsifyError
from nm2trt.sparsity.methods.magnitude import MagnitudeWeight
from nm2trt.sparsity.methods.mask_schedule import check_freeze_and_ramp
from nm2trt.sparsity.methods.sr_ste import SrSteWeight, check_decay

Base = Literal["sr-ste", "magnitude"]
Spatial = Literal["denser", "ones", "random", "inverted"]


@dataclass(frozen=True, slots=True)
class SpReOptions:
    """Options of SpRe.

    Args:
        base: How the main branch is trained: "sr-ste", or "magnitude" for a mask fixed at the start, from a
            dense model; the spatial mask is then fixed too.
        lambda_w: SR-STE's decay of pruned entries in the main branch, or "auto"; the second branch has none.
        decoupled: Apply that decay to the weight, not to its gradient.
        efoldings: How far "auto" shrinks an entry that stays pruned, in powers of e.
        pairs: (conv, BatchNorm) names, in place of those that torch.fx finds; only these get a branch.
        interval: Optimizer steps between two updates of the spatial masks.
        smoothing: Decay of the running mean of position sparsity, 0..1; 0 looks at the present step only.
        freeze: Last share of `total_steps` in which all masks stay, those of the main branch and the spatial
            ones.
        ramp: First share of `total_steps` over which the main branch goes from dense to the pattern.
        spatial: Which kernel positions the branch has: "denser" is the method; "ones", "random" (as many
            as "denser") and "inverted" are controls that tell what the choice is worth.
        branch_gamma: What the scale of the branch's BatchNorm starts from. 1 is the released code's: each
            block then starts with twice the variance. 0 starts with the branch switched off, which short runs
            need, and keeps a BatchNorm that the model starts at zero from being undone.
        branch_norm: Give the branch a BatchNorm of its own; False is a control.
        seed: Of the branches' initial weights and of `spatial="random"`; None takes torch's generator.

    Raises:
        SparsifyError: A value is out of range.
    """

    base: Base = "sr-ste"
    lambda_w: float | Literal["auto"] = 2e-4
    decoupled: bool = False
    efoldings: float = 2.0
    pairs: tuple[tuple[str, str], ...] | list[tuple[str, str]] | dict[str, str] | None = None
    interval: int = 1
    smoothing: float = 0.0
    freeze: float = 0.0
    ramp: float = 0.0
    spatial: Spatial = "denser"
    branch_gamma: float = 1.0
    branch_norm: bool = True
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.base not in get_args(Base):
            raise SparsifyError(f'base must be "sr-ste" or "magnitude", not {self.base!r}')
        if self.spatial not in get_args(Spatial):
            raise SparsifyError(
                f"spatial must be one of {', '.join(get_args(Spatial))}, not {self.spatial!r}"
            )
        check_decay(self.lambda_w, self.efoldings)
        if not isinstance(self.interval, int) or self.interval < 1:
            raise SparsifyError(f"interval must be a whole number of steps, 1 or more, not {self.interval!r}")
        if not 0 <= self.smoothing < 1:
            raise SparsifyError(f"smoothing must be at least 0 and below 1, not {self.smoothing}")
        check_freeze_and_ramp(self.freeze, self.ramp)
        if self.base == "magnitude" and self.ramp:
            raise SparsifyError('ramp: the masks of base="magnitude" stay as they start; use base="sr-ste"')
        if not math.isfinite(self.branch_gamma):
            raise SparsifyError(f"branch_gamma must be a finite number, 0 or 1, not {self.branch_gamma}")


class SpReWeight(SrSteWeight):
    """The main branch, and every sparse weight without a branch: SR-STE."""

    nm2trt_method: ClassVar[str] = "spre"
    options: SpReOptions  # type: ignore[assignment]


class SpReFixedWeight(MagnitudeWeight):
    """The same with a mask fixed at the start."""

    nm2trt_method: ClassVar[str] = "spre"

    @classmethod
    def ramp(cls, _options: Any) -> tuple[str, float]:
        """The mask stays as it starts."""
        return "end", 0.0
