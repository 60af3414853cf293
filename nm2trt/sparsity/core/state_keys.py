"""One set of keys for dense and attached models.

torch names a parametrised weight `conv.parametrizations.weight.original`. Here an attached model saves it
as `conv.weight`, as a dense model does, and loads it from there. What a method keeps besides (scores, a
mask that no longer follows the weight) stays under `conv.parametrizations.weight.0.`, so that any key
with `.parametrizations.` in it belongs to the method and every other key to the dense model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from nm2trt.sparsity.core.parametrization import SparseWeight

__all__ = ["dense_keys", "install", "sparse_weights"]


def sparse_weights(module: nn.Module) -> Iterator[tuple[str, ParametrizationList, SparseWeight]]:
    """Yield the attached weights of one layer: parameter name, parametrisations, ours."""
    # Not by getattr: a wrapper such as ActivationWrapper forwards the attribute of its layer.
    found: Any = module._modules.get("parametrizations") or {}
    for name, parametrizations in found.items():
        if isinstance(parametrizations[0], SparseWeight):
            yield name, parametrizations, parametrizations[0]


def install(module: nn.Module) -> list[Any]:
    """Map a layer's keys when a state is saved or loaded; returns the handles that undo it."""
    # Hooks are plain functions that are given the module: a deepcopy of the model keeps working ones.
    return [
        module.register_state_dict_post_hook(_save_plain_keys),  # type: ignore[no-untyped-call]
        module.register_load_state_dict_pre_hook(_load_plain_keys),  # type: ignore[no-untyped-call]
        module.register_load_state_dict_post_hook(_after_load),  # type: ignore[no-untyped-call]
    ]


def dense_keys(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep what a dense model knows; `dense.load_state_dict(dense_keys(attached.state_dict()))` is strict."""
    return {key: value for key, value in state_dict.items() if "parametrizations" not in key.split(".")}


def _save_plain_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, _metadata: Any) -> None:
    for name, _, _ in sparse_weights(module):
        original = f"{prefix}parametrizations.{name}.original"
        if original in state_dict:
            state_dict[prefix + name] = state_dict.pop(original)


def _load_plain_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_unused: Any) -> None:
    for name, _, sparse in sparse_weights(module):
        inside = f"{prefix}parametrizations.{name}."
        if prefix + name in state_dict:
            state_dict[f"{inside}original"] = state_dict.pop(prefix + name)
        sparse.loads = f"{inside}original" in state_dict
        sparse.loads_dense = sparse.loads and not any(key.startswith(f"{inside}0.") for key in state_dict)


def _after_load(module: nn.Module, _incompatible: Any) -> None:
    for _, parametrizations, sparse in sparse_weights(module):
        sparse.after_load(parametrizations.original)
        sparse.loads = sparse.loads_dense = False
