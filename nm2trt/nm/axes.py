"""The reduction axis of every weight, by torch layer and by ONNX operator: the only such table.

A weight's *reduction axis* is the one that its operator sums over: input channels for a convolution,
the shared dimension for a matrix product. N:M groups are M consecutive elements of that axis.

| weight                      | shape             | reduction axis                              |
|-----------------------------|-------------------|---------------------------------------------|
| Conv, DeformConv            | (O, I/g, k...)    | 1                                           |
| ConvTranspose               | (I, O/g, k...)    | 0, in `group` separate runs                 |
| Linear                      | (out, in)         | 1                                           |
| Conv1D of Hugging Face      | (in, out)         | 0                                           |
| Gemm A, B                   |                   | 0 if transA else 1; 1 if transB else 0      |
| MatMul left, right          |                   | -1; -2 (a vector: 0)                        |
| Einsum                      |                   | the one label that the operands contract    |
| LSTM, GRU, RNN: W, R        | (d, gates·H, in)  | 2                                           |
| LSTMCell, GRUCell, RNNCell  | (gates·H, in)     | 1                                           |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Attributes = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OnnxWeight:
    """How one operator reads a weight.

    Args:
        axis: Reduction axis, not negative.
        runs: Equal parts of the axis that are reduced separately (ConvTranspose's groups); a group of M
            may not cross from one to the next.
        convolution: Whether the operator is a convolution, so that dimensions may be kernel positions.
    """

    axis: int
    runs: int = 1
    convolution: bool = False


@dataclass(frozen=True, slots=True)
class TorchWeight:
    """Where a torch layer keeps a weight.

    Args:
        name: Parameter name in the layer.
        axis: Reduction axis.
    """

    name: str
    axis: int


_Rule = Callable[[int, Attributes], "OnnxWeight | None"]


def _conv(rank: int, _: Attributes) -> OnnxWeight | None:
    return OnnxWeight(1, convolution=True) if rank >= 3 else None


def _recurrent(rank: int, _: Attributes) -> OnnxWeight | None:
    return OnnxWeight(2) if rank == 3 else None


def _conv_transpose(rank: int, attributes: Attributes) -> OnnxWeight | None:
    runs = max(1, int(attributes.get("group", 1)))
    return OnnxWeight(0, runs=runs, convolution=True) if rank >= 3 else None


def _matrix(plain_axis: int, flag: str = "") -> _Rule:
    """Build the rule of a product that reads the last two dimensions, or a vector; `flag` is "A" or "B"."""

    def rule(rank: int, attributes: Attributes) -> OnnxWeight | None:
        if rank < 1:
            return None
        if rank == 1:
            return OnnxWeight(0)
        axis = -3 - plain_axis if flag and attributes.get(f"trans{flag}") else plain_axis
        if axis == -2 and flag and attributes.get(f"transBatch{flag}"):
            axis = -rank  # the batch stands between the matrix's two dimensions
        return OnnxWeight(rank + axis)

    return rule


_LEFT, _RIGHT = _matrix(-1), _matrix(-2)
_GEMM_A, _GEMM_B = _matrix(-1, "A"), _matrix(-2, "B")

# (domain, operator) -> input index -> rule. The default domain is "".
ONNX_WEIGHTS: Mapping[tuple[str, str], Mapping[int, _Rule]] = {
    ("", "Conv"): {1: _conv},
    ("", "ConvInteger"): {1: _conv},
    ("", "QLinearConv"): {3: _conv},
    ("", "ConvTranspose"): {1: _conv_transpose},
    ("", "DeformConv"): {1: _conv},
    ("", "LSTM"): {1: _recurrent, 2: _recurrent},
    ("", "GRU"): {1: _recurrent, 2: _recurrent},
    ("", "RNN"): {1: _recurrent, 2: _recurrent},
    ("", "Gemm"): {0: _GEMM_A, 1: _GEMM_B},
    ("", "MatMul"): {0: _LEFT, 1: _RIGHT},
    ("", "MatMulInteger"): {0: _LEFT, 1: _RIGHT},
    ("", "QLinearMatMul"): {0: _LEFT, 3: _RIGHT},
    ("com.microsoft", "FusedConv"): {1: _conv},
    ("com.microsoft", "NhwcFusedConv"): {1: _conv},
    ("com.microsoft", "FusedGemm"): {0: _GEMM_A, 1: _GEMM_B},
    ("com.microsoft", "FusedMatMul"): {0: _GEMM_A, 1: _GEMM_B},
    ("com.microsoft", "FusedMatMulActivation"): {0: _GEMM_A, 1: _GEMM_B},
    ("com.microsoft", "TransposeMatMul"): {0: _GEMM_A, 1: _GEMM_B},
    ("com.microsoft", "GemmFastGelu"): {0: _LEFT, 1: _RIGHT},
    ("com.microsoft", "QGemm"): {0: _GEMM_A, 3: _GEMM_B},
    ("com.microsoft", "QLinearConv"): {3: _conv},
    ("com.microsoft", "MatMulNBits"): {1: lambda _rank, _attributes: None},  # packed: no axis to read along
    ("com.microsoft", "MatMulInteger16"): {0: _LEFT, 1: _RIGHT},
    ("com.microsoft", "MatMulIntegerToFloat"): {0: _LEFT, 1: _RIGHT},
    ("com.microsoft", "DynamicQuantizeMatMul"): {0: _LEFT, 1: _RIGHT},
    ("com.microsoft", "Attention"): {1: _RIGHT},
    ("com.microsoft", "QAttention"): {1: _RIGHT},
}

_CELL = (TorchWeight("weight_ih", 1), TorchWeight("weight_hh", 1))

# Class name -> weights. Subclasses are found by their bases' names, so that torch stays unimported here.
TORCH_WEIGHTS: Mapping[str, tuple[TorchWeight, ...]] = {
    "Linear": (TorchWeight("weight", 1),),
    "Conv1d": (TorchWeight("weight", 1),),
    "Conv2d": (TorchWeight("weight", 1),),
    "Conv3d": (TorchWeight("weight", 1),),
    "ConvTranspose1d": (TorchWeight("weight", 0),),
    "ConvTranspose2d": (TorchWeight("weight", 0),),
    "ConvTranspose3d": (TorchWeight("weight", 0),),
    "Conv1D": (TorchWeight("weight", 0),),
    "LSTMCell": _CELL,
    "GRUCell": _CELL,
    "RNNCell": _CELL,
    "MultiheadAttention": (
        TorchWeight("in_proj_weight", 1),
        TorchWeight("q_proj_weight", 1),
        TorchWeight("k_proj_weight", 1),
        TorchWeight("v_proj_weight", 1),
    ),
}


def torch_weights(kind: type) -> tuple[TorchWeight, ...]:
    """Return the weights of a torch layer's class or of its first base in the table; () without one."""
    return next((TORCH_WEIGHTS[base.__name__] for base in kind.__mro__ if base.__name__ in TORCH_WEIGHTS), ())


def onnx_weight(
    domain: str, operator: str, input_index: int, rank: int, attributes: Attributes
) -> OnnxWeight | None:
    """Say how an operator reads a tensor as a weight, or None if that input is not a weight.

    Args:
        domain: Operator domain; "ai.onnx" and "" are one.
        operator: Operator type, e.g. "Gemm".
        input_index: Position of the tensor among the operator's inputs.
        rank: Rank of the tensor.
        attributes: The operator's attributes; only `transA`, `transB`, `group` and `equation` are read.
    """
    domain = "" if domain == "ai.onnx" else domain
    if (domain, operator) == ("", "Einsum"):
        axis = einsum_axis(str(attributes.get("equation", "")), input_index, rank)
        return None if axis is None else OnnxWeight(axis)
    rule = ONNX_WEIGHTS.get((domain, operator), {}).get(input_index)
    return None if rule is None else rule(rank, attributes)


_TERM = r"[A-Za-z]*(?:\.\.\.[A-Za-z]*)?"
_EQUATION = re.compile(rf"{_TERM}(?:,{_TERM})*(?:->{_TERM})?")


def is_einsum(equation: str) -> bool:
    """Tell whether an equation is built as ONNX Einsum takes it: letters, "...", commas and one "->"."""
    return _EQUATION.fullmatch(equation.replace(" ", "")) is not None


def einsum_terms(equation: str) -> tuple[list[str], str]:
    """Split an ONNX Einsum equation into the labels of each operand and those of the output."""
    left, arrow, output = equation.replace(" ", "").partition("->")
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        output = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    return left.split(","), output


def einsum_axis(equation: str, operand: int, rank: int) -> int | None:
    """Return the axis of the one label that `operand` shares with another operand and the output lacks.

    Args:
        equation: An ONNX Einsum equation, with or without "->", "..." allowed.
        operand: Which operand is the weight.
        rank: Its rank.

    Returns:
        The axis, or None when no label or more than one is contracted, one is repeated (a diagonal), or the
        operand's labels are not those of a tensor of its rank.
    """
    terms, output = einsum_terms(equation)
    if operand >= len(terms):
        return None
    term = terms[operand]
    others = set("".join(t for i, t in enumerate(terms) if i != operand))
    labels = term.replace("...", "")
    if len(labels) > rank or ("..." not in term and len(labels) != rank):
        return None
    contracted = [c for c in labels if c in others and c not in output and c != "."]
    if len(contracted) != 1 or labels.count(contracted[0]) != 1:
        return None
    before, dots, after = term.partition("...")
    if contracted[0] in before:
        return before.index(contracted[0])
    position = (after if dots else before).index(contracted[0])
    return rank - len(after) + position if dots else position
