"""FCPTS's learnable magnitude threshold of one weight, and the bridge from thresholds to a global rate.

A layer has one scalar s; its threshold is t = scale * sigmoid(s), and weights with |w| < t are zero. `scale`
is 1, as in the paper, or the largest magnitude if that is more, so that every threshold can be reached.

The rate r(t) is counted exactly; its gradient is the bridge, dr/dt = p(t) + p(-t), with p the density of
the signed weights: a histogram, or a Gaussian kernel estimate. No gradient goes to the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from nm2trt.errors import SparsifyError
from nm2trt.nm.pattern import NMPattern
from nm2trt.sparsity.core.parametrization import SparseWeight

# A threshold above this share of a layer's magnitudes has nothing left to push it back.
_GUARD_QUANTILE = 0.995
_KERNEL_SAMPLES = 100_000
_LOWEST_RAW = -30.0


@dataclass(frozen=True, slots=True)
class Bridge:
    """How the density at a threshold is estimated.

    Args:
        kind: "histogram", or "gaussian" for a kernel estimate on at most 100,000 weights.
        bins: Of the histogram, equal ones.
        clip: Quantile of the magnitudes up to which the histogram reaches; 1 takes all, smaller values keep
            outliers from stretching the bins.

    Raises:
        SparsifyError: A value is out of range.
    """

    kind: Literal["histogram", "gaussian"] = "histogram"
    bins: int = 100
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("histogram", "gaussian"):
            raise SparsifyError(f"a bridge is of kind histogram or gaussian, not {self.kind!r}")
        if self.bins < 1 or not 0 < self.clip <= 1:
            raise SparsifyError(
                f"a bridge has 1 bin or more and a clip above 0, at most 1, not {self.bins} and {self.clip}"
            )

    def density(self, weight: Tensor, threshold: Tensor) -> Tensor:
        """Return p(t) + p(-t), 0-dim, not negative; 0 beyond the largest magnitude."""
        if self.kind == "gaussian":
            return kernel_density(weight, threshold)
        return histogram_density(weight, threshold, bins=self.bins, clip=self.clip)


def histogram_density(weight: Tensor, threshold: Tensor, *, bins: int = 100, clip: float = 1.0) -> Tensor:
    """Look p(t) + p(-t) up in a histogram of the signed weights of unit area.

    Args:
        weight: Any shape.
        threshold: 0-dim, not negative.
        bins: Equal bins between the smallest and the largest weight.
        clip: Quantile of the magnitudes that bounds the range; see `Bridge`.
    """
    values = weight.detach().reshape(-1).float()
    low, high = values.min(), values.max()
    if clip < 1:
        limit = values.abs().kthvalue(max(1, math.ceil(clip * values.numel()))).values
        low, high = torch.maximum(low, -limit), torch.minimum(high, limit)
    width = (high - low) / bins
    if not bool(width > 0):
        return torch.zeros((), dtype=threshold.dtype, device=weight.device)
    counts = torch.histc(values, bins=bins, min=float(low), max=float(high))
    density = counts / (values.numel() * width)
    both = torch.stack([threshold, -threshold]).to(values.dtype)
    index = ((both - low) / width).floor().long().clamp(0, bins - 1)
    found = torch.where((both >= low) & (both <= high), density[index], 0.0)
    return found.sum().to(threshold.dtype)


def kernel_density(weight: Tensor, threshold: Tensor) -> Tensor:
    """Estimate p(t) + p(-t) with a Gaussian kernel of bandwidth 1.06 * std * n ** -0.2."""
    values = weight.detach().reshape(-1)
    stride = -(-values.numel() // _KERNEL_SAMPLES)
    values = values[::stride].double()
    if values.numel() < 2:
        return torch.zeros((), dtype=threshold.dtype, device=weight.device)
    bandwidth = 1.06 * values.std() * values.numel() ** -0.2
    if not bool(bandwidth > 0) or bool(threshold > values.abs().max()):
        return torch.zeros((), dtype=threshold.dtype, device=weight.device)
    at = threshold.double()
    normal = 1 / (bandwidth * math.sqrt(2 * math.pi))
    near = torch.exp(-0.5 * ((at - values) / bandwidth) ** 2)
    far = torch.exp(-0.5 * ((at + values) / bandwidth) ** 2)
    found: Tensor = normal * (near + far).mean()
    return found.to(threshold.dtype)


class _Masked(torch.autograd.Function):
    """Hard mask |w| >= t; backward is that of (sign(|w| - t) + 1) / 2 with a straight-through sign."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, threshold: Tensor, _live: bool) -> Tensor:
        return weight * (weight.abs() >= threshold)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Any) -> None:
        weight, threshold, ctx.live = inputs
        ctx.save_for_backward(weight, threshold)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        weight, threshold = ctx.saved_tensors
        magnitude = weight.abs()
        kept = magnitude >= threshold
        if not ctx.live:
            return grad * kept, None, None
        window = (magnitude - threshold).abs() < 1  # where the straight-through sign has a slope
        of_mask = grad * weight * window
        of_weight = grad * kept + 0.5 * of_mask * weight.sign()
        return of_weight, -0.5 * of_mask.sum(dtype=threshold.dtype), None


class _Rate(torch.autograd.Function):
    @staticmethod
    def forward(weight: Tensor, threshold: Tensor, _bridge: Bridge) -> Tensor:
        return torch.count_nonzero(weight.abs() < threshold).to(threshold.dtype) / weight.numel()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Any) -> None:
        weight, threshold, ctx.bridge = inputs
        ctx.save_for_backward(weight, threshold)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        weight, threshold = ctx.saved_tensors
        return None, grad * ctx.bridge.density(weight, threshold), None


class ThresholdWeight(SparseWeight):
    """A weight under a learnable threshold; after `freeze`, under a mask that stays.

    Attributes:
        raw: s, float64 0-dim, a parameter until `freeze`.
        scale: What sigmoid(s) is multiplied by.
        live: Whether the task's gradient reaches the threshold ("ste") or only the rate's does ("release").
    """

    nm2trt_method: ClassVar[str] = "fcpts"
    saves_mask: ClassVar[bool] = True
    raw: nn.Parameter | None

    def __init__(
        self, weight: Tensor, pattern: NMPattern, *, axis: int, options: Any, total_steps: int | None = None
    ) -> None:
        super().__init__(weight, pattern, axis=axis, options=options, total_steps=total_steps)
        self.live = True
        self.scale = max(1.0, float(weight.detach().abs().max())) if weight.numel() else 1.0
        self.raw = nn.Parameter(torch.full((), _LOWEST_RAW, dtype=torch.float64, device=weight.device))

    @property
    def threshold(self) -> Tensor:
        """t, float64 0-dim."""
        if self.raw is None:
            raise RuntimeError("the thresholds are gone once the masks are frozen")
        return torch.sigmoid(self.raw) * self.scale

    def first_mask(self, weight: Tensor) -> Tensor:
        """Return the mask of a threshold of zero: everything is kept."""
        return torch.ones_like(weight, dtype=torch.bool)

    def new_mask(self, weight: Tensor) -> Tensor | None:  # noqa: ARG002 - no later step changes it
        """Return None: the mask stays."""
        return None

    @property
    def mask_follows_weight(self) -> bool:
        """False: the mask has a history."""
        return False

    def masked(self, weight: Tensor) -> Tensor:
        """Zero what lies below the threshold, or what the frozen mask leaves out."""
        if self.raw is None:
            return weight * self.mask
        masked: Tensor = _Masked.apply(weight, self.threshold, self.live)  # type: ignore[no-untyped-call]
        return masked

    def rate(self, weight: Tensor, bridge: Bridge) -> Tensor:
        """Return the share of weights below the threshold, float64 0-dim, with the bridge's gradient."""
        rate: Tensor = _Rate.apply(weight, self.threshold, bridge)  # type: ignore[no-untyped-call]
        return rate

    @torch.no_grad()
    def prune_smallest(self, weight: Tensor, count: int) -> None:
        """Set the threshold so that about `count` weights, the smallest, lie below it."""
        ordered = weight.detach().abs().reshape(-1).double().sort().values
        value = ordered[min(count, ordered.numel() - 1)] / self.scale
        if self.raw is not None:
            self.raw.copy_(torch.logit(value.clamp(0, 1 - 1e-12)).clamp(min=_LOWEST_RAW))

    @torch.no_grad()
    def guard(self, weight: Tensor) -> bool:
        """Hold the threshold below the 0.995 quantile of the magnitudes; tell whether it had to be held."""
        if self.raw is None:
            return False
        position = max(1, math.ceil(_GUARD_QUANTILE * weight.numel()))
        limit = weight.detach().abs().reshape(-1).kthvalue(position).values.double() / self.scale
        highest = torch.logit(limit.clamp(0, 1 - 1e-12)).clamp(min=_LOWEST_RAW)
        held = bool(self.raw > highest)
        if held:
            self.raw.copy_(highest)
        return held

    @torch.no_grad()
    def freeze(self, mask: Tensor) -> None:
        """Take a mask for good and drop the threshold."""
        self.mask.copy_(mask)
        self.raw = None


def rate_loss(rates: Sequence[Tensor], sizes: Sequence[int], target: float) -> Tensor:
    """Return L_c: how far the global rate is from its target, |S - target|; at the target its gradient is 0.

    Args:
        rates: Share of zeros of each layer, 0-dim.
        sizes: Weights of each layer; large layers count for more.
        target: Global share of zeros.
    """
    total = sum(sizes)
    weighted = [rate * (size / total) for rate, size in zip(rates, sizes, strict=True)]
    return (torch.stack(weighted).sum() - target).abs()


@torch.no_grad()
def exact_masks(
    weights: Sequence[Tensor], sparse: Sequence[ThresholdWeight], zeros: int
) -> tuple[Tensor, ...]:
    """Return masks with exactly `zeros` False in all, by one common shift of every s.

    A weight falls when the shift passes logit(|w| / scale) - s; the `zeros` first to fall are pruned, equal
    ones in the order of the layers and of memory. The largest weight of a layer never falls.
    """
    falls = []
    for weight, layer in zip(weights, sparse, strict=True):
        share = (weight.detach().abs().double() / layer.scale).clamp(0, 1).reshape(-1)
        raw = torch.zeros((), dtype=torch.float64) if layer.raw is None else layer.raw.detach()
        fall = torch.logit(share) - raw.to(share.device)
        fall[share.argmax()] = math.inf
        falls.append(fall)
    flat = torch.cat(falls)
    zeros = min(zeros, flat.numel() - len(falls))
    kept = torch.ones_like(flat, dtype=torch.bool)
    if zeros > 0:
        limit = _kth(flat, zeros) if flat.device.type == "cpu" else flat.kthvalue(zeros).values
        kept = flat > limit
        tied = (flat == limit).nonzero().reshape(-1)
        short = int(torch.count_nonzero(kept)) + tied.numel() - (flat.numel() - zeros)
        kept[tied[short:]] = True
    pieces = torch.split(kept, [w.numel() for w in weights])
    return tuple(piece.view(weight.shape) for piece, weight in zip(pieces, weights, strict=True))


def _kth(values: Tensor, count: int) -> Tensor:
    import numpy as np

    return torch.as_tensor(np.partition(values.numpy(), count - 1)[count - 1])
