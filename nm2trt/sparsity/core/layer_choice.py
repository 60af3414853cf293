"""Choice of the weights that become sparse, and why the others stay dense.

A weight is a candidate when its layer stands in `nm2trt.nm.axes.TORCH_WEIGHTS`. It becomes sparse when
its reduction axis (for a convolution with groups: each group's part of it) is a multiple of M, the layer
has at least `min_channels` input channels, and no glob says otherwise. nn.LSTM, nn.GRU and nn.RNN, for
which no sparse kernel is known, must be named. Every candidate gets an entry with a reason, sparse or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod

from nm2trt.errors import SparsifyError
from nm2trt.nm.axes import TORCH_WEIGHTS, TorchWeight, torch_weights
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import PlanEntry, check_globs, dense_by_name, dense_by_size, matching

PatternChoice: TypeAlias = str | NMPattern | Mapping[str, str | NMPattern | None]


@dataclass(frozen=True, slots=True)
class Site:
    """One place where a model reads a weight.

    Args:
        module: The layer.
        module_name: Its name in the model; "" for the model itself.
        tensor: The parameter's name in the layer, e.g. "weight".
    """

    module: nn.Module
    module_name: str
    tensor: str

    @property
    def weight_name(self) -> str:
        """Name of the weight in the model, e.g. "layer1.0.conv1.weight"."""
        return f"{self.module_name}.{self.tensor}" if self.module_name else self.tensor


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided for one weight.

    Args:
        entry: The plan's entry, under the first site's name.
        sites: Every layer that reads the weight; more than one when layers share it.
    """

    entry: PlanEntry
    sites: tuple[Site, ...]


@dataclass(frozen=True, slots=True)
class _Rules:
    patterns: tuple[tuple[str, NMPattern | None], ...]
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    min_channels: int
    unstructured: bool
    dense: Mapping[str, str]


def select(
    model: nn.Module,
    pattern: PatternChoice,
    *,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    min_channels: int = 16,
    unstructured: bool = False,
    dense: Mapping[str, str] | None = None,
) -> tuple[Choice, ...]:
    """Decide for every matrix-product weight of a model whether it becomes sparse.

    Args:
        model: The model; it is not changed.
        pattern: One pattern for all layers, or globs on names with a pattern each (None: stays dense).
            The first glob that matches decides; a layer that none matches stays dense.
        include: Globs on the names of modules or weights. When given, all others stay dense. A full name,
            without wildcards, also makes a layer sparse that has fewer than `min_channels`, or is an LSTM,
            GRU or RNN.
        exclude: Globs on the names of modules or weights that stay dense; stronger than `include`.
        min_channels: Fewest input channels of a sparse layer.
        unstructured: Zeros may stand anywhere: depthwise and narrow layers qualify too, and `min_channels` is
            not looked at.
        dense: Names of weights that stay dense because sparsity would not pay, each with its reason; weaker
            than a full name in `include`.

    Returns:
        One choice a weight, in the order of the model's modules.

    Raises:
        PatternError: A pattern cannot be read.
        SparsifyError: A glob matches no layer, a parameter has no shape yet, or a weight is sparse already.
    """
    rules = _Rules(
        _patterns(pattern), _globs(include), _globs(exclude), min_channels, unstructured, dense or {}
    )
    sites: dict[int, list[tuple[Site, TorchWeight]]] = {}
    names: list[str] = []
    for site, where in _candidates(model):
        tensor = _tensor(site)
        # A computed weight is a temporary: its memory says nothing.
        alone = stored(site.module, site.tensor) is None
        key = -id(site.module) if alone else _identity(tensor)
        sites.setdefault(key, []).append((site, where))
        names.extend((site.module_name, site.weight_name))
    _check_globs(rules, names)
    if rules.dense and not any(name in rules.dense for name in names):
        raise SparsifyError(
            f"gain: none of its weights, first {next(iter(rules.dense))!r}, is one of the "
            "model's; export the model with its parameters' names"
        )
    foreign = _foreign_owners(model, sites)
    return tuple(
        Choice(_decide(group, rules, foreign.get(key)), tuple(site for site, _ in group))
        for key, group in sites.items()
    )


def _patterns(pattern: PatternChoice) -> tuple[tuple[str, NMPattern | None], ...]:
    if isinstance(pattern, Mapping):
        if not pattern:
            raise SparsifyError("the patterns by name are empty; give at least one glob, as in {'*': '2:4'}")
        return tuple((g, None if p is None else NMPattern.parse(p)) for g, p in pattern.items())
    return (("*", NMPattern.parse(pattern)),)


def _globs(globs: str | Sequence[str]) -> tuple[str, ...]:
    return (globs,) if isinstance(globs, str) else tuple(globs)


def _candidates(model: nn.Module) -> Iterator[tuple[Site, TorchWeight]]:
    for name, module in model.named_modules():
        for where in _weights_of(module):
            # A quantised layer has a method of that name.
            if isinstance(getattr(module, where.name, None), Tensor):
                yield Site(module, name, where.name), where
        if isinstance(module, nn.RNNBase):
            for tensor in module._flat_weights_names:
                if tensor.startswith("weight_"):
                    yield Site(module, name, tensor), TorchWeight(tensor, 1)


def _weights_of(module: nn.Module) -> tuple[TorchWeight, ...]:
    if isinstance(module, torch.jit.ScriptModule):  # its class is torch's own
        return TORCH_WEIGHTS.get(str(module.original_name), ())
    return torch_weights(type(module))


def stored(module: nn.Module, tensor: str) -> nn.Parameter | None:
    """Return a layer's own parameter of this name; None if it has none, or computes it."""
    # `_parameters` is not a dictionary in a module that torch.jit has compiled.
    return dict(module.named_parameters(recurse=False, remove_duplicate=False)).get(tensor)


def _tensor(site: Site) -> Tensor:
    """Return the stored parameter; with a parametrisation, the tensor that the layer computes."""
    found = stored(site.module, site.tensor)
    if isinstance(found, UninitializedParameter):
        raise SparsifyError(f"{site.weight_name} has no shape yet; run one batch through the model first")
    if found is not None:
        return found
    if parametrize.is_parametrized(site.module, site.tensor):
        parametrizations = site.module.parametrizations[site.tensor]  # type: ignore[index]
        if any(getattr(p, "nm2trt_method", None) for p in parametrizations):
            raise SparsifyError(f"{site.weight_name} is attached to a method already; call finalize() first")
    tensor: Tensor = getattr(site.module, site.tensor)
    return tensor


def _identity(tensor: Tensor) -> int:
    """Name a tensor by its memory, so that a weight tied through `.data` is found too."""
    if tensor.device.type == "meta" or tensor.numel() == 0 or type(tensor.data) is not Tensor:
        return id(tensor)
    return tensor.data_ptr()


def _foreign_owners(model: nn.Module, sites: Mapping[int, object]) -> dict[int, str]:
    """Find parameters of layers outside the table that share memory with a candidate."""
    own = {
        (id(site.module), site.tensor)
        for group in sites.values()
        for site, _ in group  # type: ignore[attr-defined]
    }
    found: dict[int, str] = {}
    for name, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is None or isinstance(parameter, UninitializedParameter) or (id(module), key) in own:
                continue
            if _identity(parameter) in sites:
                found[_identity(parameter)] = f"{name}.{key}" if name else key
    return found


def _check_globs(rules: _Rules, names: Sequence[str]) -> None:
    patterns = tuple(glob for glob, _ in rules.patterns)
    given = {"include": rules.include, "exclude": rules.exclude, "pattern": patterns}
    check_globs(given, names, kind="layer", error=SparsifyError)


def _decide(group: Sequence[tuple[Site, TorchWeight]], rules: _Rules, foreign: str | None) -> PlanEntry:
    site, where = group[0]
    tensor = _tensor(site)
    shape = tuple(tensor.shape)
    pattern = _pattern_for(site, rules)
    reason = _dense_reason(site, where, shape, pattern, rules)
    if reason is None and foreign is not None:
        reason = f"tied to {foreign}, which does not multiply a matrix"
    if reason is None:
        for other, other_where in group[1:]:
            if other_where.axis != where.axis or _tensor(other).shape != tensor.shape:
                reason = f"tied to {other.weight_name}, which reduces over another axis"
            elif _pattern_for(other, rules) != pattern or _excluded(other, rules):
                reason = f"tied to {other.weight_name}, which was given another pattern"
    if reason is not None:
        return PlanEntry(site.weight_name, None, reason, shape, where.axis)
    shared = f", shared with {group[1][0].weight_name}" if len(group) > 1 else ""
    reason = f"{shape[where.axis]} elements on axis {where.axis}{shared}"
    return PlanEntry(site.weight_name, pattern, reason, shape, where.axis)


def _pattern_for(site: Site, rules: _Rules) -> NMPattern | None:
    glob = matching([glob for glob, _ in rules.patterns], _names(site))
    return None if glob is None else dict(rules.patterns)[glob]


def _excluded(site: Site, rules: _Rules) -> str | None:
    return dense_by_name(_names(site), rules.include, rules.exclude, kind="layer")


def _names(site: Site) -> tuple[str, str]:
    return site.module_name, site.weight_name


def foreign_class(tensor: Tensor) -> str:
    """Name a class outside PyTorch that computes by itself, such as torchao's: it has few operators."""
    kind: Any = type(tensor.data)
    plain = kind.__torch_dispatch__ is Tensor.__torch_dispatch__
    return "" if plain or kind.__module__.partition(".")[0] == "torch" else str(kind.__name__)


def _dense_reason(
    site: Site, where: TorchWeight, shape: tuple[int, ...], pattern: NMPattern | None, rules: _Rules
) -> str | None:
    """Say why a weight stays dense, or None when it may be sparse."""
    excluded = _excluded(site, rules)
    if excluded is not None:
        return excluded
    if pattern is None:
        return "no pattern is given for its name"
    if isinstance(site.module, torch.jit.ScriptModule):
        return "its layer is compiled by torch.jit, which no method can change; sparsify first, then compile"
    named = site.module_name in rules.include or site.weight_name in rules.include
    if isinstance(site.module, nn.RNNBase) and not named:
        kind = type(site.module).__name__
        return f"{kind} has no known sparse kernel; name it in include to train it sparse"
    if stored(site.module, site.tensor) is None:
        hooks = site.module._forward_pre_hooks.values()
        if any(isinstance(hook, BasePruningMethod) and hook._tensor_name == site.tensor for hook in hooks):
            remove = f"torch.nn.utils.prune.remove(module, {site.tensor!r})"
            return f"torch.nn.utils.prune still holds it; call {remove}, which keeps the zeros, then sparsify"
        return "it is computed by another parametrisation"
    foreign = foreign_class(_tensor(site))
    if foreign:
        return f"it is of class {foreign}, not a plain tensor"
    if not _tensor(site).is_floating_point():
        return f"its dtype {str(_tensor(site).dtype).removeprefix('torch.')} is not a floating-point type"
    if 0 in shape:
        return f"its shape {shape} holds no values"
    if rules.unstructured:
        return None
    conv_groups = int(getattr(site.module, "groups", 1))
    transposed = where.axis == 0 and len(shape) > 2
    channels = shape[where.axis] if transposed else shape[where.axis] * conv_groups
    if conv_groups > 1 and channels == conv_groups:
        return dense_by_size(channels, conv_groups, pattern, least=0)
    if site.weight_name in rules.dense and not named:
        return f"2:4 would not pay: {rules.dense[site.weight_name]}"
    return dense_by_size(channels, conv_groups, pattern, least=0 if named else rules.min_channels)


def check_finite(name: str, tensor: Tensor, advice: str = "repair it before pruning") -> None:
    """Raise SparsifyError when a weight holds NaN or infinity."""
    if tensor.device.type != "meta" and not bool(torch.isfinite(tensor.detach()).all()):
        raise SparsifyError(f"{name} holds NaN or infinity; {advice}")
