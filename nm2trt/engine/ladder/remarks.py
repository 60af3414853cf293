"""Remarks for the user of a build: what speaks against a gain, and what the builder left open."""

from __future__ import annotations

from collections.abc import Sequence

from nm2trt.backends.options import BuildOptions
from nm2trt.engine.evidence.evidence import Evidence
from nm2trt.engine.ladder.chosen_kernels import chosen_speed_ups
from nm2trt.engine.ladder.ladder_row import LadderRow
from nm2trt.engine.ladder.unmatched import listed_anyway, lost_weights
from nm2trt.nm.advice import dtype_advice, holds_two_of_four
from nm2trt.nm.eligibility import Place
from nm2trt.nm.eligibility_tables import FIRST_SPARSE
from nm2trt.nm.verdict import WeightVerdict


def remarks(
    weights: Sequence[WeightVerdict],
    options: BuildOptions,
    ladder: Sequence[LadderRow],
    evidence: Evidence,
    *,
    place: Place,
) -> tuple[str, ...]:
    """Return one sentence a remark.

    Args:
        weights: What `verify` found out of every weight.
        options: What was asked of the builder.
        ladder: One row per weight.
        evidence: What the builder said.
        place: Builder, version and targets.
    """
    # Of a builder that defers the choice nothing else is expected.
    said = () if evidence.deferred else evidence.notes
    return (
        *_warnings(weights, options, place),
        *lost_weights(ladder, evidence),
        *listed_anyway(ladder, evidence),
        *chosen_speed_ups(ladder, evidence),
        *said,
    )


def _warnings(weights: Sequence[WeightVerdict], options: BuildOptions, place: Place) -> list[str]:
    if options.sparsity == "disable":
        return []
    holding = [verdict for verdict in weights if holds_two_of_four(verdict)]
    notes = []
    # The type that a kernel computes in, which in a quantised model is not the stored one.
    single = [v.facts for v in holding if v.facts is not None and v.facts.dtype in ("float32", "float64")]
    if single:
        notes.append(
            f"{len(single)} of {len(holding)} weights that hold 2:4 are {single[0].dtype}, for which no "
            f"sparse kernel is known: {dtype_advice(single[0], place.each[0])}"
        )
    if options.strict_nans:
        notes.append(
            "strict NaNs limit sparse kernels to layers where NaNs pass through unchanged; leave "
            "--strict-nans out unless the model needs it"
        )
    old = [target for target in options.targets if int(target[2:]) < FIRST_SPARSE]
    if old:
        notes.append(f"{', '.join(old)} has no sparse tensor cores: the engine runs dense there")
    return notes
