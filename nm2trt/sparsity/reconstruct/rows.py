"""Input rows of a torch layer: what one output position reads, in the order kernel position, channel.

With rows in that order, groups of M neighbours are M channels at one kernel position, which is how N:M groups
lie in a convolution's weight. Rows times weights equals the layer's own output before its bias.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Rows:
    """The rows of one layer on one input.

    Args:
        module: The layer; a convolution's geometry is read off it.
        x: Its input: (n, c, spatial...) of a convolution, (..., d) otherwise.

    Attributes:
        count: Number of output positions, counted over samples and space.
        lead: Shape of the positions of a matrix, e.g. (samples, tokens); () of a convolution.
    """

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        self._steps: Tensor | None = None
        self.lead: tuple[int, ...] = ()
        if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            self._flat = x.reshape(-1, x.shape[-1])
            self.count, self.lead = len(self._flat), tuple(x.shape[:-1])
            return
        if x.ndim == module.weight.ndim - 1:
            x = x.unsqueeze(0)
        x = functional.pad(x, _padding(module))
        samples, channels, *sizes = x.shape
        spans = [(k - 1) * d + 1 for k, d in zip(module.kernel_size, module.dilation, strict=True)]
        self._out = [(n - s) // stride + 1 for n, s, stride in zip(sizes, spans, module.stride, strict=True)]
        self._flat = x.movedim(1, -1).reshape(-1, channels)
        self._pitches = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
        self._pixels, self._strides = math.prod(sizes), module.stride
        steps = [
            sum(i * d * p for i, d, p in zip(at, module.dilation, self._pitches, strict=True))
            for at in itertools.product(*(range(k) for k in module.kernel_size))
        ]
        self._steps = torch.tensor(steps, device=x.device)
        self.count = samples * math.prod(self._out)

    def at(self, picked: Tensor) -> Tensor:
        """Return the rows at output positions (p,), float32: (p, d), of a convolution (p, positions, c)."""
        if self._steps is None:
            return self._flat[picked].float()
        sample = picked // math.prod(self._out)
        start, left = sample * self._pixels, picked % math.prod(self._out)
        for axis, (stride, pitch) in enumerate(zip(self._strides, self._pitches, strict=True)):
            rest = math.prod(self._out[axis + 1 :])
            start, left = start + (left // rest) * (stride * pitch), left % rest
        return self._flat[start[:, None] + self._steps[None]].float()


def matrix(weight: Tensor) -> Tensor:
    """Return a stored weight as (outputs, inputs), inputs in the order kernel position, channel."""
    return weight.movedim(1, -1).reshape(weight.shape[0], -1)


def stored(rows: Tensor, shape: torch.Size) -> Tensor:
    """Return (outputs, inputs) in a stored weight's shape; the inverse of `matrix`."""
    return rows.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def _padding(module: Any) -> list[int]:
    """Return the padding as `functional.pad` takes it: the last dimension's first, before then after."""
    pads: list[int] = []
    for axis in reversed(range(len(module.kernel_size))):
        if module.padding == "valid":
            pads += [0, 0]
        elif module.padding == "same":
            total = module.dilation[axis] * (module.kernel_size[axis] - 1)
            pads += [total // 2, total - total // 2]
        else:
            pads += [module.padding[axis]] * 2
    return pads
