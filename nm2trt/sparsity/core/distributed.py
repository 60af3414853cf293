"""Weights that FSDP2 has split over processes: reading them whole, and masking their local part."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import torch
from torch import Tensor, nn

_CHECKPOINTED = "_checkpoint_wrapped_module"


def is_sharded(tensor: Tensor) -> bool:
    """Tell whether a tensor is a DTensor, without importing torch.distributed for those that are not."""
    return hasattr(tensor, "full_tensor")


def full(tensor: Tensor) -> Tensor:
    """Return the whole tensor; a sharded one is gathered, which every process must take part in."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """Return the part of the tensor that this process holds; in-place changes to it are seen."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def local_part(whole: Tensor, like: Tensor) -> Tensor:
    """Cut from `whole` the part that this process holds of `like`, without communication."""
    if not is_sharded(like):
        return whole
    return local(shard_like(whole, like))


def shard_like(whole: Tensor, like: Tensor) -> Tensor:
    """Return `whole` as a DTensor placed as `like` is, without communication."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]


def plain_copy(model: nn.Module, baked: Mapping[tuple[int, str], Tensor]) -> nn.Module:
    """Rebuild a model that `fully_shard` has taken over as plain layers with whole parameters.

    Every process must take part, since parameters are gathered. Hooks are not carried over.

    Args:
        model: The sharded model; it stays as it is.
        baked: By (id of the layer, parameter name): values to take instead of a parametrised weight.
    """
    return _Rebuild(baked).module(model)


class _Rebuild:
    """Makes each module and each parameter once, so that shared ones stay shared."""

    def __init__(self, baked: Mapping[tuple[int, str], Tensor]) -> None:
        self._baked = baked
        self._modules: dict[int, nn.Module] = {}
        self._parameters: dict[int, nn.Parameter] = {}

    def module(self, sharded: nn.Module) -> nn.Module:
        if id(sharded) in self._modules:
            return self._modules[id(sharded)]
        inner = sharded._modules.get(_CHECKPOINTED)
        if (
            inner is not None
        ):  # an activation checkpoint's wrapper renames keys by hooks, which are not carried over
            return self.module(inner)
        cls = _plain_class(sharded)
        plain: nn.Module = cls.__new__(cls)
        nn.Module.__init__(plain)
        self._modules[id(sharded)] = plain
        kept = set(vars(plain))
        for key, value in vars(sharded).items():
            if key not in kept and not key.startswith("__composable"):
                vars(plain)[key] = value
        plain.training = sharded.training
        for name, parameter in sharded._parameters.items():
            whole = None if parameter is None else self._parameter(parameter, parameter)
            plain.register_parameter(name, whole)
        for name, buffer in sharded._buffers.items():
            persistent = name not in sharded._non_persistent_buffers_set
            plain.register_buffer(name, None if buffer is None else buffer.clone(), persistent=persistent)
        self._children(sharded, plain)
        return plain

    def _children(self, sharded: nn.Module, plain: nn.Module) -> None:
        for name, child in sharded._modules.items():
            if child is not None and name == "parametrizations" and _has_parametrizations(sharded):
                for tensor, parametrizations in child.named_children():
                    original: nn.Parameter = parametrizations.original  # type: ignore[assignment]
                    values = self._baked[id(sharded), tensor]
                    plain.register_parameter(tensor, self._parameter(values, original))
            else:
                plain._modules[name] = None if child is None else self.module(child)

    def _parameter(self, values: Tensor, of: nn.Parameter) -> nn.Parameter:
        if id(of) not in self._parameters:
            whole = full(values.detach()).clone()
            self._parameters[id(of)] = nn.Parameter(whole, requires_grad=of.requires_grad)
        return self._parameters[id(of)]


def _plain_class(module: nn.Module) -> type[nn.Module]:
    """Return the class that a layer had before `fully_shard` and the parametrisation replaced it."""
    cls = type(module)
    if any(base.__name__ == "FSDPModule" for base in cls.__bases__):
        cls = next(base for base in cls.__bases__ if base.__name__ != "FSDPModule")
    return cls.__bases__[0] if _has_parametrizations(module) else cls


def _has_parametrizations(module: nn.Module) -> bool:
    # Not torch's is_parametrized: a wrapper such as ActivationWrapper forwards the attribute of its layer.
    return "parametrizations" in module._modules


def among_processes() -> bool:
    """Tell whether this process is one of several that train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def keys_must_stay() -> bool:
    """Tell whether states must have the same keys all through the run.

    torch.distributed.checkpoint asks a fresh model for the keys that it loads, so packed winners would be
    missing there. It works without a process group too, and then only its import tells that it is used.
    """
    return among_processes() or "torch.distributed.checkpoint" in sys.modules
