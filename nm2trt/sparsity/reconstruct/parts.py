"""Parts of a torch model that can be rebuilt: a matrix, its bias, and the only reader of it, a BatchNorm."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nm2trt.errors import SparsifyError
from nm2trt.nm.axes import torch_weights
from nm2trt.sparsity.core.conv_norm_pairs import find_pairs
from nm2trt.sparsity.reconstruct.rows import matrix


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Rows of one weight that share an input.

    Args:
        weight: The weight's name in the model.
        module: The layer that owns it.
        tensor: The parameter's name in the layer.
        rows: The weight's rows.
        bias: The bias of the whole weight, or None.
        norm: The BatchNorm that is the layer's only reader, or None.
    """

    weight: str
    module: nn.Module
    tensor: str
    rows: slice
    bias: Tensor | None
    norm: _BatchNorm | None

    @property
    def depthwise(self) -> bool:
        """Whether it is a convolution with one input channel per filter."""
        return int(getattr(self.module, "groups", 1)) > 1

    @property
    def centred(self) -> bool:
        """Whether something can take up a difference of the means."""
        return self.bias is not None or self.norm is not None

    def of(self, stored: Tensor) -> Tensor:
        """Return a view of the part in a tensor of the weight's shape, the outputs on axis 0."""
        (axis,) = (w.axis for w in torch_weights(type(self.module)) if w.name == self.tensor)
        return (stored if axis else stored.T)[self.rows]

    def dense(self) -> Tensor:
        """Return the weight as the layer computes with it, (outputs, inputs), of a pruned one with zeros."""
        weight: Tensor = getattr(self.module, self.tensor)
        return matrix(self.of(weight.detach()))

    def scale(self) -> Tensor:
        """Return what the BatchNorm multiplies each output by, float64 (outputs,): ones without one."""
        norm = self.norm
        if norm is None or norm.running_var is None:
            weight = getattr(self.module, self.tensor)
            return torch.ones(len(self.of(weight)), dtype=torch.float64, device=weight.device)
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.detach().double()
        # An output that the BatchNorm switches off is fitted all the same, with next to no say in lambda.
        least = 1e-6 * float(scale.abs().max()) or 1.0
        return torch.where(scale.abs() < least, torch.full_like(scale, least), scale)

    def move_mean(self, change: Tensor) -> None:
        """Add a change (outputs,) to the layer's bias, or take it off the mean that the BatchNorm expects."""
        if self.bias is not None:
            self.bias[self.rows] += change.to(self.bias.dtype)
        elif self.norm is not None and self.norm.running_mean is not None:
            self.norm.running_mean -= change.to(self.norm.running_mean.dtype)


def obstacle(module: nn.Module) -> str | None:
    """Say why a layer cannot be rebuilt, or None when it can."""
    if isinstance(module, nn.Linear | nn.MultiheadAttention):
        return None
    if [weight.axis for weight in torch_weights(type(module))] == [0] and module.weight.ndim == 2:
        return None  # Conv1D of Hugging Face, no transposed convolution
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return f"{type(module).__name__} is not rebuilt"
    if module.padding_mode != "zeros":
        return f"padding_mode={module.padding_mode!r} is not rebuilt"
    depthwise = module.groups == module.in_channels == module.out_channels
    if module.groups > 1 and not depthwise:
        return f"a convolution in {module.groups} groups is not rebuilt"
    return None


def norms_behind(model: nn.Module, layers: Collection[str]) -> dict[str, _BatchNorm]:
    """Return the BatchNorm that is each layer's only reader; empty if torch.fx cannot trace the model."""
    try:
        pairs = find_pairs(model, layers).pairs
    except SparsifyError:
        return {}
    modules = dict(model.named_modules())
    return {name: norm for name, n in pairs.items() if isinstance(norm := modules[n], _BatchNorm)}
