"""The two branches of SpRe as one module in the convolution's place, and their merge."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nm2trt.errors import SparsifyError, SparsityError
from nm2trt.nm.mask import check
from nm2trt.nm.pattern import NMPattern
from nm2trt.sparsity.core.conv_norm_pairs import Convolution
from nm2trt.sparsity.core.parametrization import SparseWeight
from nm2trt.sparsity.spre.options import SpReOptions
from nm2trt.sparsity.spre.spatial_mask import pruned_counts, spatial_mask


class TwoBranches(nn.Module):
    """What `finalize(fuse=False)` leaves: `main_norm(main(x)) + branch_norm(branch(x))`, plain layers.

    Args:
        main: The convolution.
        main_norm: Its BatchNorm.
        branch: The second convolution, without bias.
        branch_norm: Its BatchNorm; None if both share `main_norm`.
    """

    def __init__(
        self, main: Convolution, main_norm: _BatchNorm, branch: Convolution, branch_norm: _BatchNorm | None
    ) -> None:
        super().__init__()
        self.main = main
        self.main_norm = main_norm
        self.branch = branch
        self.branch_norm = branch_norm

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both branches; `x` as the convolution takes it."""
        return self.joined(self.main(x), self.branch(x))

    def joined(self, main: Tensor, branch: Tensor) -> Tensor:
        """Normalise both convolutions' outputs and add them."""
        normed: Tensor = self.main_norm(main + branch if self.branch_norm is None else main)
        return normed if self.branch_norm is None else normed + self.branch_norm(branch)

    @torch.no_grad()
    def merged(self, pattern: NMPattern, name: str) -> Convolution:
        """Return one convolution with a bias that computes in eval mode what both branches do.

        Raises:
            SparsityError: The merged weight does not hold the pattern.
        """
        first, first_bias = _scale_and_shift(self.main_norm)
        second, second_bias = first, torch.zeros_like(first_bias)
        if self.branch_norm is not None:
            second, second_bias = _scale_and_shift(self.branch_norm)
        conv = self.main
        over = (-1,) + (1,) * (conv.weight.ndim - 1)
        weight = conv.weight.double() * first.view(over) + self.branch.weight.double() * second.view(over)
        bias = first_bias + second_bias
        if conv.bias is not None:
            bias += conv.bias.double() * first
        conv.weight.copy_(weight)
        conv.bias = nn.Parameter(bias.to(conv.weight.dtype))
        held = check(conv.weight.float().cpu().numpy(), pattern, axis=1)
        if not held.holds:
            raise SparsityError(f"{name}: the merged weight breaks {pattern} first at {held.first_broken}")
        return conv


class SpatialBranches(TwoBranches):
    """The pair during training.

    Args:
        main: The convolution, before it is parametrised.
        norm: The BatchNorm after it.
        norm_name: Its name in the model.
        options: The method's options.

    Attributes:
        spatial: S, bool (1, 1, k...).
        smoothed: Running mean of position sparsity, float (k...); NaN before the first update, None without
            smoothing.
        flips: Positions of S that the last update changed; `flips_total` since the start.
        seen: The main weight's update count at the last look.
        loads_dense: Whether the state being loaded has no branch.
    """

    nm2trt_method = "spre"
    spatial: Tensor
    smoothed: Tensor | None

    def __init__(self, main: Convolution, norm: _BatchNorm, norm_name: str, options: SpReOptions) -> None:
        branch = copy.deepcopy(main)
        branch.bias = None
        second: _BatchNorm | None = None
        if options.branch_norm:
            second = copy.deepcopy(norm)
            second.reset_parameters()
            if second.weight is not None:
                nn.init.constant_(second.weight, options.branch_gamma)
        super().__init__(main, norm, branch, second)
        self.norm_name = norm_name
        self.options = options
        self.flips = self.flips_total = self.seen = 0
        self.loads_dense = False
        kernel = main.weight.shape[2:]
        device = main.weight.device
        self.register_buffer("spatial", torch.ones(1, 1, *kernel, dtype=torch.bool, device=device))
        smoothed = torch.full(kernel, torch.nan, device=device) if options.smoothing else None
        self.register_buffer("smoothed", smoothed)
        self.train(main.training)

    @property
    def base(self) -> SparseWeight:
        """The main branch's parametrisation."""
        sparse: SparseWeight = self.main.parametrizations.weight[0]  # type: ignore[union-attr, index, assignment]
        return sparse

    @property
    def dense_weight(self) -> Tensor:
        """The main branch's dense master weight."""
        original: Tensor = self.main.parametrizations.weight.original  # type: ignore[union-attr, assignment]
        return original

    def branch_weight(self) -> Tensor:
        """Return W2 * E1 * S, whose support lies inside the main branch's."""
        return self.branch.weight * (self.base.mask & self.spatial)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both branches; `x` as the convolution takes it."""
        # Through the layer's own function, which knows its padding mode.
        return self.joined(self.main(x), self.branch._conv_forward(x, self.branch_weight(), None))

    @torch.no_grad()
    def update_spatial(self) -> None:
        """Set S from the main branch's dense weight as it stands."""
        weight, pattern, options = self.dense_weight, self.base.pattern, self.options
        if options.spatial == "ones":
            return
        if self.smoothed is None:
            chosen = spatial_mask(weight, pattern)
        else:
            lines = weight.shape[0] * weight.shape[1]
            now = pruned_counts(weight, pattern).to(self.smoothed.dtype) / lines
            first = self.smoothed.isnan()
            mean = options.smoothing * self.smoothed + (1 - options.smoothing) * now
            self.smoothed.copy_(torch.where(first, now, mean))
            chosen = self.smoothed < pattern.sparsity
        if options.spatial == "inverted":
            chosen = chosen.logical_not()
        elif options.spatial == "random":
            # One order for the whole run: S then flips as often as the method's own.
            generator = torch.Generator().manual_seed(self.options.seed or 0)
            order = torch.randperm(chosen.numel(), generator=generator).to(chosen.device)
            chosen = chosen.view(-1)[order].view(chosen.shape)
        before = self.spatial.clone()
        self.spatial.copy_(chosen.view(self.spatial.shape))
        self.flips = int(torch.count_nonzero(before != self.spatial))
        self.flips_total += self.flips

    def own_state(self) -> dict[str, Tensor]:
        """Return what a dense checkpoint does not know: the branch and the spatial mask."""
        every = (*self.named_parameters(), *self.named_buffers())
        return {key: value for key, value in every if key.partition(".")[0] not in ("main", "main_norm")}

    def refuse_unmergeable(self, name: str) -> None:
        """Raise SparsifyError when a statistic that the merge divides by, or a weight, is not finite."""
        for norm in (self.main_norm, self.branch_norm):
            if norm is not None and not all(bool(t.isfinite().all()) for t in _scale_and_shift(norm)):
                raise SparsifyError(
                    f"{name}: a BatchNorm holds NaN or infinity, so the branches cannot be merged; load an "
                    "earlier checkpoint"
                )
        if not bool(self.branch.weight.isfinite().all()):
            raise SparsifyError(f"{name}: the branch holds NaN or infinity; lower the learning rate")

    def plain(self, branch_weight: Tensor) -> TwoBranches:
        """Return both branches as plain layers with their zeros; the main one must be finalised."""
        with torch.no_grad():
            self.branch.weight.copy_(branch_weight)
        plain = TwoBranches(self.main, self.main_norm, self.branch, self.branch_norm)
        plain.training = self.training
        return plain

    @torch.no_grad()
    def telemetry(self) -> dict[str, float]:
        """Return positions, how many are on, flips, and the largest factor of the branch's BatchNorm."""
        norm = self.branch_norm if self.branch_norm is not None else self.main_norm
        return {
            "positions": self.spatial.numel(),
            "on": int(torch.count_nonzero(self.spatial)),
            "flips": self.flips,
            "flips_total": self.flips_total,
            "largest_scale": float(_scale_and_shift(norm)[0].abs().max()),
        }


@torch.no_grad()
def _scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return t = gamma / sqrt(var + eps) and beta - mean t, float64 (O,)."""
    if norm.running_mean is None or norm.running_var is None:
        raise SparsifyError("a BatchNorm keeps no running statistics, which the merge needs")
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()
