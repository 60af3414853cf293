"""LBC: learn which combination of N weights each group of M keeps (Zhang et al., NeurIPS 2022, 2206.06662).

Each group has C = C(M, N) candidate combinations with one learnable score each, trained by the task loss.
The mask is the union of the candidates that are left; the lowest scores are removed on a schedule,

    r(t) = 1 + ceil((C - 1) (1 - t / t_end)^p),

until one candidate per group is left. With g the gradient of the masked weight, the score of candidate c
gets the sum of g_j W_j over its members, and the weight gets g where the mask is true.

Removal is permanent here: a candidate is dead by a flag, not by a score of zero that momentum revives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nm2trt.errors import SparsifyError
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.torch_mask import nm_mask
from nm2trt.sparsity.core.distributed import among_processes, full, keys_must_stay
from nm2trt.sparsity.core.parametrization import SparseWeight
from nm2trt.sparsity.methods.lbc_candidates import (
    candidates,
    pack_winners,
    survivors,
    to_groups,
    union_of_winners,
    unpack_winners,
)
from nm2trt.sparsity.methods.mask_schedule import check_share, share_in_steps


@dataclass(frozen=True, slots=True)
class LbcOptions:
    """Options of LBC.

    Args:
        end: Share of `total_steps` after which one candidate per group is left.
        exponent: p of the schedule; 3 for convolutional networks, 4 for vision transformers.
        max_candidates: Refuse patterns with more candidates: every group has a score for each.

    Raises:
        SparsifyError: `end` is not in (0, 1], or `exponent` is not positive.
    """

    end: float = 0.5
    exponent: float = 3.0
    max_candidates: int = 256

    def __post_init__(self) -> None:
        check_share("end", self.end)
        if not self.exponent > 0:
            raise SparsifyError(f"exponent must be positive, not {self.exponent}; the default is 3")


def _is_transformed() -> bool:
    """Tell whether torch.compile or a transform of torch.func, such as vmap, follows the operations."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None


class _Combine(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        weight: Tensor, _scores: Tensor, mask: Tensor, _alive: Tensor, _table: Tensor, _axis: int
    ) -> Tensor:
        return weight * mask

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Any) -> None:
        weight, scores, mask, alive, table, axis = inputs
        ctx.save_for_backward(weight, mask, alive, table)
        ctx.axis, ctx.dtype = axis, scores.dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        weight, mask, alive, table = ctx.saved_tensors
        of_weight = grad * mask if ctx.needs_input_grad[0] else None
        of_scores = None
        if ctx.needs_input_grad[1]:
            with torch.autocast(grad.device.type, enabled=False):
                member = to_groups(grad * weight, table.shape[1], ctx.axis).to(ctx.dtype)
                of_scores = member @ table.T.to(ctx.dtype).contiguous()
                # A second tensor of this size costs more than the product; torch.vmap cannot do without it.
                of_scores = of_scores * alive if _is_transformed() else of_scores.mul_(alive)
        return of_weight, of_scores, None, None, None, None


class _Chosen(torch.autograd.Function):
    """The mask after the schedule, with zero gradients for scores that a reducer still waits for."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, _scores: Tensor, mask: Tensor) -> Tensor:
        return weight * mask

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Any) -> None:
        _, scores, mask = inputs
        ctx.save_for_backward(scores, mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        scores, mask = ctx.saved_tensors
        return grad * mask, torch.zeros_like(scores), None


class LbcWeight(SparseWeight):
    """One weight's candidates, their scores and which of them are left.

    Attributes:
        scores: float32 (G, C), a parameter; groups in the order of the weight with its reduction axis last.
        alive: Bool (G, C).
        table: The candidates, (C, M).
        learning: Whether more than one candidate per group is left; forward reads this and no step number,
            which a compiled model would be compiled anew for.
    """

    nm2trt_method: ClassVar[str] = "lbc"
    saves_mask: ClassVar[bool] = False
    options: LbcOptions
    alive: Tensor
    table: Tensor

    def __init__(
        self, weight: Tensor, pattern: NMPattern, *, axis: int, options: Any, total_steps: int | None = None
    ) -> None:
        super().__init__(weight, pattern, axis=axis, options=options, total_steps=total_steps)
        share_in_steps("end", options.end, total_steps)
        count = math.comb(pattern.m, pattern.n)
        if count > options.max_candidates:
            raise SparsifyError(
                f"{pattern} has {count} combinations per group, more than "
                f"max_candidates={options.max_candidates}: scores outgrow the weights; use sr-ste for it"
            )
        groups = weight.numel() // pattern.m
        self.scores = nn.Parameter(torch.empty(groups, count, dtype=torch.float32, device=weight.device))
        self.register_buffer("alive", torch.ones(groups, count, dtype=torch.bool, device=weight.device))
        self.register_buffer("table", candidates(pattern).to(weight.device), persistent=False)
        self._at_rest = False  # whether the schedule's end, and not the user, stopped the scores' training
        self.start_again(weight)

    @classmethod
    def has_schedule(cls, _options: Any) -> bool:
        """Candidates are removed on a schedule."""
        return True

    @property
    def end_step(self) -> int:
        """The step after which one candidate per group is left."""
        return share_in_steps("end", self.options.end, self.total_steps)

    def left(self) -> int:
        """Return r(t) at the steps taken."""
        return survivors(
            self.updates, end_step=self.end_step, count=self.table.shape[0], exponent=self.options.exponent
        )

    @property
    def mask_follows_weight(self) -> bool:
        """False: the mask has a history."""
        return False

    def masked(self, weight: Tensor) -> Tensor:
        """Zero what no surviving candidate contains."""
        combined: Tensor
        if self.learning:
            args = (weight, self.scores, self.mask, self.alive, self.table, self.axis)
            combined = _Combine.apply(*args)  # type: ignore[no-untyped-call]
        elif self.scores.requires_grad:
            combined = _Chosen.apply(weight, self.scores, self.mask)  # type: ignore[no-untyped-call]
        else:
            combined = weight * self.mask
        return combined

    def first_mask(self, weight: Tensor) -> Tensor:
        """Return the union of all candidates: every entry."""
        return torch.ones_like(weight, dtype=torch.bool)

    def new_mask(self, weight: Tensor) -> Tensor | None:
        """Remove the lowest scores if the schedule asks for fewer survivors."""
        left = self.left()
        if left >= self._survivors:
            return None
        scores = full(self.scores).detach()
        if not bool(torch.isfinite(scores).all()):
            raise SparsifyError(
                f"a score of {self.weight_name} is NaN or infinite; load an earlier checkpoint, and lower "
                "the learning rate or clip the gradients"
            )
        if bool((scores == scores[0, 0]).all()):  # never trained, as in a frozen layer: rank by magnitude
            scores = to_groups(weight.abs(), self.pattern.m, self.axis).to(scores.dtype) @ self.table.T
        ranked = torch.where(self.alive, scores, -math.inf)
        self.alive &= nm_mask(ranked, NMPattern(left, self.table.shape[0]), axis=1)
        self._settle(left)
        return self._union(weight)

    def follow(self, other: SparseWeight, weight: Tensor) -> None:
        """Take over schedule, survivors and mask from the one that this is a copy of."""
        super().follow(other, weight)
        if isinstance(other, LbcWeight):
            self.alive.copy_(other.alive)
            self._settle(other._survivors)

    @torch.no_grad()
    def after_load(self, weight: Tensor) -> None:
        """Set the mask from the survivors that were loaded."""
        if self.unset and weight.device.type != "meta":
            self.table.copy_(candidates(self.pattern))
        super().after_load(weight)
        if not self.loads_dense and weight.device.type != "meta":
            self._settle(int(self.alive[0].sum()))
            self.mask.copy_(self._union(full(weight)))

    @torch.no_grad()
    def start_again(self, weight: Tensor) -> None:
        """Make all candidates alive with equal scores, whose sum for each weight is 1."""
        super().start_again(weight)
        self.table.copy_(candidates(self.pattern))
        self.scores.fill_(1 / math.comb(self.pattern.m - 1, self.pattern.n - 1))
        self.alive.fill_(True)
        self._settle(self.table.shape[0])

    def unfinished(self) -> str | None:
        """Say which step leaves one candidate, when that lies ahead."""
        if self._survivors == 1:
            return None
        return (
            f"{self._survivors} candidates per group are left at step {self.updates}, one after "
            f"{self.end_step}"
        )

    def telemetry(self) -> dict[str, float]:
        """Return how many candidates per group are left."""
        return {"survivors": self._survivors}

    def known_keys(self) -> set[str]:
        """Return every key that a state may have."""
        return {*super().known_keys(), "winner"}

    def needed_keys(self, saved: Mapping[str, Tensor]) -> set[str]:
        """Return scores and survivors, or the winner in their place."""
        return {"winner", "_extra_state"} if "winner" in saved else super().known_keys()

    def implied(self, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Unpack the winners."""
        if "winner" not in saved:
            return {}
        groups, count = self.alive.shape
        alive = unpack_winners(saved["winner"].to(self.alive.device), groups=groups, count=count)
        return {"alive": alive, "scores": self.scores.detach()}

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> LbcWeight:
        """Move with the model, but keep float32: half precision would lose most steps of the scores."""
        scores, gradient = self.scores.data, None if self.scores.grad is None else self.scores.grad.data
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.scores.dtype != torch.float32:
            self.table, device = self.table.float(), self.scores.device
            self.scores.data = scores.to(device)
            self.scores.grad = None if gradient is None else gradient.to(device)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._survivors == 1 and not keys_must_stay():
            del destination[f"{prefix}scores"], destination[f"{prefix}alive"]
            destination[f"{prefix}winner"] = pack_winners(self.alive)

    def _settle(self, left: int) -> None:
        """Note how many survive; at the last one the scores are no longer trained."""
        self._survivors = left
        self.learning = left > 1
        # DDP and FSDP wait for the gradient of every parameter that they were built with.
        if left == 1 and self.scores.requires_grad and not among_processes():
            self._at_rest = True
            self.scores.requires_grad_(False)
            self.scores.grad = None
        elif left > 1 and self._at_rest:  # not scores that the user froze
            self._at_rest = False
            self.scores.requires_grad_(True)

    def _union(self, weight: Tensor) -> Tensor:
        return union_of_winners(self.alive, weight, self.table, axis=self.axis)
