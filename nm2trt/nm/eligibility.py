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

from collections.abc import Sequence

from nm2trt.nm.eligibility_rules import DEVELOPER_GUIDE, EXPECTATIONS, RULES, Rule, dtype_row
from nm2trt.nm.eligibility_tables import Where
from nm2trt.nm.verdict import Eligibility, WeightFacts

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
        row = dtype_row(facts, where, "unknown") if rule.code == "dtype" else None
        source, basis = (rule.source, rule.basis) if row is None else (row.source, row.basis)
        return Eligibility(rule.answer, rule.code, sentence, source, basis, rule.rung)
    row = dtype_row(facts, where, "yes")
    return Eligibility(
        "yes",
        "eligible",
        f"a sparse {facts.dtype} kernel may run it{where.suffix}; the builder times it against dense ones",
        DEVELOPER_GUIDE if row is None else row.source,
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
