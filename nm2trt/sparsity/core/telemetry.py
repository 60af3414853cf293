"""Telemetry of the masks, as plain dicts for any logger."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nm2trt.nm.plan import Plan
from nm2trt.sparsity.core.mask_divergence import Sad, largest_fraction, sad_count, total
from nm2trt.sparsity.core.parametrization import SparseWeight


@dataclass(frozen=True, slots=True)
class Anchor:
    """The mask that anchored SAD is measured from: the one at the start.

    Args:
        mask: Bool, of the weight's shape.
    """

    mask: Tensor

    @classmethod
    def of(cls, sparse: SparseWeight) -> Anchor:
        """Remember a weight's mask as it is now."""
        return cls(sparse.mask.detach().clone())

    def state(self) -> Tensor:
        """Return what `restored` takes."""
        return self.mask

    @classmethod
    def restored(cls, state: Tensor, sparse: SparseWeight) -> Anchor:
        """Take back a saved anchor, onto the weight's device, unless that holds no values."""
        return cls(state.to(state.device if sparse.mask.is_meta else sparse.mask.device).clone())


@torch.no_grad()
def report(plan: Plan, step: int, weights: Iterable[tuple[str, SparseWeight, Anchor]]) -> dict[str, Any]:
    """Summarise masks by layer and in all.

    Returns:
        `method`, `step`, `sparsity` (share of pruned entries of the sparse layers), `sad_step` (last step
        against the one before), `sad_anchored` (now against the start) and `layers`, by weight. A SAD has
        `count`, `size`, `fraction` and `normalised`, which is comparable between patterns.
    """
    layers: dict[str, dict[str, Any]] = {}
    steps, anchored = [], []
    pruned = size = 0
    for name, sparse, anchor in weights:
        entries = sparse.mask.numel()
        most = largest_fraction(sparse.pattern) * entries
        last = Sad(0 if sparse.flips is None else int(sparse.flips), entries, most)
        start = Sad(int(sad_count(anchor.mask.to(sparse.mask.device), sparse.mask)), entries, most)
        zeros = entries - int(torch.count_nonzero(sparse.mask))
        layers[name] = {
            "pattern": str(sparse.pattern),
            "sparsity": zeros / entries,
            "sad_step": last.to_json(),
            "sad_anchored": start.to_json(),
            **sparse.telemetry(),
        }
        steps.append(last)
        anchored.append(start)
        pruned, size = pruned + zeros, size + entries
    return {
        "method": plan.method,
        "step": step,
        "sparsity": pruned / size if size else 0.0,
        "sad_step": total(steps).to_json(),
        "sad_anchored": total(anchored).to_json(),
        "layers": layers,
    }
