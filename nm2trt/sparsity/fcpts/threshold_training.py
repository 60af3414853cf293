"""Training learnable thresholds under a global rate, for FCPTS's two forms that need it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nm2trt.progress import bar
from nm2trt.sparsity.fcpts.distill import Distiller
from nm2trt.sparsity.fcpts.options import FcptsOptions
from nm2trt.sparsity.fcpts.thresholds import Bridge, ThresholdWeight, rate_loss

_NEWTON_STEPS = 5


@torch.no_grad()
def _bring_back(
    originals: Sequence[Tensor], sparse: Sequence[ThresholdWeight], rate: float, bridge: Bridge, band: float
) -> None:
    """Shift every s by one number, found by Newton's method, if the rate is outside its band."""
    total = sum(original.numel() for original in originals)
    for _ in range(_NEWTON_STEPS):
        found = slope = 0.0
        for layer, original in zip(sparse, originals, strict=True):
            if layer.raw is None:
                continue
            share, threshold = original.numel() / total, layer.threshold
            found += share * float(layer.rate(original, bridge))
            sigmoid = float(threshold) / layer.scale
            slope += (
                share * float(bridge.density(original, threshold)) * layer.scale * sigmoid * (1 - sigmoid)
            )
        if abs(found - rate) <= band or slope <= 0:
            return
        shift = min(max((rate - found) / slope, -1.0), 1.0)
        for layer in sparse:
            if layer.raw is not None:
                layer.raw.add_(shift)


def train_thresholds(
    options: FcptsOptions,
    distiller: Distiller,
    phase: str,
    names: Sequence[str],
    originals: Sequence[Tensor],
    sparse: Sequence[ThresholdWeight],
    rate: float,
) -> list[str]:
    """Train thresholds and weights under a global rate; return the layers whose threshold had to be held."""
    sizes = [original.numel() for original in originals]
    bridge = options.bridge
    held: set[str] = set()

    def penalty() -> Tensor:
        rates = [layer.rate(original, bridge) for layer, original in zip(sparse, originals, strict=True)]
        return options.rate_weight * rate_loss(rates, sizes, rate).float()

    def guard(_step: int) -> None:
        _bring_back(originals, sparse, rate, bridge, options.rate_band)
        for name, layer, original in zip(names, sparse, originals, strict=True):
            if layer.guard(original):
                held.add(name)

    raws = {name: layer.raw for name, layer in zip(names, sparse, strict=True) if layer.raw is not None}
    with bar("learning rates", distiller.settings.steps) as shown:
        distiller.run(phase, shown, thresholds=raws, penalty=penalty, after_step=guard)
    return sorted(held)
