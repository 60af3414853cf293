"""The rules of `nm2trt.nm.eligibility`, each with its sentence, its source and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from nm2trt.figures import counted
from nm2trt.nm.advice import dtype_advice
from nm2trt.nm.eligibility_tables import (
    CHANNEL_MULTIPLES,
    DTYPE_ROWS,
    FIRST_SPARSE,
    MINIMUM,
    DtypeRow,
    Where,
)
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.verdict import Basis, Eligible, WeightFacts

_FIRST_SPARSE_TENSORRT = 8
_TWO_OF_FOUR = NMPattern(2, 4)
DEVELOPER_GUIDE = "TensorRT 8.x developer guide, section on sparsity"
_EPILOGUE = (
    "NVIDIA/Model-Optimizer pull request 1664 (TensorRT 10.14 on an RTX 6000 Ada); NVIDIA/TensorRT issue "
    "4694, open; seen with TensorRT 8.6.0 on an H200: int8 in and float out is listed as eligible, and no "
    "sparse kernel is timed for it"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One hardware rule.

    Args:
        code: Short stable name.
        rung: Rung of the ladder that it speaks of: "pattern", "shape", "dtype" or "tactic".
        applies: Returns a sentence when the rule decides against a weight, else None.
        answer: What the rule then says.
        source: Where it comes from.
        basis: How far to trust it.
        summary: The rule in one sentence, for the documentation.
        remedy: What its owner can do about it.
    """

    code: str
    rung: str
    applies: Callable[[WeightFacts, Where], str | None]
    answer: Eligible
    source: str
    basis: Basis
    summary: str
    remedy: str


def _not_two_of_four(facts: WeightFacts, _: Where) -> str | None:
    if facts.pattern is None:
        return "the weight holds no N:M pattern"
    if not _TWO_OF_FOUR.admits(facts.pattern):
        return f"{facts.pattern} is not 2:4, the only pattern that sparse tensor cores read"
    return None


def _group_conv(facts: WeightFacts, _: Where) -> str | None:
    if facts.conv_groups > 1:
        return f"a convolution with {facts.conv_groups} groups is never given a sparse kernel"
    return None


def _old_architecture(_: WeightFacts, where: Where) -> str | None:
    capability = re.fullmatch(r"sm([0-9]{2,3})", where.target)
    if capability and int(capability[1]) < FIRST_SPARSE:
        return f"{where.target} has no sparse tensor cores"
    return None


def _operator(facts: WeightFacts, _: Where) -> str | None:
    if facts.operator in ("ConvTranspose", "Einsum", "DeformConv", "LSTM", "GRU", "RNN"):
        return f"nothing says that {facts.operator} has sparse kernels"
    return None


def _left_constant(facts: WeightFacts, _: Where) -> str | None:
    if facts.operator in ("MatMul", "Gemm") and facts.constant_input_index == 0:
        return "the constant is the left operand; nothing says that sparse kernels read it there"
    return None


def _no_kernels(_: WeightFacts, where: Where) -> str | None:
    if where.builder == "ort":
        return "ONNX Runtime has no sparse kernels"
    major = re.match(r"[0-9]+", where.version) if where.builder == "trt" else None
    if major and int(major[0]) < _FIRST_SPARSE_TENSORRT:
        return f"TensorRT {where.version} has no sparse kernels; they came with {_FIRST_SPARSE_TENSORRT}.0"
    return None


def _unread(facts: WeightFacts, _: Where) -> str | None:
    if facts.unread:
        return f"no TensorRT reads this model: it has {facts.unread}"
    return None


def _unread_by_rtx(facts: WeightFacts, where: Where) -> str | None:
    if facts.unread_by_rtx and where.builder == "trt-rtx":
        return f"TensorRT for RTX does not read this model: it has {facts.unread_by_rtx}"
    return None


def _float32(facts: WeightFacts, where: Where) -> str | None:
    if facts.dtype in ("float32", "float64"):
        return f"no {facts.dtype} sparse kernel is known; {dtype_advice(facts, where)}"
    return None


def _island(facts: WeightFacts, _: Where) -> str | None:
    return f"the layer is an island among Q/DQ: {facts.island}" if facts.island else None


def dtype_row(facts: WeightFacts, where: Where, answer: Eligible) -> DtypeRow | None:
    """Return the first row of the table of types that fits, if it gives this answer."""
    row = next((row for row in DTYPE_ROWS if row.fits(facts.dtype, where)), None)
    return row if row is not None and row.answer == answer else None


def _other_dtype(facts: WeightFacts, where: Where) -> str | None:
    if not any(row.fits(facts.dtype, where) for row in DTYPE_ROWS):
        return f"nothing says that {facts.dtype} has sparse kernels"
    row = dtype_row(facts, where, "unknown")
    if row is None:
        return None
    return f"{facts.dtype}{where.suffix}: {row.sentence}; {dtype_advice(facts, where)}"


def _channel_multiple(facts: WeightFacts, _: Where) -> str | None:
    multiple = next((row for row in CHANNEL_MULTIPLES if row.dtype == facts.dtype), None)
    if multiple is None or not (facts.inputs % multiple.inputs or facts.outputs % multiple.outputs):
        return None
    return (
        f"{counted(facts.inputs, 'channel')} in and {facts.outputs} out are not multiples of "
        f"{multiple.inputs} and {multiple.outputs}, which {multiple.held_by} require for {facts.dtype}"
    )


def _small(facts: WeightFacts, _: Where) -> str | None:
    summed = facts.inputs * facts.positions
    if summed >= MINIMUM.inputs and facts.outputs >= MINIMUM.outputs:
        return None
    return (
        f"{counted(summed, 'product')} per result and {counted(facts.outputs, 'output channel')}: below "
        f"about {MINIMUM.inputs} and {MINIMUM.outputs} the dense kernel is usually faster"
    )


RULES: tuple[Rule, ...] = (
    Rule(
        "not-2:4",
        "pattern",
        _not_two_of_four,
        "no",
        DEVELOPER_GUIDE,
        "cited",
        "The weight holds 2:4 along its reduction axis, or a pattern that implies it (1:4, 2:8).",
        "train it sparse (nm2trt.sparsify) or prune it (nm2trt prune) to 2:4",
    ),
    Rule(
        "builder",
        "shape",
        _no_kernels,
        "no",
        "ONNX Runtime's documentation; release notes of TensorRT 8.0",
        "cited",
        "The builder has sparse kernels: TensorRT 8.0 or later, or TensorRT for RTX.",
        "build with TensorRT on a GPU, or with --backend trt-rtx",
    ),
    Rule(
        "unread-operator",
        "shape",
        _unread,
        "no",
        "OnnxParser.supports_operator of TensorRT for RTX 1.7.1.116",
        "measured",
        "TensorRT's parser reads every operator of the model; it reads no QLinear and integer products, and "
        "nothing that ONNX Runtime's optimiser fused.",
        "export the original model, which ONNX Runtime neither optimised nor quantised",
    ),
    Rule(
        "unread-by-rtx",
        "shape",
        _unread_by_rtx,
        "no",
        "OnnxParser.supports_operator of TensorRT for RTX 1.7.1.116",
        "measured",
        "The parser of TensorRT for RTX reads every operator of the model; it reads no sequences and "
        "texts, no DeformConv, Unique, Compress or bitwise operator, and not some others.",
        "export the model without that operator, or try --backend trt on a GPU",
    ),
    Rule(
        "group-conv",
        "shape",
        _group_conv,
        "no",
        "maintainer's answer, NVIDIA/TensorRT issue 4054",
        "cited",
        "It is not a grouped or depthwise convolution.",
        "leave it dense: sparsity costs accuracy here and brings nothing",
    ),
    Rule(
        "architecture",
        "shape",
        _old_architecture,
        "no",
        "NVIDIA A100 architecture whitepaper: sparse tensor cores came with sm80",
        "cited",
        "The GPU has sparse tensor cores: sm80 or later.",
        "build for an Ampere GPU or a later one",
    ),
    Rule(
        "operator",
        "shape",
        _operator,
        "unknown",
        "no document lists it",
        "assumed",
        "The operator is Conv, Gemm or MatMul; nothing says that others have sparse kernels.",
        "rewrite it as Conv, Gemm or MatMul if its time matters",
    ),
    Rule(
        "left-constant",
        "shape",
        _left_constant,
        "unknown",
        "no document lists it",
        "assumed",
        "The weight is the right operand of a MatMul or Gemm.",
        "export the product with the weight on the right",
    ),
    Rule(
        "qdq-island",
        "dtype",
        _island,
        "no",
        _EPILOGUE,
        "cited",
        "A quantised layer is INT8-in and INT8-out, its weight included.",
        "quantise its input, weight and output symmetrically to int8; an output of the graph stays float",
    ),
    Rule(
        "fp32",
        "dtype",
        _float32,
        "no",
        f"{DEVELOPER_GUIDE}: FP16 or INT8 had to be enabled",
        "cited",
        "It computes in a type other than float32 and float64.",
        "lower a float32 model to a type with sparse kernels there: int8 for trt-rtx, fp16 or int8 for trt",
    ),
    Rule(
        "dtype",
        "dtype",
        _other_dtype,
        "unknown",
        "see the table of types",
        "cited",
        "Its type has sparse kernels on this architecture, with this builder.",
        "quantise the float32 model to int8 with int8 results, or build with the other builder",
    ),
)

EXPECTATIONS: tuple[Rule, ...] = (
    Rule(
        "channel-multiple",
        "tactic",
        _channel_multiple,
        "unknown",
        "pruners and cuSPARSELt, see the table; TensorRT's guide asks only for multiples of 4",
        "cited",
        "Channels are multiples of what pruners and cuSPARSELt ask of the dtype, so that none are padded.",
        "pad the layer's channels, or keep it dense",
    ),
    Rule(
        "small",
        "tactic",
        _small,
        "unknown",
        MINIMUM.source,
        MINIMUM.basis,
        "The layer is large enough for a sparse kernel to win the builder's timing.",
        "measure it on the GPU, and keep it dense if it does not pay",
    ),
)
