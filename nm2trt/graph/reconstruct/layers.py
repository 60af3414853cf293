"""Layers that can be rebuilt: their weight, bias and skip tensor, and the reason if one is left alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nm2trt.arrays import Array
from nm2trt.errors import SparsityError
from nm2trt.graph.reconstruct.network import Network
from nm2trt.graph.reconstruct.rows import Window
from nm2trt.graph.storage.light_onnx import is_default

# Operators whose weights are rebuilt.
REBUILT = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class Layer:
    """One Conv, Gemm or MatMul whose weight is a stored float tensor that nothing else reads.

    Args:
        index: Position of its node in the graph.
        label: The node's name.
        operator: The node's type.
        x: The value that it multiplies.
        output: The value that it makes.
        weight: Name of the stored weight.
        shape: The weight's shape.
        axis: Reduction axis of the weight.
        bias: Name of the stored bias, inside the node or in an Add after it; None without a bias.
        skip: The value that an Add after the layer adds to its output; None without such an Add.
        window: The convolution's geometry; None for a matrix.
        depthwise: Whether it is a convolution with one input channel per filter.
        transposed: Whether it multiplies its input transposed (Gemm's `transA`).
        alpha: What the product is multiplied by.
        beta: What the bias is multiplied by.
    """

    index: int
    label: str
    operator: str
    x: str
    output: str
    weight: str
    shape: tuple[int, ...]
    axis: int
    bias: str | None
    skip: str | None
    window: Window | None
    depthwise: bool
    transposed: bool = False
    alpha: float = 1.0
    beta: float = 1.0

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return self.shape[0] if self.window is not None or self.axis == 1 else self.shape[1]

    @property
    def channels(self) -> int:
        """Length of the reduction axis."""
        return self.shape[self.axis]

    @property
    def inputs(self) -> int:
        """Weights of one output."""
        return math.prod(self.shape) // self.outputs

    @property
    def effort(self) -> float:
        """Roughly the multiply-accumulates of a solve: its decomposition, and some hundred products."""
        if self.depthwise:
            return float(self.outputs * self.inputs**3)
        return float(self.inputs**2) * (40 * self.inputs + 200 * self.outputs)

    def multiplied(self, x: Array) -> Array:
        """Return the array (..., inputs) whose product with the weight the layer gives, of its input."""
        x = x.T if self.transposed else x
        return x if self.alpha == 1 else np.float32(self.alpha) * x

    def biased(self, bias: Array, change: Array) -> Array:
        """Return the stored bias that adds `change` (outputs,) to what a stored one adds."""
        return np.asarray(bias + change.reshape(bias.shape) / self.beta)

    def rebuilt(self, network: Network, rows: Array, bias_change: Array | None) -> dict[str, Array]:
        """Return a solved weight (outputs, inputs), and the bias that goes with it, as the model stores them.

        Raises:
            SparsityError: A number is not finite, or not in the type that the model stores it in.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            new = {self.weight: self.stored(rows).astype(network.dtype(self.weight))}
            if self.bias is not None and bias_change is not None:
                changed = self.biased(network.read(self.bias), bias_change)
                new[self.bias] = changed.astype(network.dtype(self.bias))
        for name, array in new.items():
            if not np.isfinite(array).all():
                what = "solution" if name == self.weight else "new bias"
                raise SparsityError(f"its {what} is not finite")
        return new

    def rows(self, weight: Array) -> Array:
        """Return a stored weight as (outputs, inputs), inputs in the order kernel position, channel."""
        if self.window is not None:
            return np.ascontiguousarray(np.moveaxis(weight, 1, -1).reshape(self.outputs, -1))
        return np.ascontiguousarray(weight if self.axis == 1 else weight.T)

    def stored(self, rows: Array) -> Array:
        """Return (outputs, inputs) in the layout of the stored weight; the inverse of `rows`."""
        if self.window is not None:
            kernel = (self.outputs, *self.shape[2:], self.shape[1])
            return np.ascontiguousarray(np.moveaxis(rows.reshape(kernel), -1, 1))
        return np.ascontiguousarray(rows if self.axis == 1 else rows.T)


def shares_done(layers: Sequence[Layer], skipped: Container[str] = ()) -> list[float]:
    """Return the part of the work (0..1) that is done in front of each layer.

    Args:
        layers: In the order of the graph.
        skipped: Weights that take no work.
    """
    efforts = (0.0 if layer.weight in skipped else layer.effort for layer in layers)
    before = [0.0, *itertools.accumulate(efforts)]
    return [done / (before[-1] or 1.0) for done in before[:-1]]


def find_layers(network: Network) -> tuple[list[Layer], dict[str, str]]:
    """Return the layers in the order of the graph, and a reason for each other node, by its label."""
    layers: list[Layer] = []
    declined: dict[str, str] = {}
    for index in network.dynamic:
        node = network.nodes[index]
        if not is_default(node) or node.op_type not in REBUILT:
            continue
        if len(node.input) < 2 or not network.is_constant(node.input[1]):
            if node.input and network.is_constant(node.input[0]):
                declined[network.label(index)] = "its weight is the left operand"
            continue  # else a product of activations
        found = _layer(network, index)
        if isinstance(found, Layer):
            layers.append(found)
        else:
            declined[network.label(index)] = found
    return layers, declined


def _layer(network: Network, index: int) -> Layer | str:
    node, attributes = network.nodes[index], network.attributes(index)
    weight = network.stored(node.input[1])
    if weight is None:
        return "its weight is computed, or not stored as float32, float16 or bfloat16"
    shape = network.shape(weight)
    obstacle = _shape_obstacle(node.op_type, shape, attributes)
    if obstacle:
        return obstacle
    if len(network.real_readers(weight)) != 1 or network.is_output(weight):
        return "its weight is read more than once"
    window = Window.of(shape, attributes) if node.op_type == "Conv" else None
    axis = 1 if window is not None or (node.op_type == "Gemm" and attributes.get("transB", 0)) else 0
    outputs = shape[0] if axis == 1 else shape[1]
    alpha, beta = (float(attributes.get(name, 1.0)) for name in ("alpha", "beta"))
    inside = _bias(network, node.input[2], outputs, 1) if len(node.input) > 2 and beta else None
    bias, skip = _after(network, index, inside, outputs, 1 if window is None else len(shape) - 1)
    return Layer(
        index=index,
        label=network.label(index),
        operator=node.op_type,
        x=node.input[0],
        output=node.output[0],
        weight=weight,
        shape=shape,
        axis=axis,
        bias=bias,
        skip=skip,
        window=window,
        depthwise=window is not None and int(attributes.get("group", 1)) > 1,
        transposed=node.op_type == "Gemm" and bool(attributes.get("transA", 0)),
        alpha=alpha,
        beta=beta if inside is not None else 1.0,
    )


def _shape_obstacle(operator: str, shape: tuple[int, ...], attributes: dict[str, Any]) -> str:
    if 0 in shape:
        return f"its shape {list(shape)} has no elements"
    if operator == "Conv":
        group = int(attributes.get("group", 1))
        if len(shape) < 3:
            return f"a convolution's weight has no shape {list(shape)}"
        if group > 1 and (shape[1] != 1 or shape[0] != group):
            return f"a convolution in {group} groups is not rebuilt"
        return ""
    if len(shape) != 2:
        return f"a weight of shape {list(shape)} is not a matrix"
    return ""


def _after(
    network: Network, index: int, bias: str | None, outputs: int, from_end: int
) -> tuple[str | None, str | None]:
    """Return the bias and the skip tensor that belong to a node.

    Args:
        network: The graph.
        index: The node.
        bias: The bias inside it.
        outputs: Number of output channels.
        from_end: Which dimension of the output holds them, from the end.
    """
    value = network.nodes[index].output[0]
    for _ in range(2):
        add = _only_add(network, value)
        if add is None:
            return bias, None
        at, other = add
        if not network.is_constant(other):
            return bias, other
        if bias is None:
            bias = _bias(network, other, outputs, from_end)
        value = network.nodes[at].output[0]
    return bias, None


def _only_add(network: Network, value: str) -> tuple[int, str] | None:
    """Return the Add that is a value's only reader, and its other operand."""
    readers = network.real_readers(value)
    if len(readers) != 1 or network.is_output(value):
        return None
    ((index, slot),) = readers
    node = network.nodes[index]
    if slot < 0 or node.op_type != "Add" or not is_default(node):
        return None
    return index, node.input[1 - slot]


def _bias(network: Network, value: str, outputs: int, from_end: int) -> str | None:
    """Return the stored tensor that adds one number per output channel, or None."""
    name = network.stored(value)
    if name is None or len(network.real_readers(name)) != 1 or network.is_output(name):
        return None
    shape = network.shape(name)
    per_channel = len(shape) >= from_end and shape[-from_end] == outputs == math.prod(shape)
    return name if per_channel else None
