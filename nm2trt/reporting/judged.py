"""Eligibility asked anew: a report asks the function that `verify`, `build` and `explain` ask."""

from __future__ import annotations

from typing import cast

from nm2trt.errors import InputError, PatternError
from nm2trt.nm.eligibility import Place, can_run_sparse
from nm2trt.nm.outlook import outlook
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.verdict import Eligible, PatternStatus, WeightFacts, WeightVerdict
from nm2trt.reporting.fields import Fields


def place_of_record(fields: Fields) -> Place:
    """Return the builder and the targets that a `verify` answered for."""
    return Place(
        fields.text("builder", ""), fields.text("builder_version", ""), tuple(fields.texts("targets"))
    )


def eligible_of(row: Fields, place: Place) -> str:
    """Return whether a sparse kernel may run a verdict's weight; as recorded if its facts are not there."""
    facts = _facts(row)
    return row.text("eligible", "") if facts is None else can_run_sparse(facts, place).answer


def asked_outlook(fields: Fields) -> str:
    """Return how much of a verified model can run sparse, in one sentence; "" without verdicts."""
    if not fields.has("weights"):
        return fields.text("outlook", "")
    rows = fields.objects("weights")
    if any(row.has("facts") and _facts(row) is None for row in rows):
        return fields.text("outlook", "")  # of another release
    return outlook([_verdict(row) for row in rows], place_of_record(fields))


def _verdict(row: Fields) -> WeightVerdict:
    return WeightVerdict(
        weight=row.text("weight"),
        consumer=row.text("consumer", ""),
        operator=row.text("operator", ""),
        shape=row.sizes("shape"),
        dtype=row.text("dtype", ""),
        axis=row.count("axis"),
        wanted=row.text("wanted", ""),
        pattern=cast(PatternStatus, row.text("pattern", "")),
        groups=row.count("groups") or 0,
        broken_groups=row.count("broken_groups") or 0,
        zero_share=row.maybe("zero_share"),
        nonfinite=row.count("nonfinite") or 0,
        parameters=row.count("parameters") or 0,
        macs=row.count("macs"),
        eligible=cast(Eligible, row.text("eligible", "unknown")),
        reason=row.text("reason", ""),
        sentence=row.text("sentence", ""),
        source=row.text("source", ""),
        facts=_facts(row),
    )


def _facts(row: Fields) -> WeightFacts | None:
    """Return what the rules look at; None if the weight is untraceable or the record of another release."""
    facts = row.object("facts")
    if not facts.has("operator") or facts.count("axis") is None:
        return None
    try:
        pattern = NMPattern.parse(facts.text("pattern")) if facts.has("pattern") else None
    except PatternError as error:
        raise InputError(f"{facts.where}.pattern: {error}; run that stage again") from error
    shape, axis = facts.sizes("shape"), facts.count("axis") or 0
    if not -len(shape) <= axis < len(shape):
        raise InputError(
            f"{facts.where}.axis is outside its shape; the record is damaged: run that stage again"
        )
    return WeightFacts(
        operator=facts.text("operator"),
        shape=shape,
        axis=axis,
        dtype=facts.text("dtype", ""),
        conv_groups=facts.count("conv_groups") or 1,
        pattern=pattern,
        constant_input_index=1 if (given := facts.count("constant_input_index")) is None else given,
        convolution=facts.data.get("convolution") is True,
        island=facts.text("island", ""),
        unread=facts.text("unread", ""),
        opset=facts.count("opset") or 0,
        nested=facts.data.get("nested") is True,
        fixed=facts.text("fixed", ""),
        rebuilt=facts.data.get("rebuilt", True) is True,
    )
