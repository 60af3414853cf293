"""Fit a pruned model's layers, one after the other, to what the dense layers put out (ours, not the paper's).

One pass over some calibration samples records the dense model: outputs of the layers to be pruned, and
mean and variance in front of each BatchNorm. A second pass runs the pruned model on the same samples. When
it reaches a pruned layer, whose input X already bears the errors of the layers before it, the kept weights
of each output become the ridge regression

    min_w |y - (x - mean x) w|^2 + d |w - w0|^2,    y the centred dense outputs, w0 the weights as they were,

and a bias is set so that the means agree. When it reaches a BatchNorm, its running statistics are set so
that what it puts out has the mean and variance of the dense one; on the dense model that changes nothing,
unlike statistics collected anew, which follow the calibration pictures away from the training set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from nm2trt.sparsity.fcpts.calibration_batches import Batch, outputs_of
from nm2trt.sparsity.fcpts.distill import eval_mode

__all__ = ["LayerFit", "masked_regression"]

# How much a weight's distance from its old value counts, in mean squares of the inputs: a base, and a part
# that grows with inputs / rows, where few rows would be fitted with their noise.
_RIDGE, _RIDGE_OF_FEW = 0.01, 0.2
_ITERATIONS = 24
# Rows of a layer that are kept: enough to determine its weights, few enough for memory.
_ROWS = 8192


@dataclass(frozen=True, slots=True)
class _Moments:
    mean: Tensor
    variance: Tensor


class LayerFit:
    """What the dense model puts out at the layers that are pruned, and the fit to it.

    Args:
        model: Still dense.
        batches: Calibration input.
        layers: Names of convolutions and linear layers. Grouped convolutions are left as they are.
        samples: How many of the input's first ones are used, at once.
    """

    def __init__(
        self, model: nn.Module, batches: Sequence[Batch], layers: Sequence[str], *, samples: int
    ) -> None:
        self.model = model
        self.batch = _first(batches, samples)
        modules = dict(model.named_modules())
        self.layers = {name: modules[name] for name in layers if _can_be_fitted(modules[name])}
        self.outputs: dict[str, Tensor] = {}
        self.moments: dict[str, _Moments] = {}
        self.picked: dict[str, Tensor] = {}
        self._pass(self._record_output, self._record_moments, before=False)

    @torch.no_grad()
    def apply(self, masks: Mapping[str, Tensor], weights: Mapping[str, nn.Parameter]) -> None:
        """Fit the model, pruned by now.

        Args:
            masks: By layer, True where a weight is kept.
            weights: By layer, the dense parameter behind the mask, which is changed in place.
        """

        def fit(name: str, module: Any, inputs: Any) -> None:
            rows = _input_rows(module, inputs[0])[self.picked[name]].float()
            wanted = self.outputs[name].float()
            x_mean, y_mean = rows.mean(0), wanted.mean(0)
            if module.bias is None:
                x_mean, y_mean = torch.zeros_like(x_mean), torch.zeros_like(y_mean)
            rows, wanted = rows - x_mean, wanted - y_mean
            weight, mask = weights[name], masks[name].flatten(1)
            fitted = masked_regression(rows, wanted, mask, weight.detach().flatten(1).float())
            # Pruned entries keep their dense values: a later mask may take them back.
            weight.copy_(torch.where(mask, fitted, weight.flatten(1).float()).view_as(weight))
            if module.bias is not None:
                module.bias.copy_(y_mean - fitted @ x_mean)

        def match(name: str, module: Any, inputs: Any) -> None:
            now, dense = _moments(inputs[0]), self.moments[name]
            ratio = (now.variance + module.eps**2) / (dense.variance + module.eps**2)
            centre = now.mean - (dense.mean - module.running_mean) * ratio.sqrt()
            spread = ((module.running_var + module.eps) * ratio - module.eps).clamp(min=0)
            module.running_mean.copy_(centre)
            module.running_var.copy_(spread)

        self._pass(fit, match, before=True)

    def _record_output(self, name: str, module: Any, _inputs: Any, output: Tensor) -> None:
        rows = output.movedim(1, -1).flatten(0, -2) if _is_conv(module) else output.flatten(0, -2)
        wanted = max(_ROWS, 4 * module.weight[0].numel())
        generator = torch.Generator().manual_seed(0)
        picked = torch.randperm(len(rows), generator=generator)[:wanted].sort().values
        self.picked[name] = picked.to(output.device)
        self.outputs[name] = rows[self.picked[name]]

    def _record_moments(self, name: str, _module: Any, inputs: Any) -> None:
        self.moments[name] = _moments(inputs[0])

    @torch.no_grad()
    def _pass(self, at_layer: Callable[..., None], at_norm: Callable[..., None], *, before: bool) -> None:
        """Run the model once; call back before or after each layer, and before each BatchNorm."""
        seen: set[str] = set()

        def once(name: str, function: Callable[..., None]) -> Callable[..., None]:
            def hook(module: nn.Module, *arguments: Any) -> None:
                if name not in seen:
                    seen.add(name)
                    function(name, module, *arguments)

            return hook

        handles = []
        for name, layer in self.layers.items():
            register = layer.register_forward_pre_hook if before else layer.register_forward_hook
            handles.append(register(once(name, at_layer)))
        for name, module in self.model.named_modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                handles.append(module.register_forward_pre_hook(once(name, at_norm)))
        try:
            with eval_mode(self.model):
                outputs_of(self.model, self.batch, 0)
        finally:
            for handle in handles:
                handle.remove()


def masked_regression(rows: Tensor, wanted: Tensor, mask: Tensor, start: Tensor) -> Tensor:
    """Solve the ridge regression of each output over the inputs that its mask keeps.

    Args:
        rows: Inputs, floating (n, i).
        wanted: Outputs, (n, o).
        mask: True where a weight may be other than zero, (o, i).
        start: Weights to stay near, (o, i); those outside the mask do not count.

    Returns:
        (o, i), zero outside the mask: conjugate gradients for all outputs at once.
    """
    gram = rows.T @ rows / len(rows)
    tiny = torch.finfo(gram.dtype).tiny
    share = _RIDGE + _RIDGE_OF_FEW * rows.shape[1] / len(rows)
    ridge = share * gram.diagonal().mean() + tiny
    scale = mask / (gram.diagonal() + ridge)
    weight = start * mask
    left = (wanted.T @ rows / len(rows) - weight @ gram) * mask
    step = left * scale
    energy = (left * step).sum(1, keepdim=True)
    direction = step
    for _ in range(_ITERATIONS):
        curved = (direction @ gram + ridge * direction) * mask
        length = energy / (direction * curved).sum(1, keepdim=True).clamp(min=tiny)
        weight = weight + length * direction
        left = left - length * curved
        step = left * scale
        new_energy = (left * step).sum(1, keepdim=True)
        direction = step + direction * (new_energy / energy.clamp(min=tiny))
        energy = new_energy
    return weight


def _can_be_fitted(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)


def _is_conv(module: nn.Module) -> bool:
    return not isinstance(module, nn.Linear)


def _input_rows(module: Any, x: Tensor) -> Tensor:
    """Return what each output position reads, (positions, inputs), inputs in the weight's order."""
    if not _is_conv(module):
        return x.flatten(0, -2)
    if max(module.kernel_size) == 1 and not any(module.padding):
        strides = (slice(None), slice(None), *(slice(None, None, s) for s in module.stride))
        return x[strides].movedim(1, -1).flatten(0, -2)
    if x.ndim == 3:
        x = x.unsqueeze(2)
    flat = (
        (1, *module.kernel_size) if len(module.kernel_size) == 1 else module.kernel_size,
        (1, *module.dilation) if len(module.dilation) == 1 else module.dilation,
        (0, *module.padding) if len(module.padding) == 1 else module.padding,
        (1, *module.stride) if len(module.stride) == 1 else module.stride,
    )
    return functional.unfold(x, *flat).movedim(1, -1).flatten(0, -2)


def _moments(x: Tensor) -> _Moments:
    axes = [axis for axis in range(x.ndim) if axis != 1]
    variance, mean = torch.var_mean(x, axes, correction=0)
    return _Moments(mean, variance)


def _first(batches: Sequence[Batch], samples: int) -> Batch:
    """Join the first batches of equal shapes into one of at most that many samples, or the first alone."""
    taken = [batches[0]]
    for batch in batches[1:]:
        alike = [_shape(v) for v in (*batch.args, *batch.kwargs.values())] == [
            _shape(v) for v in (*taken[0].args, *taken[0].kwargs.values())
        ]
        if not alike or sum(b.samples for b in taken) + batch.samples > samples:
            break
        taken.append(batch)
    args = tuple(_joined([batch.args[i] for batch in taken]) for i in range(len(taken[0].args)))
    kwargs = {key: _joined([batch.kwargs[key] for batch in taken]) for key in taken[0].kwargs}
    return Batch(args, kwargs, sum(batch.samples for batch in taken))


def _shape(value: Any) -> Any:
    return tuple(value.shape[1:]) if isinstance(value, Tensor) else value


def _joined(values: Sequence[Any]) -> Any:
    return torch.cat(list(values)) if isinstance(values[0], Tensor) else values[0]
