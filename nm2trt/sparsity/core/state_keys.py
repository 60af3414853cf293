"""Keys of attached models: a dense checkpoint loads, and a dense state can be had back.

An attached model saves torch's own names, `conv.parametrizations.weight.original` for the dense weight and
`conv.parametrizations.weight.0.` for what a method keeps: the names lead to the tensors, as
torch.distributed.checkpoint needs, and a plain model refuses them. `conv.weight` of a dense model loads too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from nm2trt.sparsity.core.parametrization import SparseWeight


def sparse_weights(module: nn.Module) -> Iterator[tuple[str, ParametrizationList, SparseWeight]]:
    """Yield the attached weights of one layer: parameter name, parametrisations, ours."""
    # Not by getattr: a wrapper such as ActivationWrapper forwards the attribute of its layer.
    if "parametrizations" not in module._modules:
        return
    found: Any = module._modules["parametrizations"]
    for name, parametrizations in found.items():
        if isinstance(parametrizations[0], SparseWeight):
            yield name, parametrizations, parametrizations[0]


def install(module: nn.Module) -> list[Any]:
    """Map a dense model's keys when a state is loaded into a layer; returns the handles that undo it."""
    # Hooks are plain functions that are given the module: a deepcopy of the model keeps working ones.
    return [
        module.register_load_state_dict_pre_hook(_load_plain_keys),  # type: ignore[no-untyped-call]
        module.register_load_state_dict_post_hook(_after_load),  # type: ignore[no-untyped-call]
    ]


def dense_keys(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return an attached model's state under a dense model's keys: the dense master weights, without zeros.

    A model with spatial branches (SpRe) needs `SparseSession.dense_state_dict`, which knows its BatchNorms.
    """
    found = {}
    for key, value in state_dict.items():
        layer, middle, rest = key.rpartition("parametrizations.")
        name = rest.partition(".")[0]
        if not middle or f"{layer}{middle}{name}.0._extra_state" not in state_dict:
            found[key] = value
        elif rest == f"{name}.original":
            found[layer + name] = value
    return found


def _load_plain_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_unused: Any) -> None:
    for name, _, sparse in sparse_weights(module):
        inside = f"{prefix}parametrizations.{name}."
        if prefix + name in state_dict:
            state_dict[f"{inside}original"] = state_dict.pop(prefix + name)
        sparse.loads = f"{inside}original" in state_dict
        sparse.loads_dense = sparse.loads and not any(key.startswith(f"{inside}0.") for key in state_dict)


def _after_load(module: nn.Module, _incompatible: Any) -> None:
    for _, parametrizations, sparse in sparse_weights(module):
        weight = parametrizations.original
        if sparse.unset and not weight.is_meta:  # assign=True moves only what the state holds
            sparse._apply(functools.partial(_off_meta, device=weight.device))  # type: ignore[no-untyped-call]
        sparse.after_load(weight)
        sparse.loads = sparse.loads_dense = False


def _off_meta(tensor: Tensor, *, device: torch.device) -> Tensor:
    return torch.empty_like(tensor, device=device) if tensor.is_meta else tensor
