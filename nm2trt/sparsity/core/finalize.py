"""Turn an attached model into plain layers whose weights hold their zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nm2trt.errors import SparsifyError, SparsityError
from nm2trt.nm.mask import check
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import PLAN_ATTRIBUTE, Plan, inside_wrappers
from nm2trt.sparsity.core import state_keys
from nm2trt.sparsity.core.distributed import full, is_sharded, plain_copy
from nm2trt.sparsity.core.layer_choice import check_finite
from nm2trt.sparsity.core.recurrent import weight_order
from nm2trt.sparsity.core.tracked_weight import TrackedWeight

_AFTER_DIVERGENCE = (
    "the training diverged: load an earlier checkpoint, and lower the learning rate or clip the gradients"
)


def refuse_replaced(model: nn.Module, weights: Sequence[TrackedWeight]) -> None:
    """Raise if a sparse layer was taken out of the model, or got its own copy of a shared weight.

    Raises:
        SparsifyError: One is not, or does not.
    """
    present = {id(module) for module in model.modules()}
    for weight in weights:
        shared: set[int] = set()
        for site in weight.sites:
            if id(site.module) not in present:
                raise SparsifyError(
                    f"the layer of {site.weight_name} was taken out of the model; put it back, and replace "
                    "or remove layers before sparsify or after finalize"
                )
            listed = state_keys.sparse_weights(site.module)
            shared.update(id(found.original) for name, found, _ in listed if name == site.tensor)
            if len(shared) > 1:
                raise SparsifyError(
                    f"{site.weight_name} no longer shares the parameter of {weight.name}, as after to_empty()"
                    " or load_state_dict(assign=True); let parametrizations.weight.original of both be one "
                    "Parameter again, and make the optimizer after that"
                )


def refuse_others(weight: TrackedWeight) -> None:
    """Raise when another parametrisation was registered on a sparse weight: baking would drop it.

    Raises:
        SparsifyError: One was.
    """
    for site in weight.sites:
        listed: Any = site.module.parametrizations[site.tensor]  # type: ignore[index]
        others = ", ".join(type(p).__name__ for p in listed if p is not weight.sparse)
        if others:
            raise SparsifyError(
                f"{site.weight_name} has another parametrisation ({others}), which finalize would drop; "
                "remove it, or register it before sparsify and exclude the layer"
            )


@torch.no_grad()
def refuse_stale(weight: TrackedWeight) -> None:
    """Raise when a mask that follows its weight is another weight's: a step was not followed.

    Raises:
        SparsifyError: It is, or the weight was changed where the change is lost.
    """
    weight.sparse.check_unchanged()
    values = full(weight.original).detach()
    check_finite(weight.name, values, _AFTER_DIVERGENCE)
    stale = weight.sparse.stale_entries(values)
    if stale:
        raise SparsifyError(
            f"{stale:,} of {values.numel():,} mask entries of {weight.name} are not those of its values: an "
            "optimizer that is not attached changed it; call refresh() to take its values as they are, and "
            "attach(optimizer) before training"
        )


def bake(model: nn.Module, plan: Plan, weights: Sequence[TrackedWeight]) -> nn.Module:
    """Write the zeros into the parameters, remove the parametrisations, check the pattern, keep the plan.

    Args:
        model: The attached model, or a copy of it.
        plan: Stored on the model for the exporter, on the one inside its wrappers if it has some.
        weights: The sparse weights of `model`.

    Returns:
        `model`; a new, unsharded one where FSDP2 has split its parameters.

    Raises:
        SparsifyError: A weight holds NaN or infinity; nothing was changed then.
        SparsityError: A weight does not hold its pattern.
    """
    values = {weight.name: full(weight.original).detach() for weight in weights}
    for weight in weights:
        check_finite(weight.name, values[weight.name], _AFTER_DIVERGENCE)
    with torch.no_grad():
        for weight in weights:
            if is_sharded(weight.original):
                values[weight.name] = values[weight.name].clone()
            values[weight.name].masked_fill_(weight.sparse.mask.logical_not(), 0)
            sparse = weight.sparse
            require_pattern(weight.name, values[weight.name], sparse.pattern, axis=sparse.axis)
    if any(is_sharded(parameter) for parameter in model.parameters()):
        baked = {(id(s.module), s.tensor): values[w.name] for w in weights for s in w.sites}
        model = plain_copy(model, baked)
    else:
        for site in (site for weight in weights for site in weight.sites):
            if parametrize.is_parametrized(site.module, site.tensor):
                make_plain(site.module)
    setattr(inside_wrappers(model), PLAN_ATTRIBUTE, plan)
    return model


def make_plain(module: nn.Module) -> None:
    """Remove our parametrisations from a layer; the originals become its parameters again."""
    # Not torch's own function: it edits the class, which deepcopies of the layer share.
    parametrizations = module.parametrizations
    attached = module.__class__
    originals: dict[str, Any] = {name: p.original for name, p, _ in state_keys.sparse_weights(module)}
    for name in originals:
        del parametrizations[name]  # type: ignore[operator, union-attr]
    if len(parametrizations) == 0:  # type: ignore[arg-type]
        del module.parametrizations
        module.__class__ = attached.__bases__[0]
    else:
        rest = {key: value for key, value in vars(attached).items() if key not in originals}
        module.__class__ = type(attached.__name__, attached.__bases__, rest)
    others = list(module._parameters)
    for name, original in originals.items():
        module.register_parameter(name, original)
    # The weight stands in front of its bias again, as in the layer that was given.
    for name in [name for name in weight_order(module) if name in module._parameters] or others:
        module._parameters[name] = module._parameters.pop(name)
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()


def require_pattern(name: str, values: Tensor, pattern: NMPattern, *, axis: int) -> None:
    """Raise SparsityError when a whole weight does not hold its pattern."""
    held = check(values.float().cpu().numpy(), pattern, axis=axis)
    if not held.holds:
        raise SparsityError(
            f"{name} breaks {pattern} in {held.broken:,} of {held.groups:,} groups, "
            f"first at {held.first_broken}; the mask was changed from outside"
        )
