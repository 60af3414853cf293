"""Fold BatchNormalization into the Conv, ConvTranspose or Gemm in front of it.

With t = scale / sqrt(variance + epsilon), a channel becomes

    t * (W x + b - mean) + shift  =  (t W) x + t (b - mean) + shift

so each output channel of the weight is scaled and a bias is added. Groups lie along input channels, so a
pattern can only gain zeros (where t is 0). Everything is computed in float64 and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nm2trt.arrays import Array
from nm2trt.errors import LineageError
from nm2trt.graph.edit.editor import Editor
from nm2trt.graph.edit.graph_view import Declined
from nm2trt.graph.storage.model import opset

_FIRST_INFERENCE_OPSET, _FIRST_SPATIAL_OPSET = 7, 9
_STATISTICS = ("scale", "shift", "running mean", "running variance")


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """What a BatchNormalization does to each channel, in float64.

    Args:
        scale: (C,) factor.
        shift: (C,) addend.
    """

    scale: Array
    shift: Array


def read_batchnorm(editor: Editor, index: int) -> Affine:
    """Return what a BatchNormalization computes.

    Raises:
        Declined: Its statistics are missing, not constant, negative or not finite, or it is in training mode.
    """
    node, attributes = editor.nodes[index], editor.attributes(index)
    version = opset(editor.model.proto) or 1
    old = version < _FIRST_INFERENCE_OPSET and not attributes.get("is_test", 0)
    if attributes.get("training_mode", 0) or old:
        raise Declined("it runs in training mode")
    if version < _FIRST_SPATIAL_OPSET and not attributes.get("spatial", 1):
        raise Declined("it normalises every position by itself (spatial=0)")
    for name in node.output[1:]:
        if name and (editor.readers.get(name) or name in editor.pinned):
            raise Declined(f"another node reads its running statistics {name!r}")
    parts = [
        editor.array(name, what).astype(np.float64).reshape(-1)
        for name, what in zip(node.input[1:5], _STATISTICS, strict=True)
    ]
    scale, shift, mean, variance = parts
    if len({part.size for part in parts}) != 1:
        raise Declined(f"its statistics have {[part.size for part in parts]} elements")
    for part, what in zip(parts, _STATISTICS, strict=True):
        if not np.isfinite(part).all():
            raise Declined(f"its {what} holds NaN or infinity")
    # The default is a float attribute too, so it is rounded like one.
    epsilon = attributes.get("epsilon", 1e-5)
    if not isinstance(epsilon, float):
        raise Declined(f"its epsilon is {epsilon!r}")
    epsilon = float(np.float32(epsilon))
    bad = np.flatnonzero((variance < 0) | (variance + epsilon <= 0))
    if bad.size:
        channel = int(bad[0])
        raise Declined(f"its running variance is {variance[channel]:g} at channel {channel}, not positive")
    factor = scale / np.sqrt(variance + epsilon)
    return Affine(factor, shift - mean * factor)


def fold_batchnorm(editor: Editor, index: int) -> int:
    """Fold one BatchNormalization into the operator in front of it.

    Returns:
        Weights that became zero.

    Raises:
        Declined: It cannot be folded; the graph is as it was.
        LineageError: A zero of the weight became a number.
    """
    if len(editor.nodes[index].input) < 5 or not all(editor.nodes[index].input[:5]):
        raise Declined("its statistics are missing")
    value = editor.nodes[index].input[0]
    source = editor.producer(value, *_FOLDS)
    if source is None:
        made = editor.producers.get(value)
        origin = f"{value!r}" if made is None else f"{editor.nodes[made].op_type} at {editor.label(made)}"
        raise Declined(f"its input comes from {origin}, not from a Conv, ConvTranspose or Gemm")
    obstacle = editor.obstacle(value, index)
    if obstacle:
        raise Declined(obstacle)
    affine = read_batchnorm(editor, index)
    node = editor.nodes[source]
    if len(node.input) < 2 or not node.input[1]:
        raise Declined(f"{editor.label(source)} has no weight")
    weight = editor.array(node.input[1], "weight")
    bias = editor.bias(source, weight)
    new_weight, new_bias = _FOLDS[node.op_type](weight, bias, affine, editor.attributes(source))
    what = f"the merged weight of {editor.label(source)}"
    folded = rounded(new_weight, weight.dtype, what)
    shifted = rounded(new_bias, weight.dtype, f"the merged bias of {editor.label(source)}")
    zeros = _check_subset(folded, weight, editor.label(source))
    names = editor.source_name(node.input[1]), editor.bias_name(source)
    weight_name = editor.add_tensor(folded, names[0], like=node.input[1])
    editor.set_input(source, 2, editor.add_tensor(shifted, names[1], like=node.input[1]))
    editor.set_input(source, 1, weight_name)
    if node.op_type == "Gemm":
        for attribute in node.attribute:
            if attribute.name == "beta":
                attribute.f = 1.0
    editor.take_output(source, index)
    return zeros


def rounded(array: Array, dtype: npt.DTypeLike, what: str) -> Array:
    """Round float64 results to a weight's dtype.

    Raises:
        Declined: A number is too large for it.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        result = array.astype(dtype)
    if not np.isfinite(result).all():
        largest = float(np.abs(array[np.isfinite(array)]).max(initial=0.0))
        finite = bool(np.isfinite(array).all())
        reason = f"up to {largest:.3g} overflows {np.dtype(dtype)}" if finite else "has NaN or infinity"
        raise Declined(f"{what} {reason}")
    return np.asarray(result)


def _check_subset(new: Array, old: Array, label: str) -> int:
    """Return how many weights became zero.

    Raises:
        LineageError: A zero became a number.
    """
    before, after = np.asarray(old != 0), np.asarray(new != 0)
    if bool((after & ~before).any()):
        raise LineageError(f"folding into {label} turned a zero weight into a number; nothing was written")
    return int(np.count_nonzero(before)) - int(np.count_nonzero(after))


def _channels(affine: Affine, count: int) -> None:
    if affine.scale.size != count:
        raise Declined(
            f"it has {affine.scale.size} channels, but the operator in front of it gives {count}; "
            "the model is not valid"
        )


def _check_kernel(weight: Array) -> None:
    if weight.ndim < 3:
        raise Declined(f"the weight in front of it has shape {list(weight.shape)}, which no kernel has")


def _conv(weight: Array, bias: Array | None, affine: Affine, _: dict[str, Any]) -> tuple[Array, Array]:
    _check_kernel(weight)
    _channels(affine, weight.shape[0])
    factor = affine.scale.reshape(-1, *[1] * (weight.ndim - 1))
    return weight.astype(np.float64) * factor, _shifted(bias, affine)


def _conv_transpose(
    weight: Array, bias: Array | None, affine: Affine, attributes: dict[str, Any]
) -> tuple[Array, Array]:
    # (I, O/g, k...): output channel j of group n is column j of that group's rows.
    _check_kernel(weight)
    groups = attributes.get("group", 1)
    inputs, outputs, *kernel = weight.shape
    if not isinstance(groups, int) or groups < 1 or inputs % groups:
        raise Declined(f"its {inputs} input channels do not divide into {groups} groups")
    _channels(affine, outputs * groups)
    split = weight.astype(np.float64).reshape(groups, inputs // groups, outputs, math.prod(kernel))
    scaled = split * affine.scale.reshape(groups, 1, outputs, 1)
    return scaled.reshape(weight.shape), _shifted(bias, affine)


def _gemm(
    weight: Array, bias: Array | None, affine: Affine, attributes: dict[str, Any]
) -> tuple[Array, Array]:
    if weight.ndim != 2:
        raise Declined(f"its weight has shape {list(weight.shape)}, not two dimensions")
    transposed = bool(attributes.get("transB", 0))
    outputs = weight.shape[0 if transposed else 1]
    _channels(affine, outputs)
    factor = affine.scale.reshape((-1, 1) if transposed else (1, -1))
    if bias is not None:
        if bias.size not in (1, outputs) or (bias.size == outputs and bias.shape[-1:] != (outputs,)):
            raise Declined(f"its addend of shape {list(bias.shape)} is not a bias of {outputs} channels")
        beta = float(attributes.get("beta", 1.0))
        bias = np.broadcast_to(bias.astype(np.float64).reshape(-1) * beta, (outputs,))
    return weight.astype(np.float64) * factor, _shifted(bias, affine)


def _shifted(bias: Array | None, affine: Affine) -> Array:
    if bias is None:
        return affine.shift
    if bias.shape != affine.shift.shape:
        raise Declined(f"its bias has shape {list(bias.shape)}, not {list(affine.shift.shape)}")
    return np.asarray(bias.astype(np.float64) * affine.scale + affine.shift)


_FOLDS: dict[str, Callable[[Array, Array | None, Affine, dict[str, Any]], tuple[Array, Array]]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
}
