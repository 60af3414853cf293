"""Eligibility of weights for a sparse kernel: rules as data, each with its source and what to do about it.

A rule looks at one weight, at the builder and at the architecture, and answers "no" or "unknown" with a
sentence, or passes. `RULES` decide eligibility: the first "no", without one the first "unknown"; a weight
that passes all of them is eligible. `EXPECTATIONS` decide nothing: they say where dense kernels are known, or
likely, to win the builder's timing against eligible sparse ones.

`basis` says how far to trust a rule: "measured" was seen by us, "cited" stands in a maintainer's answer,
in documentation or in another project's source, "assumed" is neither. `docs/eligibility.md` is made from
this module.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from nm2trt.nm.advice import dtype_advice
from nm2trt.nm.eligibility_rules import DEVELOPER_GUIDE, EXPECTATIONS, RULES, Rule, dtype_row
from nm2trt.nm.eligibility_tables import Where
from nm2trt.nm.verdict import Eligibility, WeightFacts

ANYWHERE = Where()


@dataclass(frozen=True, slots=True)
class Place:
    """What an answer is for: a builder, its version, and every architecture of the engine.

    Args:
        builder: "trt", "trt-rtx" or "ort"; "" if none is chosen.
        version: Its version; "" if it is not known.
        targets: Architectures; () for one that is not known.
    """

    builder: str = ""
    version: str = ""
    targets: tuple[str, ...] = ()

    @property
    def each(self) -> tuple[Where, ...]:
        """One `Where` a target."""
        return tuple(Where(self.builder, target, self.version) for target in self.targets or ("",))

    @property
    def suffix(self) -> str:
        """The place for a sentence, e.g. " on sm80, sm86 with trt-rtx 1.7.1"."""
        where = f" on {', '.join(self.targets)}" if self.targets else ""
        return f"{where} with {self.builder} {self.version}".rstrip() if self.builder else where


NOWHERE = Place()

_BY_CODE = {rule.code: rule for rule in (*RULES, *EXPECTATIONS)}
_RANK = {"yes": 0, "unknown": 1, "no": 2}


def rule_of(code: str) -> Rule | None:
    """Return the rule of that code, or None."""
    return _BY_CODE.get(code)


def eligibility_of(facts: WeightFacts, where: Where = ANYWHERE, *, rung: str = "") -> Eligibility:
    """Apply `RULES`: the first "no" decides, without one the first "unknown".

    Args:
        facts: The weight.
        where: Builder and architecture, as far as they are known.
        rung: Apply only the rules of this rung; "" applies all.
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
        return Eligibility(
            rule.answer, rule.code, sentence, source, basis, rule.rung, _remedy(rule, facts, where)
        )
    row = dtype_row(facts, where, "yes")
    return Eligibility(
        "yes",
        "eligible",
        f"a sparse {facts.dtype} kernel may run it{where.suffix}; the builder times it against dense ones",
        DEVELOPER_GUIDE if row is None else row.source,
        "cited" if row is None else row.basis,
    )


def _remedy(rule: Rule, facts: WeightFacts, where: Where) -> str:
    return dtype_advice(facts, where) if rule.code in ("fp32", "dtype") else rule.remedy


@functools.lru_cache(maxsize=1 << 14)
def can_run_sparse(facts: WeightFacts, place: Place = NOWHERE, *, rung: str = "") -> Eligibility:
    """Answer whether a sparse kernel may run a weight: the one answer that every command gives.

    Args:
        facts: The weight.
        place: Builder, version and targets. Of several targets the least favourable decides: "yes" only
            if all say yes.
        rung: Apply only the rules of this rung; "" applies all.
    """
    found = [eligibility_of(facts, where, rung=rung) for where in place.each]
    worst = max(found, key=lambda item: _RANK[item.answer])
    better = [w.target for w, item in zip(place.each, found, strict=True) if item.answer != worst.answer]
    if not better:
        return worst
    here = [w.target for w, item in zip(place.each, found, strict=True) if item.answer == worst.answer]
    return replace(worst, sentence=f"{worst.sentence} (on {', '.join(here)}, but not on {', '.join(better)})")


def expectations(facts: WeightFacts, where: Where = ANYWHERE) -> tuple[Eligibility, ...]:
    """Return every expectation that speaks against a sparse kernel winning, though it may run."""
    found = ((rule, rule.applies(facts, where)) for rule in EXPECTATIONS)
    return tuple(
        Eligibility(rule.answer, rule.code, sentence, rule.source, rule.basis, rule.rung)
        for rule, sentence in found
        if sentence is not None
    )
