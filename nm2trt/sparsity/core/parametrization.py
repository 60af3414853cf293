"""Parametrisation that every method has in common; it holds one weight's mask.

A layer's `weight` becomes `original * mask`, where `original` is the dense parameter that the
optimizer sees and `mask` is a bool buffer. The mask is never computed in forward: exporters cannot
express it, and it would be paid for once per forward instead of once per step.

A subclass says what the backward is, how the mask follows the weight or a schedule, and what is added
before an optimizer step. All state that a resumed run needs is in the model's own `state_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nm2trt.errors import SparsifyError
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.torch_mask import magnitude_mask, update_magnitude_mask
from nm2trt.sparsity.core.distributed import full, is_sharded, shard_like
from nm2trt.sparsity.core.lost_changes import ChangeWatch
from nm2trt.sparsity.core.mask_divergence import sad_count
from nm2trt.sparsity.core.training_step import UpdateContext, keep_straight_through

_PLAIN = (Tensor, nn.Parameter)


class SparseWeight(nn.Module):
    """The parametrisation of one weight; the base of every method.

    Args:
        weight: The dense weight; only its values, shape and device are read.
        pattern: The pattern to end with.
        axis: Reduction axis of `weight`.
        options: The method's own options.
        total_steps: Optimizer steps of the whole run, for methods with a schedule.

    Attributes:
        mask: Bool, of the weight's shape; True where kept.
        updates: Optimizer steps taken.
        flips: Entries of the mask that the last step changed, 0-dim; None before the first.
        loads: Whether the state being loaded has the layer's weight.
        loads_dense: Whether the state being loaded has the layer's weight but none of the method's keys.
        unset: Whether the weight was attached on the meta device and has had no values since.
        weight_name: The plan's name of the weight, for messages.
    """

    nm2trt_method: ClassVar[str] = ""
    # Whether a state_dict holds the mask, which is then neither in the weight nor in other state.
    saves_mask: ClassVar[bool] = False

    mask: Tensor

    def __init__(
        self, weight: Tensor, pattern: NMPattern, *, axis: int, options: Any, total_steps: int | None = None
    ) -> None:
        super().__init__()
        self.pattern = pattern
        self.axis = axis
        self.options = options
        self.total_steps = total_steps
        self.updates = 0
        self.flips: Tensor | None = None
        self.loads = self.loads_dense = False
        self.unset = weight.device.type == "meta"
        self.weight_name = "a weight"
        self._watch = ChangeWatch()
        self.register_buffer("mask", self.first_mask(weight), persistent=self.saves_mask)

    @classmethod
    def has_schedule(cls, _options: Any) -> bool:
        """Tell whether the method needs to know `total_steps`."""
        return False

    @property
    def mask_follows_weight(self) -> bool:
        """Whether the mask is now a function of weight and schedule; a state_dict need not hold it then."""
        return True

    def forward(self, weight: Tensor) -> Tensor:
        """Return the sparse weight that the layer computes with, of `weight`'s shape and dtype.

        Raises:
            SparsifyError: The last tensor returned was changed in place since, or the weight was attached on
                the meta device and has had no values yet.
        """
        if type(weight) not in _PLAIN and is_sharded(
            weight
        ):  # read from outside, as torch.distributed.checkpoint does: FSDP2 runs it whole
            return weight * shard_like(self.mask, weight)
        if weight.device.type != "meta":
            self.check_set()
        if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
            return self.masked(weight)
        self.check_unchanged()
        if self.mask_follows_weight or self.has_schedule(self.options):
            self._watch.check_copy(weight)
        result = self.masked(weight)
        self._watch.look_after(result)
        return result

    def check_set(self) -> None:
        """Raise SparsifyError if the mask is not set: the weight has had no values since it was attached."""
        if self.unset:
            raise SparsifyError(
                f"{self.weight_name} was attached on the meta device and its mask is not set; load a "
                "state_dict, or call refresh() once its values are there"
            )

    def check_unchanged(self) -> None:
        """Raise SparsifyError if the tensor that the layer gave was changed in place: the change is lost."""
        self._watch.check(self.weight_name)

    def masked(self, weight: Tensor) -> Tensor:
        """Zero what the mask leaves out, with the method's own backward."""
        return keep_straight_through(weight, self.mask)

    def first_mask(self, weight: Tensor) -> Tensor:
        """Return the mask to start with."""
        return magnitude_mask(weight, self.pattern, axis=self.axis)

    def new_mask(self, weight: Tensor) -> Tensor | None:
        """Return the mask after a step, or None when it stays; `weight` is whole."""
        return magnitude_mask(weight, self.pattern, axis=self.axis)

    def followed_pattern(self) -> NMPattern | None:
        """Return the pattern if `new_mask` is the magnitude mask of it; None for all other rules.

        A mask of magnitudes is then set in place and its changes are counted, in one kernel on a GPU.
        """
        return None

    def stale_entries(self, weight: Tensor) -> int:
        """Count mask entries that are not those of a whole weight; 0 for masks that do not follow it."""
        mask = self.new_mask(weight) if self.mask_follows_weight else None
        return 0 if mask is None else int(sad_count(self.mask, mask))

    def check_optimizer(self, name: str, group: Mapping[str, Any] | None) -> None:
        """Look at the parameter group that will train the weight; None if this optimizer does not.

        Raises:
            SparsifyError: The method cannot work with it.
        """

    def before_update(self, weight: nn.Parameter, context: UpdateContext) -> None:
        """Run before each optimizer step, when `weight.grad` is complete."""

    @torch.no_grad()
    def after_update(self, weight: Tensor) -> None:
        """Run after each optimizer step: advance the schedule, then set the mask."""
        self.updates += 1
        self.refresh(weight)

    @torch.no_grad()
    def refresh(self, weight: Tensor) -> None:
        """Set the mask from the weight and the schedule as they stand; not from one on the meta device."""
        if weight.is_meta:
            return
        self._watch.mask_set(weight)
        if self.unset:
            self.start_again(weight)
            self.unset = False
        pattern = self.followed_pattern()
        if pattern is not None:
            self.flips = update_magnitude_mask(self.mask, full(weight), pattern, axis=self.axis)
            return
        mask = self.new_mask(full(weight))
        if mask is None:
            self.flips = torch.zeros((), dtype=torch.int64, device=self.mask.device)
            return
        self.flips = sad_count(self.mask, mask)
        self.mask.copy_(mask)

    @torch.no_grad()
    def follow(self, other: SparseWeight, weight: Tensor) -> None:
        """Take over schedule and mask from the one that this is a copy of; `weight` is the copy's."""
        self._watch.mask_set(weight)
        self.updates = other.updates
        if not self.mask_follows_weight:
            self.mask.copy_(other.mask)

    @torch.no_grad()
    def after_load(self, weight: Tensor) -> None:
        """Run after a state was loaded into the layer."""
        if weight.device.type == "meta" or (self.unset and not self.loads):
            return
        self._watch.mask_set(weight)
        if self.loads_dense and (not self.mask_follows_weight or self.has_schedule(self.options)):
            self.start_again(weight)
        elif self.mask_follows_weight:
            mask = self.new_mask(full(weight))
            if mask is not None:
                self.mask.copy_(mask)
        self.unset = False

    def unfinished(self) -> str | None:
        """Say what keeps the mask from holding the pattern yet, or None."""
        return None

    def telemetry(self) -> dict[str, float]:
        """Return the method's own numbers, for `SparseSession.report`."""
        return {}

    def get_extra_state(self) -> Tensor:
        """Return N, M, the steps taken, how many of M are kept, and what `progress` adds: float64 (4 + k,).

        It stands under torch's own key, which torch.distributed.checkpoint knows, and which a plain model
        refuses, and with it the dense master weights.
        """
        n, m = self.pattern.n, self.pattern.m
        return torch.tensor([n, m, self.updates, self.kept_now(), *self.progress()], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take back the steps, if the method depends on them, and what `progress` returned."""
        _, _, updates, _, *progress = state.tolist()
        if not self.mask_follows_weight or self.has_schedule(self.options):
            self.updates = int(updates)
        self.restore_progress(progress)

    def kept_now(self) -> int:
        """Return how many of each M a mask of magnitudes keeps now: N, or more on a schedule."""
        return self.pattern.n

    def progress(self) -> tuple[float, ...]:
        """Return numbers that the rest of the run depends on, besides the steps taken."""
        return ()

    def restore_progress(self, progress: Sequence[float]) -> None:
        """Take back what `progress` returned."""

    def known_keys(self) -> set[str]:
        """Return every key that a state of this method may have."""
        own = (name for name, parameter in self._parameters.items() if parameter is not None)
        return {"_extra_state", *own, *self._persistent_buffers()}

    def needed_keys(self, saved: Mapping[str, Tensor]) -> set[str]:  # noqa: ARG002 - for methods with two forms
        """Return the keys without which a state of this method is not whole."""
        return self.known_keys()

    def implied(self, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002 - as above
        """Return parameters and buffers that other keys of a saved state imply."""
        return {}

    def start_again(self, weight: Tensor) -> None:
        """Return to the first step: a dense checkpoint was loaded, which knows nothing of this method."""
        self.updates = 0
        self.mask.copy_(self.first_mask(full(weight)))

    def extra_repr(self) -> str:
        """Return what `print(model)` shows of this weight."""
        return f"method={self.nm2trt_method!r}, pattern={self.pattern}, axis={self.axis}"

    def counters(self) -> dict[str, float]:
        """Return what telemetry counts over the run; `SparseSession.state_dict` keeps it."""
        return {}

    def restore_counters(self, counters: Mapping[str, float]) -> None:
        """Take back what `counters` returned."""

    def _persistent_buffers(self) -> set[str]:
        return set(self._buffers) - self._non_persistent_buffers_set

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        own = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        if not own:  # a dense checkpoint, or one without this layer
            return
        self._check_state(own, prefix)
        for key in set(own) - SparseWeight.known_keys(self):
            del state_dict[prefix + key]
        state_dict.update({prefix + key: value for key, value in self.implied(own).items()})
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _check_state(self, own: Mapping[str, Tensor], prefix: str) -> None:
        name = prefix.replace("parametrizations.", "").removesuffix(".0.")
        foreign, lacking = set(own) - self.known_keys(), self.needed_keys(own) - set(own)
        if foreign or lacking:
            what, keeps = (own, "does not keep") if foreign else (lacking, "keeps")
            raise SparsifyError(
                f"the state of {name} {'holds' if foreign else 'lacks'} {', '.join(sorted(what))}, which "
                f"{self.nm2trt_method!r} {keeps}: "
                "it was saved by another method; sparsify with that one, or load only its dense keys"
            )
        n, m = (int(value) for value in own["_extra_state"][:2])
        if (n, m) != (self.pattern.n, self.pattern.m):
            raise SparsifyError(
                f"the state of {name} was saved with the pattern {n}:{m}, the model is attached with "
                f"{self.pattern}; sparsify with pattern={f'{n}:{m}'!r}"
            )
