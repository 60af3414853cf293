"""Input rows of a layer: what one output position reads, in the order kernel position, channel.

With rows in that order, groups of M neighbours are M channels at one kernel position, which is how N:M groups
lie in a stored convolution. Rows times weights equals the node's own output. Rows are float32.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nm2trt.arrays import Array


@dataclass(frozen=True, slots=True)
class Window:
    """Geometry of a convolution, of any number of spatial dimensions.

    Args:
        kernel: Kernel sizes.
        strides: Strides.
        dilations: Dilations.
        pads: Padding before each dimension, then after each.
        auto_pad: ONNX's `auto_pad`.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str

    @classmethod
    def of(cls, shape: tuple[int, ...], attributes: Mapping[str, Any]) -> Window:
        """Read the geometry off a Conv's weight shape and attributes."""
        kernel = tuple(shape[2:])
        ones = (1,) * len(kernel)
        return cls(
            kernel,
            tuple(attributes.get("strides", ones)),
            tuple(attributes.get("dilations", ones)),
            tuple(attributes.get("pads", (0,) * (2 * len(kernel)))),
            str(attributes.get("auto_pad", "NOTSET")),
        )

    def placed(self, sizes: tuple[int, ...]) -> tuple[list[tuple[int, int]], tuple[int, ...]]:
        """Return padding (before, after) and output size of each dimension for an input of these sizes."""
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        if self.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            pads = []
            for size, stride, span in zip(sizes, self.strides, reach, strict=True):
                total = max((math.ceil(size / stride) - 1) * stride + span - size, 0)
                front = total // 2 if self.auto_pad == "SAME_UPPER" else total - total // 2
                pads.append((front, total - front))
        elif self.auto_pad == "VALID":
            pads = [(0, 0)] * len(sizes)
        else:
            pads = list(zip(self.pads[: len(sizes)], self.pads[len(sizes) :], strict=True))
        out = tuple(
            (size + sum(pad) - span) // stride + 1
            for size, pad, span, stride in zip(sizes, pads, reach, self.strides, strict=True)
        )
        return pads, out


def conv_rows(window: Window, x: Array, picked: Array | None) -> Array:
    """Return the rows of a convolution.

    Args:
        window: Its geometry.
        x: Its input, (n, c, spatial...).
        picked: Output positions, counted over samples and space, (p,); None for all.

    Returns:
        (p, kernel positions, c).
    """
    pads, out = window.placed(x.shape[2:])
    if any(any(pad) for pad in pads):
        x = np.pad(x, [(0, 0), (0, 0), *pads])
    samples, channels, *sizes = x.shape
    # Channels last, so that a kernel position's channels are one run of memory.
    flat = np.ascontiguousarray(x.reshape(samples, channels, -1).transpose(0, 2, 1)).reshape(-1, channels)
    if picked is None:
        picked = np.arange(samples * math.prod(out))
    sample, position = np.divmod(picked, math.prod(out))
    starts = sample * math.prod(sizes)
    pitches = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    for at, stride, pitch in zip(np.unravel_index(position, out), window.strides, pitches, strict=True):
        starts = starts + at * (stride * pitch)
    steps = [
        sum(i * dilation * pitch for i, dilation, pitch in zip(at, window.dilations, pitches, strict=True))
        for at in itertools.product(*(range(k) for k in window.kernel))
    ]
    return _float32(flat[starts[:, None] + np.array(steps)[None]])


def matrix_rows(x: Array, picked: Array | None) -> Array:
    """Return the rows (p, d) of a product whose left operand is x (..., d)."""
    rows = x.reshape(-1, x.shape[-1])
    return _float32(rows if picked is None else rows[picked])


def output_rows(y: Array, picked: Array, *, convolution: bool) -> Array:
    """Return a layer's outputs (p, o), or those of a tensor of the same shape, at picked positions."""
    if convolution:
        y = y.reshape(*y.shape[:2], -1).transpose(0, 2, 1)
    return _float32(y.reshape(-1, y.shape[-1])[picked])


def _float32(array: Array) -> Array:
    return np.asarray(array, np.float32)
