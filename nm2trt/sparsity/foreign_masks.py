"""Masks in checkpoints of apex ASP, NVIDIA ModelOpt and compressed-tensors, read without running code."""

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

# compressed-tensors up to 0.14 writes the format "sparse-24-bitmask": instead of `x.weight` the kept values
# of each row, one bit per weight, and the shape.
_COMPRESSED, _BITMASK, _SHAPE = ".compressed", ".bitmask", ".shape"
# apex keeps `__weight_mma_mask` beside a parameter, and what it pruned in `__weight_mma_pruned_p`; ModelOpt
# keeps `_weight_mask` beside `weight`.
_ASP = re.compile(r"(.*\.)?__(\w+)_mma_(mask|pruned_p)")
_MODELOPT = re.compile(r"(.*\.)?_(weight)_(mask)")


def split_foreign_masks(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a state of plain weights, and the masks that other libraries keep beside them, by weight.

    A mask that keeps everything is left out: its layer is dense.

    Raises:
        SparsifyError: A compressed weight is damaged.
    """
    state, masks = _decompressed(state)
    plain = {}
    for key, value in state.items():
        found = _ASP.fullmatch(key) or _MODELOPT.fullmatch(key)
        weight = f"{found[1] or ''}{found[2]}" if found else ""
        if found is None or weight not in state or not isinstance(value, Tensor):
            plain[key] = value
        elif found[3] == "mask" and not bool(value.bool().all()):
            masks[weight] = value.bool()
    return plain, masks


def _decompressed(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a state with the weights that compressed-tensors packed as 2:4, and their masks."""
    plain, masks = dict(state), {}
    layers = [key.removesuffix(_BITMASK) for key in state if key.endswith(_BITMASK)]
    for layer in layers:
        keys = [layer + part for part in (_COMPRESSED, _BITMASK, _SHAPE)]
        parts = [part for key in keys if isinstance(part := state.get(key), Tensor)]
        if len(parts) == len(keys):
            name = f"{layer}.weight"
            plain[name], masks[name] = _unpacked(name, *parts)
            for key in keys:
                del plain[key]
    return plain, masks


def _unpacked(name: str, values: Tensor, bits: Tensor, shape: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight (outputs, inputs) and its mask from the kept values of its rows and a bit per entry."""
    whole = shape.numel() == 2 and shape.dtype == torch.int64
    rows, columns = shape.flatten().tolist() if whole else (-1, -1)
    fits = values.shape == (rows, columns // 2) and bits.shape == (rows, -(-columns // 8))
    if not fits or bits.dtype != torch.uint8:
        raise SparsifyError(f"{name} is damaged: its values, bits and shape do not fit; save it again")
    order = torch.arange(8, dtype=torch.uint8, device=bits.device)  # the first weight is the lowest bit
    mask = (bits[..., None] >> order & 1).bool().reshape(rows, -1)[:, :columns]
    if not bool((mask.sum(1) == columns // 2).all()):
        raise SparsifyError(f"{name} is damaged: a row does not keep {columns // 2} weights; save it again")
    weight = values.new_zeros(rows, columns)
    weight[mask] = values.flatten()
    return weight, mask


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
