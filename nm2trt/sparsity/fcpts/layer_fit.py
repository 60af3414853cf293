"""Repair of a pruned network by least squares, layer by layer: the values on masks that are given.

Each layer in turn gets the weights, on its mask, and the bias that bring its outputs on the pruned network's
activations nearest to the dense network's; see `nm2trt.nm.solver` and `nm2trt.sparsity.reconstruct`.
A BatchNorm that reads no fitted layer alone gets running statistics with which its outputs have the mean and
variance of the dense ones; on the dense model that changes nothing, unlike statistics collected anew, which
follow the calibration pictures away from the training set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nm2trt.errors import SparsityError
from nm2trt.nm.solver.layer_moments import Sums
from nm2trt.sparsity.core.calibration_batches import CalibrationBatch, joined
from nm2trt.sparsity.core.layer_choice import Choice
from nm2trt.sparsity.reconstruct.parts import Part
from nm2trt.sparsity.reconstruct.solve import described, layers_of, solve_part
from nm2trt.sparsity.reconstruct.walk import Walk


@dataclass(frozen=True, slots=True)
class _Statistics:
    mean: Tensor
    variance: Tensor


class LayerFit:
    """What the dense model makes at the layers that are pruned, and the fit to it.

    Args:
        model: Still dense.
        batches: Calibration input.
        choices: The weights that are pruned. Convolutions in groups, and layers that are called more than
            once, are left as they are.
        samples: How many of the input's first ones are used, at once.

    Attributes:
        fits: Lambda and errors of the layers that were fitted, by weight, one entry per part.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[CalibrationBatch],
        choices: Sequence[Choice],
        *,
        samples: int,
    ) -> None:
        self.model = model
        self.fits: dict[str, list[dict[str, Any]]] = {}
        layers, _ = layers_of(model, choices)
        grouped = [n for n in layers if int(getattr(model.get_submodule(n), "groups", 1)) > 1]
        for name in grouped:
            del layers[name]
        self._statistics: dict[str, _Statistics] = {}
        norms = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, _BatchNorm) and module.running_mean is not None
        }
        watching = [
            module.register_forward_pre_hook(_once(self._record(name))) for name, module in norms.items()
        ]
        try:
            self._walk = Walk(model, joined(batches, samples), layers)
        finally:
            for handle in watching:
                handle.remove()
        paired = {id(norm) for norm in self._walk.norms.values()}
        self._loose = {name: norm for name, norm in norms.items() if id(norm) not in paired}

    @torch.no_grad()
    def apply(self, masks: Mapping[str, Tensor], weights: Mapping[str, nn.Parameter]) -> None:
        """Fit the model, pruned by now.

        Args:
            masks: By weight, True where it is kept.
            weights: By weight, the dense parameter below the mask, which is changed in place.
        """

        def solve(part: Part, fitted: Sums, held: Sums | None) -> None:
            try:
                fit, _ = solve_part(
                    self._walk, part, (fitted, held), weights[part.weight].data, mask=masks[part.weight]
                )
            except SparsityError:
                return  # it stays as it was pruned
            self.fits.setdefault(part.weight, []).append(described(fit))

        hooks = [(norm, _once(self._match(name))) for name, norm in self._loose.items()]
        self._walk.solve(solve, hooks)

    def _record(self, name: str) -> Callable[[Any, Any], None]:
        def hook(_module: Any, inputs: Any) -> None:
            self._statistics[name] = _statistics(inputs[0])

        return hook

    def _match(self, name: str) -> Callable[[Any, Any], None]:
        def hook(module: Any, inputs: Any) -> None:
            now, dense = _statistics(inputs[0]), self._statistics[name]
            ratio = (now.variance + module.eps**2) / (dense.variance + module.eps**2)
            centre = now.mean - (dense.mean - module.running_mean) * ratio.sqrt()
            spread = ((module.running_var + module.eps) * ratio - module.eps).clamp(min=0)
            module.running_mean.copy_(centre)
            module.running_var.copy_(spread)

        return hook


def _once(function: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    seen = False

    def hook(module: nn.Module, inputs: Any) -> None:
        nonlocal seen
        if not seen:
            seen = True
            function(module, inputs)

    return hook


def _statistics(x: Tensor) -> _Statistics:
    axes = [axis for axis in range(x.ndim) if axis != 1]
    variance, mean = torch.var_mean(x, axes, correction=0)
    return _Statistics(mean, variance)
