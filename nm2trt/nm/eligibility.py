"""Which weights a sparse kernel may run: rules as data, each with its source.

Every rule looks at one weight and answers "no" or "unknown" with a sentence, or passes. The first rule
that answers decides; a weight that passes all of them is eligible. `basis` says how far to trust a rule:
"measured" was seen by us, "cited" stands in a maintainer's answer or the documentation, "assumed" is
neither.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.verdict import Eligibility, Eligible

__all__ = ["RULES", "Rule", "WeightFacts", "judge"]

_TWO_OF_FOUR = NMPattern(2, 4)
_DEVELOPER_GUIDE = "TensorRT 8.x developer guide, section on sparsity"


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """What the rules may look at.

    Args:
        operator: ONNX operator type.
        shape: Shape as the consumer reads it.
        axis: Reduction axis.
        dtype: Type that the kernel would compute in, e.g. "float16"; "int8" behind Q/DQ.
        conv_groups: A convolution's group count; 1 otherwise.
        pattern: The pattern that the weight holds, or None.
        constant_input_index: The consumer's input that the weight feeds.
        island: What keeps a layer of a quantised model from computing in INT8 from end to end, or "".
    """

    operator: str
    shape: tuple[int, ...]
    axis: int
    dtype: str
    conv_groups: int
    pattern: NMPattern | None
    constant_input_index: int = 1
    island: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """One hardware rule.

    Args:
        code: Short stable name.
        applies: Returns a sentence when the rule decides against a weight, else None.
        answer: What the rule then says.
        source: Where it comes from.
        basis: How far to trust it.
    """

    code: str
    applies: Callable[[WeightFacts], str | None]
    answer: Eligible
    source: str
    basis: Literal["measured", "cited", "assumed"]


def _not_two_of_four(facts: WeightFacts) -> str | None:
    if facts.pattern is None:
        return "the weight holds no N:M pattern"
    if not _TWO_OF_FOUR.admits(facts.pattern):
        return f"{facts.pattern} is not 2:4, the only pattern that sparse tensor cores read"
    return None


def _group_conv(facts: WeightFacts) -> str | None:
    if facts.conv_groups > 1:
        return f"a convolution with {facts.conv_groups} groups is never given a sparse kernel"
    return None


def _operator(facts: WeightFacts) -> str | None:
    if facts.operator in ("ConvTranspose", "Einsum", "DeformConv", "LSTM", "GRU", "RNN"):
        return f"nothing says that {facts.operator} has sparse kernels"
    return None


def _island(facts: WeightFacts) -> str | None:
    return f"the layer is an island among Q/DQ: {facts.island}" if facts.island else None


def _float32(facts: WeightFacts) -> str | None:
    if facts.dtype in ("float32", "float64"):
        return f"no {facts.dtype} sparse kernel is known; cast to fp16 or quantise to int8"
    return None


def _other_dtype(facts: WeightFacts) -> str | None:
    if facts.dtype not in ("float16", "bfloat16", "int8"):
        return f"nothing says that {facts.dtype} has sparse kernels on Ampere"
    return None


def _left_constant(facts: WeightFacts) -> str | None:
    if facts.operator in ("MatMul", "Gemm") and facts.constant_input_index == 0:
        return "the constant is the left operand; nothing says that sparse kernels read it there"
    return None


RULES: tuple[Rule, ...] = (
    Rule("not-2:4", _not_two_of_four, "no", _DEVELOPER_GUIDE, "cited"),
    Rule("group-conv", _group_conv, "no", "maintainer's answer, NVIDIA/TensorRT issue 4054", "cited"),
    Rule(
        "qdq-island",
        _island,
        "no",
        "NVIDIA/TensorRT issue 4694; NVIDIA/Model-Optimizer pull request 1664: INT8-in and INT8-out",
        "cited",
    ),
    Rule("fp32", _float32, "no", f"{_DEVELOPER_GUIDE}: FP16 or INT8 had to be enabled", "cited"),
    Rule("operator", _operator, "unknown", "no document lists it", "assumed"),
    Rule("left-constant", _left_constant, "unknown", "no document lists it", "assumed"),
    Rule("dtype", _other_dtype, "unknown", "no document lists it", "assumed"),
)


def judge(facts: WeightFacts) -> Eligibility:
    """Apply `RULES` in order; the first that answers decides."""
    for rule in RULES:
        sentence = rule.applies(facts)
        if sentence is not None:
            return Eligibility(rule.answer, rule.code, sentence, rule.source, rule.basis)
    return Eligibility(
        "yes",
        "eligible",
        f"a sparse {facts.dtype} kernel may run it; the builder times it against dense ones",
        _DEVELOPER_GUIDE,
        "cited",
    )
