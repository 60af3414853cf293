"""Turn an attached model into plain layers whose weights hold their zeros."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils import parametrize

from nm2trt.errors import SparsityError
from nm2trt.nm.mask import check
from nm2trt.nm.plan import PLAN_ATTRIBUTE, Plan
from nm2trt.sparsity.policy import check_finite
from nm2trt.sparsity.tracked import TrackedWeight

__all__ = ["bake"]


def bake(model: nn.Module, plan: Plan, weights: Sequence[TrackedWeight]) -> nn.Module:
    """Write the zeros into the parameters, remove the parametrisations, check the pattern, keep the plan.

    Args:
        model: The attached model, or a copy of it.
        plan: Stored on the model for the exporter.
        weights: The sparse weights of `model`.

    Returns:
        `model`.

    Raises:
        SparsifyError: A weight holds NaN or infinity; nothing was changed then.
        SparsityError: A weight does not hold its pattern.
    """
    for weight in weights:
        check_finite(weight.name, weight.original)
    for weight in weights:
        original = weight.original
        with torch.no_grad():
            original.masked_fill_(weight.sparse.mask.logical_not(), 0)
        for site in weight.sites:
            parametrize.remove_parametrizations(site.module, site.tensor, leave_parametrized=False)
        held = check(original.detach().float().cpu().numpy(), weight.sparse.pattern, axis=weight.sparse.axis)
        if not held.holds:
            raise SparsityError(
                f"{weight.name} breaks {weight.sparse.pattern} in {held.broken} of {held.groups} groups, "
                f"first at {held.first_broken}; the mask was changed from outside"
            )
    setattr(model, PLAN_ATTRIBUTE, plan)
    return model
