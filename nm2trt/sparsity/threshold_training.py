"""Training learnable thresholds under a global rate, for FCPTS's two forms that need it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nm2trt.progress import bar
from nm2trt.sparsity.distill import Distiller
from nm2trt.sparsity.fcpts_options import FcptsOptions
from nm2trt.sparsity.thresholds import ThresholdWeight, rate_loss

__all__ = ["train_thresholds"]


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
    bridge = options.density()
    held: set[str] = set()

    def penalty() -> Tensor:
        rates = [layer.rate(original, bridge) for layer, original in zip(sparse, originals, strict=True)]
        loss = rate_loss(rates, sizes, rate, squared=options.rate_loss == "square")
        return options.rate_weight * loss.float()

    def guard(_step: int) -> None:
        for name, layer, original in zip(names, sparse, originals, strict=True):
            if layer.guard(original):
                held.add(name)

    raws = {name: layer.raw for name, layer in zip(names, sparse, strict=True) if layer.raw is not None}
    with bar("learning rates", distiller.settings.steps) as shown:
        distiller.run(phase, shown, thresholds=raws, penalty=penalty, after_step=guard)
    return sorted(held)
