"""The method's work around each optimizer step.

Before the step the decay is added, once and to unscaled gradients; after it the schedule advances and the
masks are set. The optimizer itself calls the hooks, so a training loop has nothing to remember.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from nm2trt.errors import SparsifyError
from nm2trt.sparsity.core.parametrization import UpdateContext
from nm2trt.sparsity.core.tracked_weight import TrackedWeight

__all__ = ["OptimizerHooks"]

Arguments = tuple[Any, ...]
Keywords = dict[str, Any]


class OptimizerHooks:
    """Follows the optimizers of one session's weights.

    Args:
        weights: The session's sparse weights.
    """

    def __init__(self, weights: Sequence[TrackedWeight]) -> None:
        self._weights = tuple(weights)
        self._of: dict[int, tuple[TrackedWeight, ...]] = {}
        self._handles: list[Any] = []
        _watch_all_optimizers()
        _UNATTACHED.add(self)

    @property
    def attached(self) -> bool:
        """Whether there is an optimizer to follow."""
        return bool(self._of)

    def attach(self, optimizers: Sequence[Optimizer]) -> None:
        """Hook the step of each optimizer.

        Raises:
            SparsifyError: Called before, or a trained parameter is in none of the optimizers.
        """
        if self._of:
            raise SparsifyError("attach was called before; give all optimizers in one call, attach(one, two)")
        if not optimizers or not all(isinstance(o, Optimizer) for o in optimizers):
            raise SparsifyError("attach takes torch optimizers, as in attach(torch.optim.SGD(...))")
        held = {id(o): _held(o) for o in optimizers}
        everything = set().union(*held.values())
        for weight in self._weights:
            if any(p.requires_grad and id(p) not in everything for p in weight.parameters()):
                raise SparsifyError(
                    f"the optimizer does not train {weight.name}; make it from model.parameters() after "
                    "sparsify, and after fully_shard where that is used"
                )
        _UNATTACHED.discard(self)
        for optimizer in optimizers:
            self._of[id(optimizer)] = tuple(w for w in self._weights if id(w.original) in held[id(optimizer)])
            self._handles.append(optimizer.register_step_pre_hook(self._before_step))
            self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def remove(self) -> None:
        """Leave the optimizers as they were."""
        _UNATTACHED.discard(self)
        for handle in self._handles:
            handle.remove()

    def _before_step(
        self, optimizer: Optimizer, args: Arguments, kwargs: Keywords
    ) -> tuple[Arguments, Keywords] | None:
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._before_update(optimizer)
            return None
        # The optimizer calls the closure first: only after it are there gradients to add to.
        wrapped = self._closure_then_update(optimizer, closure)
        if "closure" in kwargs:
            return args, {**kwargs, "closure": wrapped}
        return (args[0], wrapped, *args[2:]), kwargs

    def _closure_then_update(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Callable[[], Any]:
        def wrapped() -> Any:
            loss = closure()
            self._before_update(optimizer)
            return loss

        return wrapped

    def _before_update(self, optimizer: Optimizer) -> None:
        if _skipped(optimizer):
            return
        # A GradScaler sets it on optimizers that unscale in their own fused step.
        grad_scale = getattr(optimizer, "grad_scale", None)
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        for weight in self._of[id(optimizer)]:
            parameter = weight.original
            context = UpdateContext(float(rates[id(parameter)]), 1.0 if grad_scale is None else grad_scale)
            weight.sparse.before_update(parameter, context)

    def _after_step(self, optimizer: Optimizer, _args: Arguments, _kwargs: Keywords) -> None:
        if not _skipped(optimizer):
            for weight in self._of[id(optimizer)]:
                weight.sparse.after_update(weight.original)

    def trains_some(self, optimizer: Optimizer) -> bool:
        """Tell whether an optimizer holds one of the weights."""
        held = _held(optimizer)
        return any(id(weight.original) in held for weight in self._weights)


def _held(optimizer: Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _skipped(optimizer: Optimizer) -> bool:
    """Tell whether a fused step will leave the weights alone because the GradScaler found infinities."""
    found_inf: Tensor | None = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)


# Sessions that no optimizer follows yet. One hook watches for all of them and is never removed: torch
# iterates over its hooks while they run, so none may take itself out.
_UNATTACHED: weakref.WeakSet[OptimizerHooks] = weakref.WeakSet()


@functools.cache
def _watch_all_optimizers() -> None:
    register_optimizer_step_post_hook(_warn_unattached)


def _warn_unattached(optimizer: Optimizer, _args: Arguments, _kwargs: Keywords) -> None:
    for hooks in list(_UNATTACHED):
        if hooks.trains_some(optimizer):
            _UNATTACHED.discard(hooks)
            warnings.warn(
                "an optimizer stepped a sparsified model without being attached to it, so the masks did not "
                "follow; call attach(optimizer) on what sparsify returned before training",
                stacklevel=4,
            )
