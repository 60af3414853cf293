"""The ladder: how far each weight gets on the way to a faster kernel, and where it stops.

    pattern -> shape/groups -> dtype -> builder lists it eligible -> sparse tactic chosen -> measured gain

The first three rungs are answered from the model, the builder and the architectures. The last three are
the builder's and the GPU's to answer; if this machine cannot ask them, they read `not measured`. That a
weight has zeros, or that an engine calls it sparse, is never proof: a tactic's name, the builder's "chosen"
line or a kernel's name is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nm2trt.engine.evidence.evidence import Evidence
from nm2trt.engine.ladder.builder_rungs import (
    Answer,
    Rung,
    asked,
    gained,
    gained_by_layer,
    listed,
)
from nm2trt.engine.ladder.ladder_row import RUNGS, LadderRow
from nm2trt.nm.advice import holds_two_of_four, pattern_advice
from nm2trt.nm.eligibility import Place, can_run_sparse, expectations
from nm2trt.nm.outlook import forbidden_at_two_of_four
from nm2trt.nm.verdict import WeightVerdict

_NOT_REACHED = "-"
SPARSITY_OFF = "sparsity off"


def ladder_rows(
    verdicts: Sequence[WeightVerdict],
    *,
    sparsity: str,
    builder: str = "",
    targets: Sequence[str] = (),
    version: str = "",
    evidence: Evidence | None = None,
) -> tuple[LadderRow, ...]:
    """Return one row per verdict, as far as model, builder and evidence can answer.

    Args:
        verdicts: What `verify` found out.
        sparsity: The build's "disable", "enable" or "force".
        builder: "trt" or "trt-rtx"; "" if none is chosen yet.
        targets: Architectures that the engine is for.
        version: The builder's version.
        evidence: What builder and profiler said of the engine; None if nothing was built.
    """
    place = Place(builder, version, tuple(targets))
    shared, said = shared_names(verdicts), evidence or Evidence()
    return tuple(
        _row(verdict, sparsity, place, Evidence() if verdict.node in shared else said) for verdict in verdicts
    )


def with_evidence(ladder: Sequence[LadderRow], evidence: Evidence) -> tuple[LadderRow, ...]:
    """Return rows of an engine that was built, with what is said of it now on the upper three rungs."""
    rows = []
    shared = shared_names(ladder)
    for row in ladder:
        if row.listed.detail == SPARSITY_OFF:
            rows.append(row)
            continue
        above = _above_builder(row.node, Evidence() if row.node in shared else evidence)
        *_, listed_now, chosen_now, gain_now = _until_no([row.pattern, row.fits, row.dtype, *above])
        rows.append(replace(row, listed=listed_now, chosen=chosen_now, gain=gain_now))
    return tuple(rows)


def with_layer_times(
    ladder: Sequence[LadderRow], times: Mapping[str, tuple[float, float]]
) -> tuple[LadderRow, ...]:
    """Return rows with the gain that layer times give, if the builder measured none.

    Args:
        ladder: One row per weight.
        times: By ONNX node: milliseconds of the layers that run it, without sparse kernels and with them.
    """
    shared, rows = shared_names(ladder), []
    for row in ladder:
        open_gain = row.gain.answer in ("not measured", "unknown")
        if open_gain and row.node in times and row.node not in shared:
            row = replace(row, gain=gained_by_layer(*times[row.node]))
        rows.append(row)
    return tuple(rows)


def shared_names(ladder: Sequence[LadderRow] | Sequence[WeightVerdict]) -> frozenset[str]:
    """Return the node names that several matrix products have: what is said of one may be of another."""
    pairs = {(row.node, row.weight) for row in ladder if row.operator in ("Conv", "Gemm", "MatMul")}
    seen = Counter(node for node, _ in pairs if node)
    return frozenset(name for name, count in seen.items() if count > 1)


def sparse_share(ladder: Sequence[LadderRow]) -> tuple[float | None, str]:
    """Return the share of eligible multiply-accumulates that run sparse kernels, and why it is not known.

    Args:
        ladder: One row per weight.

    Returns:
        The share, 0..1, and ""; or None and one sentence.
    """
    eligible = [row for row in ladder if row.eligible]
    if not eligible:
        return None, "no weight is eligible for a sparse kernel"
    uncounted = [row for row in eligible if row.macs is None]
    if uncounted:
        return None, (
            f"the multiply-accumulates of {len(uncounted)} eligible weights are unknown, first "
            f"{uncounted[0].weight!r}; give static shapes or a profile"
        )
    open_rows = [row for row in eligible if row.chosen.answer not in ("yes", "no", "not reached")]
    if open_rows:
        return None, (
            f"the chosen kernel is unknown for {len(open_rows)} of {len(eligible)} eligible weights, "
            f"first {open_rows[0].weight!r}"
        )
    total = sum(row.macs or 0 for row in eligible)
    sparse = sum(row.macs or 0 for row in eligible if row.chosen.answer == "yes")
    return (sparse / total if total else 0.0), ""


def _row(verdict: WeightVerdict, sparsity: str, place: Place, evidence: Evidence) -> LadderRow:
    # Of a weight that holds no such pattern, the pattern decides.
    facts = verdict.facts if holds_two_of_four(verdict) else None
    judged = None if facts is None else can_run_sparse(facts, place)
    said = judged or verdict
    rungs = [_pattern(verdict), *_below_builder(verdict, place)]
    if sparsity == "disable":
        rungs += [Rung("no", SPARSITY_OFF)] * 3
    else:
        rungs += _above_builder(verdict.node, evidence)
    rungs = _until_no(rungs)
    return LadderRow(
        weight=verdict.weight,
        consumer=verdict.consumer,
        operator=verdict.operator,
        shape=verdict.shape,
        reason=verdict.reason if judged is None else judged.code,
        sentence=said.sentence,
        **dict(zip(RUNGS, rungs, strict=True)),
        macs=verdict.macs,
        node=verdict.node,
        source=said.source,
        basis=said.basis,
        doubts=_doubts(verdict, place),
        remedy=_pattern_remedy(verdict, place) if judged is None else judged.remedy,
    )


def _pattern_remedy(verdict: WeightVerdict, place: Place) -> str:
    forbidden = forbidden_at_two_of_four(verdict, place)
    if forbidden is None:
        return pattern_advice(verdict)
    return forbidden.remedy if forbidden.rung == "shape" else f"even at 2:4, {forbidden.remedy}"


def _above_builder(node: str, evidence: Evidence) -> list[Rung]:
    """Return the rungs that builder and GPU answer."""
    return [listed(node, evidence), asked(node, evidence), gained(node, evidence)]


def _until_no(rungs: Sequence[Rung]) -> list[Rung]:
    """Return the rungs with those above the first "no" not reached."""
    stopped = next((i for i, rung in enumerate(rungs) if rung.answer == "no"), len(rungs))
    if stopped in (1, 2, 3) and rungs[4].answer == "yes":
        stopped = len(rungs)  # a kernel that was chosen says more than a rule, or a list that lost its name
    return [rung if i <= stopped else Rung("not reached", _NOT_REACHED) for i, rung in enumerate(rungs)]


def _doubts(verdict: WeightVerdict, place: Place) -> dict[str, str]:
    """Return what speaks against a sparse kernel on every target, training it sparse first included."""
    if verdict.facts is None:
        return {}
    shape = can_run_sparse(verdict.facts, place, rung="shape")
    if shape.answer == "no":
        return {shape.code: shape.sentence}
    found = [
        {item.code: item.sentence for item in expectations(verdict.facts, where)} for where in place.each
    ]
    return {code: text for code, text in found[0].items() if all(code in other for other in found)}


def _pattern(verdict: WeightVerdict) -> Rung:
    if holds_two_of_four(verdict):
        return Rung("yes", verdict.wanted)
    if verdict.pattern == "holds":
        return Rung("no", f"{verdict.wanted} is not 2:4")
    if verdict.pattern == "broken":
        return Rung("no", f"broken, {verdict.broken_groups} of {verdict.groups} groups")
    if verdict.pattern == "dense-by-plan":
        return Rung("no", "dense by plan")
    answer: Answer = "unknown" if verdict.pattern == "untraceable" else "no"
    return Rung(answer, verdict.pattern.replace("-", " "))


def _below_builder(verdict: WeightVerdict, place: Place) -> tuple[Rung, Rung]:
    """Return the rungs of shape and dtype."""
    if verdict.facts is None:
        return Rung("unknown", "untraceable"), Rung("unknown", verdict.dtype)
    facts = verdict.facts
    shape = can_run_sparse(facts, place, rung="shape")
    dtype = can_run_sparse(facts, place, rung="dtype")
    fits = Rung("yes", "fits") if shape.answer == "yes" else Rung(shape.answer, shape.code)
    if dtype.answer == "yes":
        return fits, Rung("yes", facts.dtype)
    return fits, Rung(dtype.answer, _DTYPE_DETAILS.get(dtype.code, "{}").format(facts.dtype))


_DTYPE_DETAILS: Mapping[str, str] = {
    "fp32": "{}: no sparse kernel known",
    "dtype": "{}: unknown",
    "qdq-island": "{}: an island among Q/DQ",
}
