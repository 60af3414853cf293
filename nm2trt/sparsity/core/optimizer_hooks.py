"""Hooks around each optimizer step: the decay before it, schedule and masks after it.

The decay is added once per step and to unscaled gradients. The optimizer itself calls the hooks, so a
training loop has nothing to remember. Which weights an optimizer trains is looked up at each step, so that
parameter groups and layers may join later.
"""

from __future__ import annotations

import copy
import functools
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from nm2trt.errors import SparsifyError
from nm2trt.sparsity.core.tracked_weight import TrackedWeight
from nm2trt.sparsity.core.training_step import UpdateContext, adds_gradients

Arguments = tuple[Any, ...]
Keywords = dict[str, Any]


class OptimizerHooks:
    """The optimizers that one session follows.

    Args:
        model: The attached model.
        weights: The session's sparse weights.
        after_step: Called after a followed step, once the masks are set.
    """

    def __init__(
        self, model: nn.Module, weights: Sequence[TrackedWeight], after_step: Callable[[], None] | None = None
    ) -> None:
        self._model = model
        self._weights = tuple(weights)
        self._after = after_step
        self._followed: weakref.WeakKeyDictionary[Optimizer, list[Any]] = weakref.WeakKeyDictionary()
        self._warned: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        # An optimizer may step others inside its own step (ZeroRedundancyOptimizer does).
        self._inside = False
        _watch_all_optimizers()
        _OPEN.add(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> OptimizerHooks:
        """Follow no optimizer yet: torch copies optimizers without their hooks."""
        parts = copy.deepcopy((self._model, self._weights, self._after), memo)
        return OptimizerHooks(*parts)

    def attach(self, optimizers: Sequence[Optimizer]) -> None:
        """Follow these optimizers too.

        Raises:
            SparsifyError: One is not an optimizer, or of another model, or a trained parameter is in none of
                the followed ones.
        """
        optimizers = [_innermost(optimizer) for optimizer in optimizers or (None,)]
        own = {id(parameter) for parameter in self._model.parameters()}
        held = self.held(optimizers)
        for weight in self._weights:
            if any(p.requires_grad and id(p) not in held for p in weight.parameters()):
                raise SparsifyError(
                    f"the optimizer does not train {weight.name}; make it from model.parameters() after "
                    "sparsify, and after fully_shard if that is used; several are attached in one call"
                )
        for optimizer in optimizers:
            if not own & _held(optimizer):
                raise SparsifyError(
                    f"the {type(optimizer).__name__} holds no parameter of the sparsified "
                    f"{type(self._model).__name__}; attach the optimizer that trains this model"
                )
            for weight in self._weights:
                weight.sparse.check_optimizer(weight.name, _group_of(optimizer, weight))
        for optimizer in optimizers:
            if optimizer not in self._followed:
                self._followed[optimizer] = [
                    optimizer.register_step_pre_hook(self._before_step),
                    optimizer.register_step_post_hook(self._after_step),
                ]
        self.warn_again()

    def detach(self, optimizers: Sequence[Optimizer]) -> None:
        """Follow these optimizers no longer; all of them when none is given.

        Raises:
            SparsifyError: One is not followed.
        """
        optimizers = [_innermost(optimizer) for optimizer in optimizers]
        for optimizer in optimizers:
            if optimizer not in self._followed:
                raise SparsifyError(
                    f"detach: the {type(optimizer).__name__} is not attached; give one that attach was given"
                )
        for optimizer in tuple(optimizers or self._followed):
            for handle in self._followed.pop(optimizer):
                handle.remove()
        self.warn_again()

    def held(self, more: Sequence[Optimizer] = ()) -> set[int]:
        """Return the ids of all parameters of the followed optimizers, and of some more."""
        return set().union(*(_held(o) for o in (*self._followed, *map(_innermost, more))))

    def remove(self) -> None:
        """Leave the optimizers as they were, and warn of none any more."""
        self.detach(())
        _OPEN.discard(self)

    def warn_again(self) -> None:
        """Let the next step of an optimizer that is not followed warn, even if it did before."""
        self._warned.clear()

    def _before_step(
        self, optimizer: Optimizer, args: Arguments, kwargs: Keywords
    ) -> tuple[Arguments, Keywords] | None:
        self._inside = True
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
        groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        for weight in self._weights:
            parameter = weight.original
            if id(parameter) in groups:
                weight.sparse.before_update(parameter, _context(optimizer, groups[id(parameter)]))

    def _after_step(self, optimizer: Optimizer, _args: Arguments, _kwargs: Keywords) -> None:
        self._inside = False
        if _skipped(optimizer):
            return
        held, everywhere = _held(optimizer), self.held()
        for weight in self._weights:
            # Scores may have an optimizer of their own: a step of both is one step.
            counted = (weight.original,) if id(weight.original) in everywhere else weight.parameters()
            if any(id(parameter) in held for parameter in counted):
                weight.sparse.after_update(weight.original)
        self._advance_frozen()
        if self._after is not None:
            self._after()

    def _advance_frozen(self) -> None:
        """Bring the schedule of weights that no optimizer holds to where the others stand."""
        late = [w for w in self._weights if w.sparse.has_schedule(w.sparse.options)]
        now = max(weight.sparse.updates for weight in self._weights)
        late = [weight for weight in late if weight.sparse.updates < now]
        held = self.held() if late else set()
        for weight in late:
            if not any(id(parameter) in held for parameter in weight.parameters()):
                while weight.sparse.updates < now:  # step by step: a schedule may act at any of them
                    weight.sparse.after_update(weight.original)

    def warn_of(self, optimizer: Optimizer) -> None:
        """Warn when an optimizer that is not followed has stepped one of the weights."""
        if self._inside or optimizer in self._followed or optimizer in self._warned:
            return
        held = _held(optimizer)
        if any(weight.attached and id(weight.original) in held for weight in self._weights):
            self._warned.add(optimizer)
            warnings.warn(
                f"an optimizer ({type(optimizer).__name__}) stepped a sparsified model without being "
                "attached to it, so the masks did not follow; call attach(optimizer) on the session that "
                "sparsify returned, before training",
                stacklevel=5,
            )


def _innermost(optimizer: Any) -> Optimizer:
    """Return the optimizer inside the wrappers of accelerate and Lightning, which have no hooks."""
    while hasattr(optimizer, "param_groups") and not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        optimizer = getattr(optimizer, "optimizer", None)
    if not isinstance(optimizer, Optimizer):
        raise SparsifyError("attach takes torch optimizers, as in attach(torch.optim.SGD(...))")
    return optimizer


def _held(optimizer: Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _group_of(optimizer: Optimizer, weight: TrackedWeight) -> dict[str, Any] | None:
    parameter = weight.original
    for group in optimizer.param_groups:
        if any(p is parameter for p in group["params"]):
            return group
    return None


def _context(optimizer: Optimizer, group: dict[str, Any]) -> UpdateContext:
    # A GradScaler sets grad_scale on optimizers that unscale in their own fused step.
    grad_scale = getattr(optimizer, "grad_scale", None)
    rate = float(group["lr"])
    gain = None
    if adds_gradients(group):
        gain = (1 - float(group.get("dampening", 0.0))) / (1 - float(group.get("momentum", 0.0)))
    scale = 1.0 if grad_scale is None else grad_scale
    return UpdateContext(
        learning_rate=rate,
        grad_scale=-scale if group.get("maximize") else scale,
        peak_rate=max(rate, float(group.get("initial_lr", rate))),
        gain=gain,
    )


def _skipped(optimizer: Optimizer) -> bool:
    """Tell whether a fused step will leave the weights alone because the GradScaler found infinities."""
    found_inf: Tensor | None = getattr(optimizer, "found_inf", None)
    return found_inf is not None and bool(found_inf)


# Sessions that are not finalised. One hook watches for all of them and is never removed: torch iterates over
# its hooks while they run, so none may take itself out.
_OPEN: weakref.WeakSet[OptimizerHooks] = weakref.WeakSet()


@functools.cache
def _watch_all_optimizers() -> None:
    register_optimizer_step_post_hook(_warn_unfollowed)


def _warn_unfollowed(optimizer: Optimizer, _args: Arguments, _kwargs: Keywords) -> None:
    for hooks in list(_OPEN):
        hooks.warn_of(optimizer)
