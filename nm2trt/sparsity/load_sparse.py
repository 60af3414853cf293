"""An attached model's checkpoint as a finalised model: zeros in the weights, plain keys, the plan beside.

The state says by itself what each sparse weight needs: its pattern, and a mask, LBC's winners, or neither
where the mask follows the weight.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nm2trt.errors import SparsifyError
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import PLAN_ATTRIBUTE, Plan, PlanEntry
from nm2trt.nm.torch_mask import magnitude_mask
from nm2trt.sparsity.core.borrowed_model import kept_on_error
from nm2trt.sparsity.core.finalize import require_pattern
from nm2trt.sparsity.core.kept_zeros import watch_zeros
from nm2trt.sparsity.core.layer_choice import Choice, select
from nm2trt.sparsity.foreign_masks import read_state, split_foreign_masks
from nm2trt.sparsity.methods.lbc_candidates import candidates, union_of_winners, unpack_winners
from nm2trt.sparsity.sparsify import sparsify

_MARK = ".0._extra_state"
_FOREIGN_PATTERN = NMPattern(2, 4)  # the only one of apex ASP and compressed-tensors, and ModelOpt's default


def load_sparse(model: nn.Module, state: Mapping[str, Any] | str | os.PathLike[str]) -> nn.Module:
    """Load an attached model's state into a plain model, as `finalize` leaves it; see `nm2trt.load_sparse`.

    On an error the model stays as it is. Names lose what DDP, AveragedModel and torch.compile add.

    Raises:
        SparsifyError: The state is of a plain model, of other layers, or of a schedule that has not ended.
        SparsityError: A weight does not hold its pattern.
    """
    if isinstance(state, (str, os.PathLike)):
        state = read_state(state)
    state = _unwrapped(state)
    patterns = _patterns(state)
    if not patterns:
        plain, masks = split_foreign_masks(state)
        if masks:
            return _load_foreign(model, plain, masks)
        raise SparsifyError(_no_pattern(state))
    if any(key.endswith(".branch.weight") and _spre_prefix(key) in patterns for key in state):
        return _load_spre(model, state, patterns)
    selected = select(model, NMPattern(1, 1), unstructured=True)
    choices = {site.weight_name: choice for choice in selected for site in choice.sites}
    plain = {key: value for key, value in state.items() if "parametrizations" not in key.split(".")}
    for name, pattern in patterns.items():
        if name not in choices:
            raise SparsifyError(f"the state's sparse weight {name} is missing in {type(model).__name__}")
        for site in choices[name].sites:
            plain[site.weight_name] = _masked(name, pattern, choices[name].entry, state)
    _refuse_other_keys(model, plain)
    model.load_state_dict(plain)
    entries = tuple(_entry(choice, patterns) for choice in selected)
    setattr(model, PLAN_ATTRIBUTE, Plan(entries))
    watch_zeros(model)
    return model


@torch.no_grad()
def _load_foreign(model: nn.Module, plain: dict[str, Any], masks: Mapping[str, Tensor]) -> nn.Module:
    """Load a state of another library whose masks hold 2:4 on the axis that hardware reads."""
    selected = select(model, _FOREIGN_PATTERN, unstructured=True)
    choices = {site.weight_name: choice for choice in selected for site in choice.sites}
    for name, mask in masks.items():
        if name not in choices:
            raise SparsifyError(f"the state's sparse weight {name} is missing in {type(model).__name__}")
        if plain[name].shape != mask.shape:
            raise SparsifyError(
                f"{name} has shape {tuple(plain[name].shape)}, its mask {tuple(mask.shape)}; save both again"
            )
        axis = choices[name].entry.axis
        plain[name] = plain[name] * mask
        require_pattern(name, plain[name], _FOREIGN_PATTERN, axis=1 if axis is None else axis)
    _refuse_other_keys(model, plain)
    model.load_state_dict(plain)
    patterns = dict.fromkeys(masks, _FOREIGN_PATTERN)
    setattr(model, PLAN_ATTRIBUTE, Plan(tuple(_entry(choice, patterns) for choice in selected)))
    watch_zeros(model)
    return model


def _unwrapped(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state under the names of the model itself.

    Raises:
        SparsifyError: It is not a state.
    """
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise SparsifyError(
            f"load_sparse takes a state_dict, such as torch.load(path) returns, not {type(state).__name__}"
        )
    found = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    averaged = "n_averaged" in found  # what AveragedModel counts
    names = [key for key in found if not (averaged and key == "n_averaged")]
    if names and all(key.startswith("module.") for key in names):
        return {key.removeprefix("module."): found[key] for key in names}
    return found


def _no_pattern(state: Mapping[str, Any]) -> str:
    inside = [key for key, value in state.items() if isinstance(value, Mapping) and _patterns(value)]
    if inside:
        return (
            f"the state is a checkpoint, whose entry {inside[0]!r} holds the model; give state[{inside[0]!r}]"
        )
    pruned = next((key for key in state if key.endswith("_orig") and f"{key[:-5]}_mask" in state), "")
    if pruned:
        return (
            f"the state is of torch.nn.utils.prune, which keeps {pruned[:-5]!r} as {pruned!r} and its mask; "
            "load it into a model that was pruned alike, and call torch.nn.utils.prune.remove on each weight"
        )
    return "the state is not of an attached model: it holds no pattern; load it by model.load_state_dict"


def _patterns(state: Mapping[str, Any]) -> dict[str, NMPattern]:
    """Return the pattern of each sparse weight, by the weight's name in a plain model.

    Raises:
        SparsifyError: One does not hold its pattern yet, on a schedule.
    """
    found = {}
    for key, value in state.items():
        layer, middle, rest = str(key).rpartition("parametrizations.")
        if middle and rest.endswith(_MARK) and isinstance(value, Tensor) and value.numel() >= 4:
            n, m, steps, kept = (int(number) for number in value[:4])
            name = layer + rest.removesuffix(_MARK)
            if kept != n:
                raise SparsifyError(
                    f"{name} does not hold {n}:{m} yet: {kept} of each {m} are kept after {steps} steps; "
                    "train it to the end of its schedule"
                )
            found[name] = NMPattern(n, m)
    return found


@torch.no_grad()
def _masked(name: str, pattern: NMPattern, entry: PlanEntry, state: Mapping[str, Any]) -> Tensor:
    layer, _, tensor = name.rpartition(".")
    inside = f"{layer}.parametrizations.{tensor}." if layer else f"parametrizations.{tensor}."
    weight: Tensor | None = state.get(f"{inside}original")
    axis = entry.axis if entry.axis is not None else 1
    if weight is None:
        raise SparsifyError(f"the state lacks {inside}original; save the attached model's whole state_dict")
    if not bool(torch.isfinite(weight).all()):
        raise SparsifyError(f"{name} holds NaN or infinity; load an earlier checkpoint")
    alive = state.get(f"{inside}0.alive")
    if f"{inside}0.winner" in state:
        groups, count = weight.numel() // pattern.m, math.comb(pattern.m, pattern.n)
        alive = unpack_winners(state[f"{inside}0.winner"], groups=groups, count=count)
    if alive is not None:
        left = int(alive[0].sum())
        if left > 1:
            raise SparsifyError(
                f"{name} does not hold {pattern} yet: {left} candidates per group are left in the state; "
                "train it to the end of its schedule"
            )
        mask = union_of_winners(alive, weight, candidates(pattern).to(alive.device), axis=axis)
    elif f"{inside}0.mask" in state:
        mask = state[f"{inside}0.mask"].bool()
    else:
        mask = magnitude_mask(weight, pattern, axis=axis)
    values = weight * mask
    require_pattern(name, values, pattern, axis=axis)
    return values


def _entry(choice: Choice, patterns: Mapping[str, NMPattern]) -> PlanEntry:
    entry = choice.entry
    pattern = patterns.get(entry.weight)
    if pattern is None:
        return replace(entry, pattern=None, reason="dense in the checkpoint")
    if pattern.n == pattern.m:
        return replace(entry, pattern=None, unstructured=True, reason="zeros anywhere, from a checkpoint")
    return replace(entry, pattern=pattern, reason="sparse in the checkpoint")


def _refuse_other_keys(model: nn.Module, plain: Mapping[str, Tensor]) -> None:
    """Compare keys and shapes before anything is loaded."""
    own = model.state_dict()
    for what, keys in (("lacks", own.keys() - plain.keys()), ("also has", plain.keys() - own.keys())):
        if keys:
            raise SparsifyError(
                f"the state is of another model than {type(model).__name__}: it {what} "
                f"{', '.join(sorted(keys)[:3])}; make the model that was trained"
            )
    for key, value in plain.items():
        if own[key].shape != value.shape:
            raise SparsifyError(
                f"{key} has shape {tuple(value.shape)} in the state and {tuple(own[key].shape)} in the "
                "model; make the model that was trained"
            )


def _spre_prefix(key: str) -> str:
    return f"{key.removesuffix('branch.weight')}main.weight"


def _load_spre(model: nn.Module, state: Mapping[str, Any], patterns: Mapping[str, NMPattern]) -> nn.Module:
    """Attach the branches that the state has, load, and merge them."""
    by_layer = {name.rpartition(".")[0].removesuffix(".main"): p for name, p in patterns.items()}
    options: dict[str, Any] = {
        "branch_norm": any(".branch_norm." in key for key in state),
        "smoothing": 0.5 if any(key.endswith(".smoothed") for key in state) else 0.0,
        "base": "magnitude" if any(key.endswith(".0.mask") for key in state) else "sr-ste",
    }
    with kept_on_error(model):
        session = sparsify(model, method="spre", pattern=by_layer, include=list(by_layer), **options)
        try:
            model.load_state_dict(dict(state))
        except RuntimeError as error:
            first = str(error).strip().splitlines()[-1].strip()
            raise SparsifyError(
                f"the state is of another model than {type(model).__name__}: {first}"
            ) from error
        return session.finalize()
