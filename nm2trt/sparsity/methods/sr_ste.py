"""STE and SR-STE: train from scratch with a mask that follows the weights.

The forward uses `W~ = E * W`, where the mask E keeps the N largest magnitudes of each group. The gradient
of W~ is given to W unchanged, pruned entries included. SR-STE (Zhou et al., ICLR 2021, arXiv 2102.04010)
adds a decay of the pruned entries to what the optimizer sees,

    dL/dW  <-  G + lambda_w (1 - E) W,

which keeps the mask from oscillating. The term is added once an optimizer step and to unscaled gradients:
inside the backward it would vanish under a loss scale and multiply under gradient accumulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from nm2trt.errors import SparsifyError
from nm2trt.sparsity.core.distributed import local, local_part
from nm2trt.sparsity.core.parametrization import SparseWeight, UpdateContext

__all__ = ["SrSteOptions", "SrSteWeight", "SteWeight"]


@dataclass(frozen=True, slots=True)
class SrSteOptions:
    """Options of SR-STE.

    Args:
        lambda_w: Strength of the decay of pruned entries; 0 is plain STE.
        decoupled: Shrink the pruned entries directly by `lr * lambda_w`, as AdamW does with its decay, and
            leave the gradient alone. With Adam the gradient form is divided by the second moment.

    Raises:
        SparsifyError: `lambda_w` is not finite.
    """

    lambda_w: float = 2e-4
    decoupled: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.lambda_w):
            raise SparsifyError(f"lambda_w must be a finite number, not {self.lambda_w}; the default is 2e-4")


_BLOCK_ELEMENTS = 1 << 18


class SteWeight(SparseWeight):
    """Plain straight-through estimator: SR-STE without the decay."""

    nm2trt_method: ClassVar[str] = "ste"


class SrSteWeight(SparseWeight):
    """Straight-through estimator with the sparse-refined decay of pruned entries."""

    nm2trt_method: ClassVar[str] = "sr-ste"
    options: SrSteOptions

    @torch.no_grad()
    def before_update(self, weight: nn.Parameter, context: UpdateContext) -> None:
        """Add `lambda_w (1 - E) W` to the gradient, or take it off the weight when decoupled."""
        if self.options.lambda_w == 0 or weight.grad is None:
            return
        values, mask = local(weight), local_part(self.mask, weight)
        if self.options.decoupled:
            _add_pruned(values, values, mask, -context.learning_rate * self.options.lambda_w)
        else:
            _add_pruned(local(weight.grad), values, mask, context.grad_scale * self.options.lambda_w)


def _add_pruned(target: Tensor, values: Tensor, mask: Tensor, factor: float | Tensor) -> None:
    """Add `factor * (1 - mask) * values` to `target`, in blocks whose temporaries stay in the cache."""
    blocks = [(target, values, mask)]
    if target.device.type == "cpu" and all(t.is_contiguous() for t in blocks[0]):
        blocks = list(zip(*(torch.split(t.view(-1), _BLOCK_ELEMENTS) for t in blocks[0]), strict=True))
    for into, of, kept in blocks:
        pruned = of * kept.logical_not()
        if isinstance(factor, Tensor):
            into.add_(pruned.mul_(factor.to(pruned.device)))
        else:
            into.add_(pruned, alpha=factor)
