"""One part solved and written: mask and values, or values on a given mask, and the change of its mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nm2trt.errors import SparsityError
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.solver.layer_moments import Sums
from nm2trt.nm.solver.layer_solver import LayerFit, fit_layer
from nm2trt.sparsity.core.layer_choice import Choice
from nm2trt.sparsity.reconstruct.parts import Part, obstacle
from nm2trt.sparsity.reconstruct.rows import matrix, stored
from nm2trt.sparsity.reconstruct.walk import Walk


@torch.no_grad()
def solve_part(
    walk: Walk,
    part: Part,
    moments: tuple[Sums, Sums | None],
    target: Tensor,
    *,
    pattern: NMPattern | None = None,
    mask: Tensor | None = None,
) -> tuple[LayerFit, Tensor | None]:
    """Solve a part, write its weight, and move its bias or what its BatchNorm expects.

    Args:
        walk: The walk that stands at the part.
        part: The part.
        moments: Of fitted and of held-out rows.
        target: The parameter; only the part's rows of it change.
        pattern: The pattern; without it and without `mask` the part is refitted dense.
        mask: Of the target's shape, True where kept; pruned entries of the target then keep their values.

    Returns:
        The fit, and its mask in the layout of `part.of(target)` (None when dense).

    Raises:
        SparsityError: The solution is not finite; nothing was changed.
    """
    given = None if mask is None else matrix(part.of(mask))
    dense = walk.dense_weight(part)
    fit = walk.processes.solved(
        lambda: fit_layer(*moments, dense, pattern, bias=part.centred, mask=given), dense.device
    )
    scale, mine = walk.scale(part), part.of(target)
    values = stored(fit.weight / scale[:, None], mine.shape).to(target.dtype)
    change = None if fit.bias_change is None else fit.bias_change / scale
    if not bool(values.isfinite().all()) or (change is not None and not bool(change.isfinite().all())):
        raise SparsityError("its solution is not finite")
    mine.copy_(values if mask is None else torch.where(part.of(mask), values, mine))
    if change is not None:
        part.move_mean(change)
    return fit, None if fit.mask is None else stored(fit.mask, mine.shape)


def described(fit: LayerFit) -> dict[str, Any]:
    """Return lambda and the errors of a fit as JSON values."""
    names = ("chosen", "ridge", "held_out", "dense_error", "error", "magnitude_error")
    return {name: getattr(fit, name) for name in names}


def layers_of(
    model: nn.Module, choices: Sequence[Choice]
) -> tuple[dict[str, dict[str, str]], Mapping[str, str]]:
    """Return the layers that can be rebuilt, and why other weights cannot.

    Returns:
        By layer the names of its weights by parameter; the output projection of `nn.MultiheadAttention`,
        which is never called, belongs to that. And a clause by weight.
    """
    attention = {name for name, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)}
    layers: dict[str, dict[str, str]] = {}
    reasons: dict[str, str] = {}
    for choice in choices:
        site, weight = choice.sites[0], choice.entry.weight
        reason = choice.entry.reason if 0 in choice.entry.shape else obstacle(site.module)
        if len(choice.sites) > 1:
            reason = f"it is shared with {choice.sites[1].weight_name}"
        if reason is not None:
            reasons[weight] = reason
            continue
        parent, _, leaf = site.module_name.rpartition(".")
        owned = leaf == "out_proj" and parent in attention
        layer, tensor = (parent, "out_proj.weight") if owned else (site.module_name, site.tensor)
        layers.setdefault(layer, {})[tensor] = weight
    return layers, reasons
