"""The BatchNorm that follows each convolution: found by torch.fx, or given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nm2trt.errors import SparsifyError, first_line

Convolution: TypeAlias = "nn.Conv1d | nn.Conv2d | nn.Conv3d"


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome for every convolution that was asked about.

    Args:
        pairs: Convolution to BatchNorm, by name.
        reasons: Convolution to why it has none.
    """

    pairs: Mapping[str, str]
    reasons: Mapping[str, str]


def find_pairs(model: nn.Module, wanted: Collection[str]) -> Found:
    """Trace a model and find the BatchNorm that is the only reader of each wanted convolution's output.

    Raises:
        SparsifyError: torch.fx cannot trace the model.
    """
    graph = _trace(model)
    modules = dict(model.named_modules())
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    nodes = {str(node.target): node for node in graph.nodes if node.op == "call_module"}
    pairs, reasons = {}, {}
    for name in wanted:
        reason = _refusal(name, nodes, calls, modules)
        if reason is None:
            pairs[name] = str(next(iter(nodes[name].users)).target)
        else:
            reasons[name] = reason
    return Found(pairs, reasons)


def given_pairs(
    model: nn.Module, given: Sequence[tuple[str, str]] | Mapping[str, str], wanted: Collection[str]
) -> Found:
    """Check pairs that the caller names; if the model can be traced, against its graph too.

    Raises:
        SparsifyError: A name is not such a module, sizes differ, or the convolution's output goes elsewhere.
    """
    pairs = dict(given)
    modules = dict(model.named_modules())
    for conv_name, norm_name in pairs.items():
        conv, norm = modules.get(conv_name), modules.get(norm_name)
        if not isinstance(conv, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            raise SparsifyError(f"pairs: {conv_name!r} is not a convolution of the model")
        if not isinstance(norm, _BatchNorm):
            raise SparsifyError(f"pairs: {norm_name!r} is not a BatchNorm of the model")
        if norm.num_features != conv.out_channels:
            raise SparsifyError(
                f"pairs: {conv_name} has {conv.out_channels} output channels, {norm_name} {norm.num_features}"
            )
        if conv_name not in wanted:
            raise SparsifyError(
                f"pairs: {conv_name} is not sparse, or its kernel has one position; it can have no branch"
            )
        if not norm.track_running_stats:
            raise SparsifyError(f"pairs: {norm_name} keeps no running statistics, which the merge needs")
    if len(set(pairs.values())) < len(pairs):
        raise SparsifyError("pairs: a BatchNorm is named twice; each convolution needs its own")
    rest = {name: "not among the given pairs" for name in wanted if name not in pairs}
    try:
        found = find_pairs(model, list(pairs))
    except SparsifyError:  # pairs are given for models that cannot be traced
        return Found(pairs, rest)
    for name, reason in found.reasons.items():
        raise SparsifyError(f"pairs: {name} cannot have a branch: {reason}")
    for name, norm_name in found.pairs.items():
        if pairs[name] != norm_name:
            raise SparsifyError(f"pairs: {norm_name} follows {name} in the model, not {pairs[name]}")
    return Found(pairs, rest)


def _trace(model: nn.Module) -> fx.Graph:
    try:
        return fx.Tracer().trace(model)
    except Exception as error:
        if not any(isinstance(module, _BatchNorm) for module in model.modules()):
            raise SparsifyError(
                f"{type(model).__name__} has no BatchNorm, which spre needs after each convolution; choose "
                "another method, such as sr-ste"
            ) from error
        raise SparsifyError(
            f"torch.fx cannot trace {type(model).__name__} ({first_line(error)}), so the BatchNorm after "
            "each convolution is not known; give pairs=[('conv1', 'bn1'), ...]"
        ) from error


def _refusal(
    name: str, nodes: Mapping[str, fx.Node], calls: Counter[str], modules: Mapping[str, nn.Module]
) -> str | None:
    """Say why a convolution and its reader are not a pair, or None if they are."""
    if name not in nodes:
        return "the model's forward does not call it by itself"
    if calls[name] > 1:
        return f"it is called {calls[name]} times"
    users = list(nodes[name].users)
    if len(users) != 1:
        shown = ", ".join(str(user.name) for user in users) or "none"
        return f"its output has {len(users)} users ({shown}), and only a BatchNorm may read it"
    norm = modules.get(str(users[0].target)) if users[0].op == "call_module" else None
    if not isinstance(norm, _BatchNorm):
        return f"no BatchNorm follows it, but {users[0].name}"
    if calls[str(users[0].target)] > 1:
        return f"{users[0].target} is used {calls[str(users[0].target)]} times"
    if not norm.track_running_stats or not isinstance(norm.running_var, torch.Tensor):
        return f"{users[0].target} keeps no running statistics, which the merge needs"
    return None
