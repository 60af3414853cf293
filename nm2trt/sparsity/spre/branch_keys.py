"""State keys of a model with branches: a dense model's keys go to the main branch, and come from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from nm2trt.sparsity.spre.branches import SpatialBranches


def blocks_of(model: nn.Module) -> Iterator[tuple[str, SpatialBranches]]:
    """Yield the name and the branches of each convolution that has some."""
    for name, module in model.named_modules():
        if isinstance(module, SpatialBranches):
            yield name, module


def without_branches(model: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """Return a model's state under the dense model's keys; the second branches are left out."""
    for name, block in blocks_of(model):
        for key in [key for key in state if key.startswith(f"{name}.")]:
            value, rest = state.pop(key), key.removeprefix(f"{name}.")
            if rest.startswith("main."):
                state[f"{name}.{rest.removeprefix('main.')}"] = value
            elif rest.startswith("main_norm."):
                state[f"{block.norm_name}.{rest.removeprefix('main_norm.')}"] = value
    return state


def load_plain_keys(root: nn.Module, state_dict: dict[str, Any], prefix: str, *_unused: Any) -> None:
    """Give a dense model's keys to the main branch and its BatchNorm; keys of attached models stay."""
    for name, block in blocks_of(root):
        inside, norm = f"{prefix}{name}.", f"{prefix}{block.norm_name}."
        block.loads_dense = f"{inside}branch.weight" not in state_dict
        if not block.loads_dense:
            continue
        for key in [key for key in state_dict if key.startswith((inside, norm))]:
            branch = "main_norm" if key.startswith(norm) else "main"
            rest = key.removeprefix(norm if branch == "main_norm" else inside)
            state_dict[f"{inside}{branch}.{rest}"] = state_dict.pop(key)
        if any(key.startswith(inside) for key in state_dict):
            state_dict.update({inside + key: value for key, value in block.own_state().items()})


def after_load(root: nn.Module, _incompatible: Any) -> None:
    """Set what follows from a dense model's state, which knows of no branch."""
    for _, block in blocks_of(root):
        if block.loads_dense:
            if block.smoothed is not None:
                block.smoothed.fill_(torch.nan)
            block.update_spatial()
            block.loads_dense = False
