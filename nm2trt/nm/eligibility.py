"""Which weights a sparse kernel may run: rules as data, each with its source and what to do about it.

A rule looks at one weight, at the builder and at the architecture, and answers "no" or "unknown" with a
sentence, or passes. `RULES` decide eligibility: the first "no", without one the first "unknown"; a weight
that passes all of them is eligible. `EXPECTATIONS` decide nothing: they say where dense kernels are known, or
likely, to win the builder's timing against eligible sparse ones.

`basis` says how far to trust a rule: "measured" was seen by us, "cited" stands in a maintainer's answer,
in documentation or in another project's source, "assumed" is neither. `docs/eligibility.md` is made from
this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nm2trt.nm.eligibility_tables import (
    BEFORE_SPARSE,
    CHANNEL_MULTIPLES,
    DTYPE_ROWS,
    MINIMUM,
    DtypeRow,
    Where,
)
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.verdict import Basis, Eligibility, Eligible, WeightFacts

__all__ = [
    "ANYWHERE",
    "EXPECTATIONS",
    "RULES",
    "Rule",
    "WeightFacts",
    "Where",
    "expectations",
    "judge",
    "judge_targets",
    "rule_of",
]

ANYWHERE = Where()

_TWO_OF_FOUR = NMPattern(2, 4)
_DEVELOPER_GUIDE = "TensorRT 8.x developer guide, section on sparsity"
_EPILOGUE = (
    "NVIDIA/Model-Optimizer pull request 1664 (TensorRT 10.14 on an RTX 6000 Ada); NVIDIA/TensorRT issue "
    "4694, open"
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
    if where.target in BEFORE_SPARSE:
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


def _float32(facts: WeightFacts, _: Where) -> str | None:
    if facts.dtype in ("float32", "float64"):
        return f"no {facts.dtype} sparse kernel is known; cast to fp16 or quantise to int8"
    return None


def _island(facts: WeightFacts, _: Where) -> str | None:
    return f"the layer is an island among Q/DQ: {facts.island}" if facts.island else None


def _dtype_row(facts: WeightFacts, where: Where, answer: Eligible) -> DtypeRow | None:
    """Return the first row of the table that fits, where it gives this answer."""
    row = next((row for row in DTYPE_ROWS if row.fits(facts.dtype, where)), None)
    return row if row is not None and row.answer == answer else None


def _other_dtype(facts: WeightFacts, where: Where) -> str | None:
    if not any(row.fits(facts.dtype, where) for row in DTYPE_ROWS):
        return f"nothing says that {facts.dtype} has sparse kernels"
    row = _dtype_row(facts, where, "unknown")
    return None if row is None else f"{facts.dtype}{where.suffix}: {row.sentence}"


def _channel_multiple(facts: WeightFacts, _: Where) -> str | None:
    multiple = next((row for row in CHANNEL_MULTIPLES if row.dtype == facts.dtype), None)
    if multiple is None or not (facts.inputs % multiple.inputs or facts.outputs % multiple.outputs):
        return None
    return (
        f"{facts.inputs} channels in and {facts.outputs} out are not multiples of {multiple.inputs} and "
        f"{multiple.outputs}, which {multiple.held_by} ask of {facts.dtype}"
    )


def _small(facts: WeightFacts, _: Where) -> str | None:
    summed = facts.inputs * facts.positions
    if summed >= MINIMUM.inputs and facts.outputs >= MINIMUM.outputs:
        return None
    return (
        f"{summed} products a result and {facts.outputs} output channels: below about {MINIMUM.inputs} and "
        f"{MINIMUM.outputs} the dense kernel is usually the faster one"
    )


RULES: tuple[Rule, ...] = (
    Rule(
        "not-2:4",
        "pattern",
        _not_two_of_four,
        "no",
        _DEVELOPER_GUIDE,
        "cited",
        "The weight holds 2:4 along its reduction axis, or a pattern that implies it (1:4, 2:8).",
        "train it sparse (nm2trt.sparsify) or prune it (nm2trt prune) to 2:4",
    ),
    Rule(
        "group-conv",
        "shape",
        _group_conv,
        "no",
        "maintainer's answer, NVIDIA/TensorRT issue 4054",
        "cited",
        "It is no grouped or depthwise convolution.",
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
        "quantise its inputs and its output (nm2trt quantize does)",
    ),
    Rule(
        "fp32",
        "dtype",
        _float32,
        "no",
        f"{_DEVELOPER_GUIDE}: FP16 or INT8 had to be enabled",
        "cited",
        "It computes in a type other than float32 and float64.",
        "cast the model to fp16 (nm2trt cast) or quantise it to int8 (nm2trt quantize)",
    ),
    Rule(
        "dtype",
        "dtype",
        _other_dtype,
        "unknown",
        "see the table of types",
        "cited",
        "Its type has sparse kernels on this architecture, with this builder.",
        "quantise to int8 with int8 results (nm2trt quantize), or build with the other builder",
    ),
)

EXPECTATIONS: tuple[Rule, ...] = (
    Rule(
        "channel-multiple",
        "tactic",
        _channel_multiple,
        "unknown",
        "pruners and cuSPARSELt, see the table; TensorRT's guide asks for multiples of 4 alone",
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
        "measure it (nm2trt gain), and keep it dense where the table says that it does not pay",
    ),
)

_BY_CODE = {rule.code: rule for rule in (*RULES, *EXPECTATIONS)}
_RANK = {"yes": 0, "unknown": 1, "no": 2}


def rule_of(code: str) -> Rule | None:
    """Return the rule of that code, or None."""
    return _BY_CODE.get(code)


def judge(facts: WeightFacts, where: Where = ANYWHERE, *, rung: str = "") -> Eligibility:
    """Apply `RULES`: the first "no" decides, without one the first "unknown".

    Args:
        facts: The weight.
        where: Builder and architecture, as far as they are known.
        rung: Apply the rules of this rung alone; "" applies all.
    """
    found = [
        (rule, sentence)
        for rule in RULES
        if rung in ("", rule.rung) and (sentence := rule.applies(facts, where)) is not None
    ]
    if found:
        rule, sentence = min(found, key=lambda item: item[0].answer != "no")
        row = _dtype_row(facts, where, "unknown") if rule.code == "dtype" else None
        source, basis = (rule.source, rule.basis) if row is None else (row.source, row.basis)
        return Eligibility(rule.answer, rule.code, sentence, source, basis, rule.rung)
    row = _dtype_row(facts, where, "yes")
    return Eligibility(
        "yes",
        "eligible",
        f"a sparse {facts.dtype} kernel may run it{where.suffix}; the builder times it against dense ones",
        _DEVELOPER_GUIDE if row is None else row.source,
        "cited" if row is None else row.basis,
    )


def judge_targets(facts: WeightFacts, builder: str, targets: Sequence[str], *, rung: str = "") -> Eligibility:
    """Judge a weight for every target of an engine; the most favourable answer stands, and names the others.

    Args:
        facts: The weight.
        builder: "trt" or "trt-rtx".
        targets: Architectures, e.g. ("sm80", "sm86"); () judges for an unknown one.
        rung: Apply the rules of this rung alone; "" applies all.
    """
    found = [judge(facts, Where(builder, target), rung=rung) for target in targets or ("",)]
    best = min(found, key=lambda item: _RANK[item.answer])
    worse = [t for t, item in zip(targets, found, strict=False) if item.answer != best.answer]
    if not worse:
        return best
    other = next(item for item in found if item.answer != best.answer)
    sentence = f"{best.sentence}; not so on {', '.join(worse)}: {other.sentence}"
    return Eligibility(best.answer, best.code, sentence, best.source, best.basis, best.rung)


def expectations(facts: WeightFacts, where: Where = ANYWHERE) -> tuple[Eligibility, ...]:
    """Return every expectation that speaks against a sparse kernel winning, though it may run."""
    found = ((rule, rule.applies(facts, where)) for rule in EXPECTATIONS)
    return tuple(
        Eligibility(rule.answer, rule.code, sentence, rule.source, rule.basis, rule.rung)
        for rule, sentence in found
        if sentence is not None
    )
