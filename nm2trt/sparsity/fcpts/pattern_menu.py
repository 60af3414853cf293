"""FCPTS with N:M layers under one global rate: which layer takes which pattern of a menu (ours).

Each layer may stay dense or take a pattern that its channels allow. The choice needs `rate` of all weights
to be zero and costs least in all, where a layer's cost is either the squared distance of its sparsity from
the rate that thresholds learned for it, times its size, or the distillation loss with that layer alone
pruned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nm2trt.errors import SparsifyError
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.torch_mask import magnitude_mask
from nm2trt.sparsity.core.finalize import make_plain
from nm2trt.sparsity.core.layer_choice import Choice
from nm2trt.sparsity.core.method_spec import Request
from nm2trt.sparsity.fcpts.allocate import Allocation, allocate, erk_densities
from nm2trt.sparsity.fcpts.distill import Distiller
from nm2trt.sparsity.fcpts.options import FcptsOptions
from nm2trt.sparsity.fcpts.threshold_training import train_thresholds
from nm2trt.sparsity.fcpts.thresholds import ThresholdWeight

_SENSITIVITY_SAMPLES = 128


@dataclass(frozen=True, slots=True)
class _Layer:
    """One weight with its options: dense first, then patterns by their zeros."""

    choice: Choice
    patterns: tuple[NMPattern | None, ...]

    @property
    def name(self) -> str:
        return self.choice.entry.weight

    @property
    def tensor(self) -> Tensor:
        site = self.choice.sites[0]
        tensor: Tensor = getattr(site.module, site.tensor)
        return tensor

    @property
    def zeros(self) -> tuple[int, ...]:
        size = math.prod(self.choice.entry.shape)
        return tuple(0 if p is None else size * (p.m - p.n) // p.m for p in self.patterns)


def choose_patterns(request: Request, distiller: Distiller) -> tuple[tuple[Choice, ...], dict[str, Any]]:
    """Choose a pattern or dense for each layer, and return the choices with what was found on the way.

    Raises:
        SparsifyError: The rate is out of reach, or the pattern is given by name.
    """
    options: FcptsOptions = request.options
    rate = options.rate or 0.0
    layers = _layers(request, _menu(request))
    total = sum(math.prod(layer.choice.entry.shape) for layer in layers)
    most = sum(layer.zeros[-1] for layer in layers)
    needed = math.ceil(rate * total - 1e-9)
    if needed > most:
        raise SparsifyError(
            f"a rate of {rate:g} is out of reach: with the sparsest pattern in every layer that can hold one "
            f"{most / total:.3f} of all weights are zero; lower rate, or add patterns to menu"
        )
    open_layers = [layer for layer in layers if len(layer.patterns) > 1]
    saved = None if distiller.checkpoint is None else distiller.checkpoint.notes_of("distil")
    if saved is not None:
        chosen = {
            name: None if text is None else NMPattern.parse(text) for name, text in saved["chosen"].items()
        }
        facts: dict[str, Any] = dict(saved["facts"])
        distiller.learning_rates.update(saved.get("learning_rates", {}))
    else:
        costs, facts = _costs(request, distiller, open_layers, needed)
        found = allocate(costs, [layer.zeros for layer in open_layers], needed)
        chosen = {
            layer.name: layer.patterns[option]
            for layer, option in zip(open_layers, found.options, strict=True)
        }
        facts |= _summary(found, total)
    if distiller.checkpoint is not None:
        texts = {name: None if pattern is None else str(pattern) for name, pattern in chosen.items()}
        rates = dict(distiller.learning_rates)
        distiller.checkpoint.notes = {"chosen": texts, "facts": facts, "learning_rates": rates}
    return tuple(_decided(layer, chosen) for layer in layers), facts


def _menu(request: Request) -> tuple[NMPattern, ...]:
    options: FcptsOptions = request.options
    if isinstance(request.pattern, Mapping):
        raise SparsifyError("with rate= the layers' patterns are chosen; give one pattern, or menu=")
    given = options.menu if options.menu is not None else [str(request.pattern)]
    patterns = {NMPattern.parse(text) for text in given if text != "dense"}
    if not patterns:
        raise SparsifyError('the menu has no pattern; give at least one beside "dense", as in menu=["2:4"]')
    return tuple(sorted(patterns, key=lambda p: p.sparsity))


def _layers(request: Request, menu: Sequence[NMPattern]) -> tuple[_Layer, ...]:
    """List every weight with the patterns of the menu that it can take."""
    possible: dict[str, list[NMPattern]] = {}
    first: dict[str, Choice] = {}
    for pattern in menu:
        for choice in replace(request, pattern=pattern).choose():
            first.setdefault(choice.entry.weight, choice)
            if choice.entry.pattern is not None:
                first[choice.entry.weight] = choice
                possible.setdefault(choice.entry.weight, []).append(pattern)
    return tuple(_Layer(choice, (None, *possible.get(name, ()))) for name, choice in first.items())


def _costs(
    request: Request, distiller: Distiller, layers: Sequence[_Layer], needed: int
) -> tuple[list[list[float]], dict[str, Any]]:
    options: FcptsOptions = request.options
    if options.cost == "sensitivity":
        costs = [_sensitivity(layer, distiller) for layer in layers]
        named = {
            layer.name: {str(p or "dense"): c for p, c in zip(layer.patterns, row, strict=True)}
            for layer, row in zip(layers, costs, strict=True)
        }
        return costs, {"sensitivity": named}
    rates = _learned_rates(request, distiller, layers, needed)
    costs = [
        [layer.tensor.numel() * ((0.0 if p is None else p.sparsity) - rate) ** 2 for p in layer.patterns]
        for layer, rate in zip(layers, rates, strict=True)
    ]
    return costs, {"learned_rates": {layer.name: r for layer, r in zip(layers, rates, strict=True)}}


@torch.no_grad()
def _sensitivity(layer: _Layer, distiller: Distiller) -> list[float]:
    """Return the loss with this layer alone pruned, by option; dense costs nothing."""
    tensor, axis = layer.tensor, layer.choice.entry.axis
    dense = tensor.detach().clone()
    costs = []
    for pattern in layer.patterns:
        if pattern is None or axis is None:
            costs.append(0.0)
            continue
        tensor.mul_(magnitude_mask(dense, pattern, axis=axis))
        costs.append(distiller.loss(limit=_SENSITIVITY_SAMPLES))
        tensor.copy_(dense)
    return costs


def _learned_rates(
    request: Request, distiller: Distiller, layers: Sequence[_Layer], needed: int
) -> list[float]:
    """Learn unstructured rates for the layers that can be pruned; the weights are put back afterwards."""
    options: FcptsOptions = request.options
    rate = needed / sum(layer.tensor.numel() for layer in layers)
    densities = erk_densities([layer.choice.entry.shape for layer in layers], rate)
    steps = options.steps // 4
    if options.allocation != "learned" or steps == 0:
        return [rate if options.allocation == "uniform" else 1 - density for density in densities]
    tensors = {**dict(request.model.named_parameters()), **dict(request.model.named_buffers())}
    kept = [(tensor, tensor.detach().clone()) for tensor in tensors.values()]
    anywhere = [
        replace(layer.choice, entry=replace(layer.choice.entry, pattern=NMPattern(1, 1))) for layer in layers
    ]
    weights = request.parametrize(anywhere, ThresholdWeight)
    originals = [weight.original for weight in weights]
    sparse = [weight.sparse for weight in weights if isinstance(weight.sparse, ThresholdWeight)]
    for original, layer, density in zip(originals, sparse, densities, strict=True):
        layer.live = options.threshold_grad == "ste"
        layer.prune_smallest(original, round((1 - density) * original.numel()))
    settings = distiller.settings
    distiller.settings = options.settings(steps)
    train_thresholds(options, distiller, "rates", [w.name for w in weights], originals, sparse, rate)
    distiller.settings = settings
    with torch.no_grad():
        rates = [
            float((original.abs() < layer.threshold).double().mean())
            for original, layer in zip(originals, sparse, strict=True)
        ]
        for site in (site for weight in weights for site in weight.sites):
            make_plain(site.module)
        for tensor, value in kept:
            tensor.copy_(value)
    return rates


def _decided(layer: _Layer, chosen: Mapping[str, NMPattern | None]) -> Choice:
    if layer.name not in chosen:
        return layer.choice
    pattern = chosen[layer.name]
    names = ", ".join("dense" if p is None else str(p) for p in layer.patterns)
    reason = f"chosen under the global rate from {names}"
    return replace(layer.choice, entry=replace(layer.choice.entry, pattern=pattern, reason=reason))


def _summary(found: Allocation, total: int) -> dict[str, Any]:
    return {
        "allocated_rate": found.zeros / total,
        "allocation_cost": found.cost,
        "allocation_exact": found.exact,
    }
