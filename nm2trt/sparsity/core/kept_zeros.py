"""Zeros of finalised models while they train on: kept by a hook, or missed with one warning.

The masks are taken from the zeros as they stand. After each step of any optimizer that holds such a weight,
the entries are set to zero again: the model stays plain, so that quantisation-aware training and export see
nothing of it. A deepcopy of the model is followed too; a pickled or saved one is not.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from nm2trt.errors import SparsifyError
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import PLAN_ATTRIBUTE, Plan, inside_wrappers
from nm2trt.sparsity.core.distributed import local
from nm2trt.sparsity.core.layer_choice import foreign_class, select, stored
from nm2trt.sparsity.core.state_keys import sparse_weights

_ATTRIBUTE = "_nm2trt_kept_zeros"
# Without a plan, a weight with a smaller share of zeros is taken for dense.
_LEAST_SHARE = 0.1


class KeptZeros:
    """The handle of a model whose zeros are kept; made by `nm2trt.keep_zeros`."""

    def __init__(self, weights: dict[str, tuple[nn.Module, str]]) -> None:
        self._sites = {name: (weakref.ref(module), tensor) for name, (module, tensor) in weights.items()}
        self._masks = {name: local(parameter.detach()) != 0 for name, parameter in self._parameters()}

    def __deepcopy__(self, memo: dict[int, Any]) -> KeptZeros:
        """Follow the copied model, whose layers `memo` holds by now."""
        copied = type(self).__new__(type(self))
        vars(copied).update(vars(self))
        twins = {name: (memo.get(id(module())), tensor) for name, (module, tensor) in self._sites.items()}
        copied._sites = {n: (weakref.ref(m), t) for n, (m, t) in twins.items() if m is not None}
        copied._masks = self.masks()
        if copied._sites and self in _KEPT:
            _KEPT.add(copied)
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as None: hooks do not outlive the process."""
        return type(None), ()

    def masks(self) -> dict[str, Tensor]:
        """Return a copy of each weight's mask by the weight's name: bool, True where not zero."""
        return {name: mask.clone() for name, mask in self._masks.items()}

    def remove(self) -> None:
        """Let the zeros go."""
        _KEPT.discard(self)

    @torch.no_grad()
    def after_step(self, optimizer: Optimizer) -> None:
        """Set the entries to zero again, of the weights that the optimizer holds."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, parameter in self._parameters():
            if id(parameter) not in held:
                continue
            values, mask = local(parameter), self._masks[name]
            if values.shape != mask.shape:
                raise SparsifyError(f"{name} was sharded after keep_zeros; call keep_zeros after fully_shard")
            if mask.device != values.device:
                mask = self._masks[name] = mask.to(values.device)
            values.mul_(mask)

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, (reference, tensor) in self._sites.items():
            module = reference()
            parameter = None if module is None else _plain(module, tensor)
            if parameter is not None:  # None: the model is gone, quantised, or attached to a method again
                yield name, parameter


class _Watch(KeptZeros):
    """The same weights of a finalised model, whose zeros nobody keeps: warns once when they are filled."""

    def __init__(self, weights: dict[str, tuple[nn.Module, str]]) -> None:
        super().__init__(weights)
        self._counts = {name: int(torch.count_nonzero(mask)) for name, mask in self._masks.items()}
        self._masks = {}  # counts do: a watch should cost no memory
        self._steps = 0

    @torch.no_grad()
    def after_step(self, optimizer: Optimizer) -> None:
        """Look at steps 1, 2, 4, 8 and so on: a warm-up may begin with a learning rate of 0."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        found = [(name, parameter) for name, parameter in self._parameters() if id(parameter) in held]
        self._steps += bool(found)
        if not found or self._steps & (self._steps - 1):
            return
        for name, parameter in found:
            if int(torch.count_nonzero(local(parameter))) > self._counts[name]:
                _KEPT.discard(self)
                warnings.warn(
                    f"training a finalised model filled zeros of {name}; call nm2trt.keep_zeros(model) "
                    "before training on, or sparsify it again",
                    stacklevel=5,
                )
                return


def keep_zeros(model: nn.Module) -> KeptZeros:
    """Keep each zero of a finalised model's sparse weights while it trains on; see `nm2trt.keep_zeros`.

    Raises:
        SparsifyError: A method is attached, or no weight has zeros to keep.
    """
    if any(True for module in model.modules() for _ in sparse_weights(module)):
        raise SparsifyError("a method is attached to the model, and keeps its zeros; finalize it first")
    model = inside_wrappers(model)
    weights = _sparse_weights(model)
    if not weights:
        kinds = ((name, foreign_class(parameter)) for name, parameter in model.named_parameters())
        packed = (f" ({name} is of class {kind}, not a plain tensor)" for name, kind in kinds if kind)
        raise SparsifyError(
            f"{type(model).__name__} has no weight with zeros to keep{next(packed, '')}; "
            "sparsify and finalize it first"
        )
    _forget(weights)
    return _register(KeptZeros(weights), model)


def watch_zeros(model: nn.Module) -> None:
    """Warn once when training fills the zeros of a model that was just finalised."""
    weights = _sparse_weights(model)
    _forget(weights)
    if weights:
        _register(_Watch(weights), model)


def _sparse_weights(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Return layer and parameter of each sparse weight: those of the plan, or all with a share of zeros."""
    plan: Plan | None = getattr(model, PLAN_ATTRIBUTE, None)
    if plan is not None:
        modules = dict(model.named_modules())
        names = [e.weight for e in plan if e.pattern is not None or e.unstructured]
        places = {name: (modules.get(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names}
        return {n: (m, t) for n, (m, t) in places.items() if m is not None and _plain(m, t) is not None}
    found = {}
    for choice in select(model, NMPattern(1, 1), unstructured=True):
        site = choice.sites[0]
        parameter = _plain(site.module, site.tensor)
        if parameter is None or parameter.numel() == 0:
            continue
        values = local(parameter)
        zeros = 1 - float(torch.count_nonzero(values)) / max(1, values.numel())
        if _LEAST_SHARE <= zeros < 1:
            found[site.weight_name] = (site.module, site.tensor)
    return found


def _plain(module: nn.Module, tensor: str) -> nn.Parameter | None:
    """Return a layer's own parameter; None also if it is of a class of its own, as quantised weights are."""
    parameter = stored(module, tensor)
    return None if parameter is None or foreign_class(parameter) else parameter


def _forget(weights: dict[str, tuple[nn.Module, str]]) -> None:
    """Drop watches and keepers of the same parameters, which a layer that torch.jit made may share."""
    own = {id(stored(module, tensor)) for module, tensor in weights.values()}
    for old in list(_KEPT):
        if any(id(parameter) in own for _, parameter in old._parameters()):
            _KEPT.discard(old)


def _register(kept: KeptZeros, model: nn.Module) -> KeptZeros:
    _hook_all_optimizers()
    _KEPT.add(kept)
    setattr(model, _ATTRIBUTE, kept)  # deepcopy finds it there
    return kept


_KEPT: set[KeptZeros] = set()


@functools.cache
def _hook_all_optimizers() -> None:
    register_optimizer_step_post_hook(_after_any_step)


def _after_any_step(optimizer: Optimizer, _args: object, _kwargs: object) -> None:
    for kept in list(_KEPT):
        if all(reference() is None for reference, _ in kept._sites.values()):
            _KEPT.discard(kept)
        else:
            kept.after_step(optimizer)
