"""Reasons why an engine is not faster, in the order of the ladder, and what to do about each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from nm2trt.engine.evidence.evidence import Evidence
from nm2trt.engine.ladder.builder_rungs import GEMM_WON, NOT_LISTED_IN_REGION, TIMED
from nm2trt.engine.ladder.chosen_kernels import chosen_speed_ups
from nm2trt.engine.ladder.explanation import Explanation, Reason
from nm2trt.engine.ladder.forecast import Forecast, forecast
from nm2trt.engine.ladder.ladder import SPARSITY_OFF, sparse_share
from nm2trt.engine.ladder.ladder_row import LadderRow
from nm2trt.engine.ladder.unmatched import foreign_layers, listed_anyway, lost_weights
from nm2trt.figures import percent
from nm2trt.nm.eligibility import rule_of

_BOUND_SOURCE = "maintainer's answer, NVIDIA/TensorRT issue 2310"


def explain(
    subject: str,
    ladder: Sequence[LadderRow],
    evidence: Evidence,
    *,
    builder: str,
    targets: Sequence[str],
    built: bool,
    strict_nans: bool = False,
) -> Explanation:
    """Collect the reasons.

    Args:
        subject: The file.
        ladder: One row per weight, with whatever evidence there is.
        evidence: The same evidence.
        builder: Name of the builder; "" if none is chosen.
        targets: Architectures.
        built: Whether `subject` is an engine, not a model.
        strict_nans: Whether the engine was built to pass NaNs through.
    """
    work = forecast(ladder)
    share, _ = sparse_share(ladder)
    reasons = [
        *_of_the_build(ladder, work, strict_nans),
        *_grouped(ladder, _pattern, work),
        *_grouped(ladder, _shape, work),
        *_grouped(ladder, _dtype, work),
        *_grouped(ladder, _listed, work),
        *_grouped(ladder, _tactic, work),
        *_grouped(ladder, _doubt("channel-multiple"), work),
        *_grouped(ladder, _doubt("small"), work),
        *_grouped(ladder, _gain, work),
        *_open(ladder, evidence, work, builder, built=built),
        *_bound(ladder, work),
    ]
    said = (lost_weights, listed_anyway, foreign_layers, chosen_speed_ups)
    notes = (*evidence.notes, *(note for say in said for note in say(ladder, evidence)))
    return Explanation(subject, builder, tuple(targets), tuple(reasons), tuple(ladder), work, share, notes)


def _of_the_build(ladder: Sequence[LadderRow], work: Forecast, strict_nans: bool) -> Iterable[Reason]:
    open_to_it = [row for row in ladder if not row.stopped]
    if open_to_it and all(row.listed.detail == SPARSITY_OFF for row in open_to_it):
        yield Reason(
            "build",
            "sparsity-off",
            "it was built without the sparse weights flag, so no sparse kernel was considered",
            tuple(row.weight for row in open_to_it),
            _share(open_to_it, work),
            "build it with --sparsity",
        )
    if strict_nans:
        yield Reason(
            "build",
            "strict-nans",
            "it passes NaNs through every layer, which leaves fewer sparse kernels to choose from",
            (),
            None,
            "build it without --strict-nans",
            "NvInfer.h of TensorRT 11.1, on kSTRICT_NANS and kSPARSE_WEIGHTS",
            "cited",
        )


# Says of one row whether a reason applies: its code, its sentence, and the reason without weights.
_Match = Callable[[LadderRow], "Reason | None"]


def _grouped(ladder: Sequence[LadderRow], match: _Match, work: Forecast) -> list[Reason]:
    """Return one reason per code, over all weights that it applies to, those of most work first."""
    found: dict[str, list[tuple[LadderRow, Reason]]] = {}
    for row in ladder:
        reason = match(row)
        if reason is not None:
            found.setdefault(reason.code, []).append((row, reason))
    reasons = []
    for matches in found.values():
        rows = sorted((row for row, _ in matches), key=lambda row: -(row.macs or 0))
        first = next(reason for row, reason in matches if row is rows[0])
        reasons.append(replace(first, weights=tuple(row.weight for row in rows), share=_share(rows, work)))
    return sorted(reasons, key=lambda reason: -(reason.share or 0.0))


def _share(rows: Iterable[LadderRow], work: Forecast) -> float | None:
    counts = [row.macs for row in rows]
    known = [count for count in counts if count is not None]
    return None if len(known) < len(counts) or not work.macs else sum(known) / work.macs


def _pattern(row: LadderRow) -> Reason | None:
    if row.pattern.answer == "yes" or row.chosen.answer == "yes" or _hopeless(row):
        return None
    return Reason("pattern", row.reason, row.sentence, (), None, row.remedy, row.source, row.basis)


def _hopeless(row: LadderRow) -> Reason | None:
    """Return the rule that forbids a sparse kernel whatever the weight holds, so that pruning cannot help."""
    for code, sentence in row.doubts.items():
        rule = rule_of(code)
        if rule is not None and rule.rung == "shape" and row.pattern.answer == "no":
            return Reason(rule.rung, code, sentence, (), None, rule.remedy, rule.source, rule.basis)
    return None


def _shape(row: LadderRow) -> Reason | None:
    # The rung's detail is the rule's code; the row's own reason may be one of a later rung.
    return _hopeless(row) or _rule(row, row.fits.answer, row.fits.detail)


def _dtype(row: LadderRow) -> Reason | None:
    return _rule(row, row.dtype.answer, row.reason) if row.fits.answer != "no" else None


def _rule(row: LadderRow, answer: str, code: str) -> Reason | None:
    rule = rule_of(code)
    if answer not in ("no", "unknown") or rule is None or row.chosen.answer == "yes":
        return None
    own = code == row.reason
    sentence = row.sentence if own else f"the rule does not hold: {rule.summary}"
    if answer == "unknown":
        sentence += " (not known to be impossible)"
    source, basis = (row.source, row.basis) if own else (rule.source, rule.basis)
    remedy = row.remedy if own and row.remedy else rule.remedy
    return Reason(rule.rung, rule.code, sentence, (), None, remedy, source, basis)


def _listed(row: LadderRow) -> Reason | None:
    if row.listed.answer != "no" or row.listed.detail == SPARSITY_OFF:
        return None
    if row.listed.detail == NOT_LISTED_IN_REGION:
        return Reason(
            "listed",
            "foreign-node",
            "the builder compiles it as part of a foreign node, lists no layer inside it as eligible, and "
            "names no kernel inside it",
            (),
            None,
            "nm2trt prove tells whether the whole got faster, and a profiler's list of kernels (--trace) "
            "what runs inside; other types and versions fuse differently",
            "TensorRT 8.6.0 on an H200, an FP16 transformer: nothing listed, the engine no smaller, no gain",
            "measured",
        )
    return Reason(
        "listed",
        "not-listed",
        "the builder does not list it as eligible for sparse kernels, though no rule forbids it",
        (),
        None,
        "look for its name, it may be fused into another layer; else report it to NVIDIA with the log",
    )


def _tactic(row: LadderRow) -> Reason | None:
    if row.chosen.answer != "no":
        return None
    if row.listed.detail == GEMM_WON:
        return Reason(
            "tactic",
            "gemm-kernel",
            f"a dense GEMM kernel runs it ({row.chosen.detail}); TensorRT 8.6 lists no such layer as "
            "eligible, even if it timed sparse kernels for it",
            (),
            None,
            "keep it dense; the times of both stand at an equal layer, or in the log of a build with a new "
            "--timing-cache",
            "TensorRT 8.6.0 on an H200, ResNet-50 in FP16",
            "measured",
        )
    if row.listed.answer != "yes" and TIMED not in row.chosen.detail:
        return Reason(
            "tactic",
            "dense-kernel",
            f"a dense kernel runs it ({row.chosen.detail}); nothing says whether sparse ones were tried",
            (),
            None,
            "build it with --sparsity (trtexec: --sparsity=enable), and give the verbose build log (--log)",
        )
    return Reason(
        "tactic",
        "not-chosen",
        f"the builder timed sparse and dense kernels and took a dense one ({row.chosen.detail})",
        (),
        None,
        "keep it dense, or give the builder a larger batch in --profile",
        "maintainers' answers, NVIDIA/TensorRT issues 2169 and 3849",
        "cited",
    )


def _doubt(code: str) -> _Match:
    def match(row: LadderRow) -> Reason | None:
        rule = rule_of(code)
        if rule is None or code not in row.doubts or row.stopped or row.chosen.answer in ("yes", "no"):
            return None
        return Reason(rule.rung, code, row.doubts[code], (), None, rule.remedy, rule.source, rule.basis)

    return match


def _gain(row: LadderRow) -> Reason | None:
    if row.chosen.answer != "yes" or row.gain.answer != "no":
        return None
    sentence = f"its sparse kernel is not the faster one: {row.gain.detail}"
    return Reason("gain", "no-gain", sentence, (), None, "keep it dense")


def _open(
    ladder: Sequence[LadderRow], evidence: Evidence, work: Forecast, builder: str, *, built: bool
) -> Iterable[Reason]:
    """Say what was not measured yet."""
    rows = [row for row in ladder if row.eligible and row.chosen.answer in ("unknown", "not measured")]
    if not rows:
        return
    if evidence.deferred or builder == "trt-rtx":
        sentence = "TensorRT for RTX chooses kernels on the GPU that loads the plan: no build can name them"
        remedy = "run nm2trt prove on that GPU, or nsys profile there and give the report with --trace"
    elif built or evidence.layers:
        sentence = "nothing that was given says which kernels were chosen"
        remedy = "give the verbose build log (--log), the layer information (--layers) or a trace (--trace)"
    else:
        sentence = "no engine was built yet, so sparse kernels were not timed against dense ones"
        remedy = "nm2trt build --sparsity on the GPU, then nm2trt explain ENGINE; or nm2trt prove"
    names = tuple(row.weight for row in rows)
    yield Reason("tactic", "not-measured", sentence, names, _share(rows, work), remedy)


def _bound(ladder: Sequence[LadderRow], work: Forecast) -> Iterable[Reason]:
    """Say what is left to gain at most: at best, sparse tensor cores halve the time of the eligible work."""
    if not work.macs or work.unknown_weights:
        return
    # Once the builder has answered, what it left dense gains nothing.
    answered = all(
        row.chosen.answer in ("yes", "no", "not reached") and row.listed.detail != SPARSITY_OFF
        for row in ladder
        if row.eligible
    )
    able = [row for row in ladder if row.chosen.answer == "yes" or (row.answer == "yes" and not answered)]
    share = sum(row.macs or 0 for row in able) / work.macs
    verb = "run" if answered else "can run"
    if share:
        bound = 1.0 / (1.0 - share / 2.0)
        yield Reason(
            "whole",
            "bound",
            f"{percent(share, 0)} of the multiply-accumulates {verb} sparse: if those ran twice as fast and "
            f"nothing else took time, the whole would gain {bound:.2f}x; 15 % is a usual best",
            (),
            share,
            "spend sparsity on the layers that do most of the work",
            _BOUND_SOURCE,
            "cited",
        )
