"""Masks in checkpoints of apex ASP and NVIDIA ModelOpt, and files of them, read without running code."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nm2trt.errors import SparsifyError
from nm2trt.files import check_input

__all__ = ["read_state", "split_foreign_masks"]

# apex keeps `__weight_mma_mask` beside a parameter, and what it pruned in `__weight_mma_pruned_p`; ModelOpt
# keeps `_weight_mask` beside `weight`.
_ASP = re.compile(r"(.*\.)?__(\w+)_mma_(mask|pruned_p)")
_MODELOPT = re.compile(r"(.*\.)?_(weight)_(mask)")


def split_foreign_masks(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a state without the buffers of apex ASP and ModelOpt, and their masks by the weight's name.

    A mask that keeps everything is left out: its layer is dense.
    """
    plain, masks = {}, {}
    for key, value in state.items():
        found = _ASP.fullmatch(key) or _MODELOPT.fullmatch(key)
        weight = f"{found[1] or ''}{found[2]}" if found else ""
        if found is None or weight not in state or not isinstance(value, Tensor):
            plain[key] = value
        elif found[3] == "mask" and not bool(value.bool().all()):
            masks[weight] = value.bool()
    return plain, masks


def read_state(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Read a checkpoint file (.safetensors, or what `torch.save` wrote) without running code that it holds.

    Raises:
        InputError: The file is missing.
        SparsifyError: It holds more than tensors and plain values, or is damaged.
    """
    file = check_input(path, "a checkpoint")
    try:
        if Path(file).suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SparsifyError(
            f"{path} holds more than tensors, and reading it could run its code; save model.state_dict()"
        ) from error
    except ModuleNotFoundError:
        raise
    except Exception as error:
        raise SparsifyError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}); save model.state_dict() again"
        ) from error
    if isinstance(state, Mapping) and "modelopt_state" in state and "model_state_dict" in state:
        state = state["model_state_dict"]
    if not isinstance(state, Mapping):
        raise SparsifyError(
            f"{path} holds no state_dict but a {type(state).__name__}; save model.state_dict()"
        )
    return state
