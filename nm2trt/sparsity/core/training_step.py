"""A training step as methods see it: the straight-through gradient, and the optimizer step that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class UpdateContext:
    """What a method may need to know of the optimizer step that is about to run.

    Args:
        learning_rate: Of the weight's parameter group.
        grad_scale: Factor on the gradients that the step itself takes off again: the loss scale of a fused
            optimizer under a GradScaler, and -1 of an optimizer that maximises; 1 otherwise.
        peak_rate: Largest learning rate known of the run so far: the present one, or the one that a scheduler
            noted as the initial one.
        gain: What a constant gradient of 1 moves a weight by per step in the long run, in learning rates:
            (1 - dampening) / (1 - momentum) for SGD, None if the optimizer's step is not a sum of gradients.
    """

    learning_rate: float
    grad_scale: float | Tensor = 1.0
    peak_rate: float = 0.0
    gain: float | None = 1.0


# Options of optimizers whose step is not a sum of gradients: Adam and its kin, Lion, Rprop, LBFGS.
_RESCALING = frozenset({"eps", "betas", "etas", "max_iter"})


def adds_gradients(group: Mapping[str, Any]) -> bool:
    """Tell whether an optimizer moves the weights of a parameter group by a sum of gradients, as SGD does."""
    return _RESCALING.isdisjoint(group)


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, mask: Tensor) -> Tensor:
        # On a CPU four times as fast as torch.where.
        return weight * mask

    @staticmethod
    def setup_context(_ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def keep_straight_through(weight: Tensor, mask: Tensor) -> Tensor:
    """Zero the pruned entries; the gradient reaches all entries, pruned ones included."""
    result: Tensor = _StraightThrough.apply(weight, mask)  # type: ignore[no-untyped-call]
    return result
