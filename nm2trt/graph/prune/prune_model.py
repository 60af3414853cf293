"""One-shot magnitude pruning of an ONNX file: the largest weights of every group stay, the rest become zero.

Only the numbers of the pruned tensors change, where they are stored and as they are stored; everything
else of the file is kept as it is.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nm2trt.errors import LineageError, SparsityError
from nm2trt.figures import counted
from nm2trt.graph.analysis.operator_cost import Opaque
from nm2trt.graph.pass_frame import Change, Pass, run_passes
from nm2trt.graph.pass_report import PrunedWeight
from nm2trt.graph.prune.magnitude import Reading, check_reach, zero_weakest
from nm2trt.graph.prune.report import PruneReport
from nm2trt.graph.prune.stored_weights import Candidate, stored_weights
from nm2trt.graph.storage.model import Model
from nm2trt.graph.storage.model_file import Rewrite
from nm2trt.graph.storage.stage_metadata import plan_of
from nm2trt.graph.verify.group_counts import count_groups
from nm2trt.graph.verify.report import VerifyReport
from nm2trt.nm.lineage import Relation
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import Plan, PlanEntry, check_globs, dense_by_name, dense_by_size
from nm2trt.nm.verdict import WeightVerdict

# What this command writes as the method of its plan.
METHOD = "magnitude-onnx"
_NOT_INCLUDED = "not among the included weights"


def prune_model(
    source: str | os.PathLike[str] | Model,
    target: str | os.PathLike[str] | None,
    *,
    pattern: NMPattern | str = NMPattern(2, 4),  # noqa: B008 - a frozen value
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_channels: int = 16,
) -> PruneReport:
    """Make weights hold an N:M pattern, the largest magnitudes kept, in a copy of a file or in an open model.

    A weight is pruned when its reduction axis (in each group of a convolution) is a multiple of M and it
    has at least `min_channels` input channels. One that several operators read is pruned when they agree
    on the groups; one that anything else reads, an embedding for example, stays dense.

    Args:
        source: The ONNX file, or an open model; external data is read by pieces.
        target: The file to write, not the source; None changes the open model.
        pattern: The pattern, e.g. `NMPattern(2, 4)` or "2:4".
        include: Globs on names of weights; when given, all others stay dense. A full name, without
            wildcards, also prunes a weight that has fewer than `min_channels`, or that the plan keeps dense.
        exclude: Globs on names of weights that stay dense; stronger than `include`.
        min_channels: Fewest input channels of a pruned weight.

    Returns:
        What was done with each weight, and why.

    Raises:
        InputError: A path or a glob is wrong.
        PatternError: `pattern` is not an N:M pattern.
        ModelError: The model is not a valid ONNX file.
        SparsityError: No weight can hold the pattern; nothing is written.
        LineageError: What was written does not hold what it should; nothing is written.
        OutputError: The output cannot be written.
    """
    step = _Prune(NMPattern.parse(pattern), tuple(include), tuple(exclude), min_channels)
    passed = run_passes(source, target, [step])
    return PruneReport(
        **passed.facts(),
        pattern=step.pattern,
        weights=step.weights,
        plan=step.made,
    )


class _Prune(Pass):
    """Requires a weight that can hold the pattern; ensures that each one it chose does."""

    stage = "prune"
    pattern: NMPattern
    keeps_plan = True

    def __init__(
        self, pattern: NMPattern, include: tuple[str, ...], exclude: tuple[str, ...], min_channels: int
    ) -> None:
        self.pattern = pattern
        self._globs, self._min_channels = (include, exclude), min_channels

    def rewrite(self, model: Model, parent: VerifyReport) -> Change:
        rules = _Rules(self.pattern, *self._globs, self._min_channels, _earlier_plan(model))
        judged = {(row.weight, row.consumer): row for row in parent.weights}
        found = stored_weights(model)
        # A part that is a weight of its own has its own row.
        own = {item.name for item in found}
        outcomes: list[tuple[PrunedWeight, tuple[Rewrite, ...]]] = []
        names: list[str] = []
        for stored in found:
            candidate = stored.open()
            names += [candidate.name, *candidate.part_names]
            rows = _decide_all(candidate, rules, judged)
            outcomes += [r for r in rows if r[0].weight == candidate.name or r[0].weight not in own]
        check_globs({"include": rules.include, "exclude": rules.exclude}, names)
        self.weights = tuple(weight for weight, _ in outcomes)
        if all(weight.status == "dense" for weight in self.weights):
            # A weight that the user named is reported before others.
            asked = [weight for weight in self.weights if weight.reason != _NOT_INCLUDED] or self.weights
            first = f"; {asked[0].weight}: {asked[0].reason}" if asked else ""
            raise SparsityError(f"no weight of {model.name} can hold {self.pattern}{first}")
        self.made = Plan(tuple(_entry(weight, rules) for weight in self.weights), METHOD)
        rewrites = [rewrite for _, found in outcomes for rewrite in found]
        self._relation: Relation = "subset" if rewrites else "equal"
        return Change(rewrites)

    def plan(self, model: Model, weights: Collection[str]) -> Plan:  # noqa: ARG002
        return self.made

    def ensures(self, parent: VerifyReport, child: VerifyReport) -> Relation:  # noqa: ARG002
        _check_result(child, self.weights, self.pattern)
        return self._relation


@dataclass(frozen=True, slots=True)
class _Rules:
    pattern: NMPattern
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    min_channels: int
    plan: Plan | None


def _earlier_plan(model: Model) -> Plan | None:
    """Return a plan that training made; one of this command is made anew."""
    plan = plan_of(model)
    return plan if plan is not None and plan.method != METHOD else None


def _decide_all(
    candidate: Candidate, rules: _Rules, judged: Mapping[tuple[str, str], WeightVerdict]
) -> list[tuple[PrunedWeight, tuple[Rewrite, ...]]]:
    """Decide on a weight; the parts that a Concat joins to it share its fate, and have a row each."""
    weight, rewrites = _decide(candidate, rules, judged)
    rows = [(weight, rewrites)]
    for (source, _), name in zip(candidate.parts, candidate.part_names, strict=True):
        part = PrunedWeight(
            weight=name,
            consumers=candidate.consumers,
            shape=source.shape,
            dtype=source.dtype,
            axis=None,
            status=weight.status,
            reason=f"joined with {candidate.name}: {weight.reason}",
        )
        rows.append((part, ()))
    return rows


def _decide(
    candidate: Candidate, rules: _Rules, judged: Mapping[tuple[str, str], WeightVerdict]
) -> tuple[PrunedWeight, tuple[Rewrite, ...]]:
    first = candidate.readings[0] if candidate.readings else None

    def outcome(status: Literal["pruned", "kept", "dense"], reason: str) -> PrunedWeight:
        return PrunedWeight(
            weight=candidate.name,
            consumers=candidate.consumers,
            shape=first.weight.shape if first else candidate.shape,
            dtype=candidate.dtype,
            axis=first.how.axis if first else None,
            status=status,
            reason=reason,
        )

    reason = _dense_reason(candidate, rules)
    if reason is not None or candidate.tensor is None or candidate.source is None or first is None:
        return outcome("dense", reason or candidate.obstacle), ()
    try:
        rows = [judged[candidate.name, reading.weight.consumer.label] for reading in candidate.readings]
        if any(row.nonfinite for row in rows):
            return outcome("dense", "it holds NaN or infinity; repair it before pruning"), ()
        if all(
            row.pattern == "holds" or _holds(reading, row, rules)
            for reading, row in zip(candidate.readings, rows, strict=True)
        ):
            return outcome("kept", f"it held {rules.pattern} already"), ()
        stored = [(candidate.source, candidate.tensor), *candidate.parts]
        if candidate.parts or any(reading.weight.tensor is None for reading in candidate.readings):
            check_reach(candidate.readings, [source for source, _ in stored], rules.pattern)
        rewrites = tuple(
            zero_weakest(tensor, source, candidate.readings, rules.pattern) for source, tensor in stored
        )
    except Opaque as why:
        return outcome("dense", str(why)), ()
    length = first.weight.shape[first.how.axis]
    return outcome("pruned", f"{length} elements on axis {first.how.axis}"), rewrites


def _holds(reading: Reading, row: WeightVerdict, rules: _Rules) -> bool:
    """Tell whether a weight that the plan wants dense holds the pattern all the same."""
    if row.pattern != "dense-by-plan":
        return False
    return not count_groups(reading.weight, reading.how, rules.pattern).broken


def _dense_reason(candidate: Candidate, rules: _Rules) -> str | None:
    """Say why a weight stays dense, or None when it may be pruned."""
    names = (candidate.name, *candidate.part_names)
    reason = dense_by_name(names, rules.include, rules.exclude) or candidate.obstacle
    if reason:
        return reason
    named = candidate.name in rules.include
    entry = None if rules.plan is None else rules.plan.get(candidate.name)
    if entry is not None and entry.pattern is None and not named:
        return f"the plan keeps it dense: {entry.reason}"
    for reading in candidate.readings:
        runs, shape = reading.how.runs, reading.weight.shape
        length = shape[reading.how.axis] // runs
        attributes = reading.weight.consumer.attributes
        groups = int(attributes.get("group", 1)) if reading.how.convolution else 1
        operator = reading.weight.consumer.operator
        if operator in ("LSTM", "GRU", "RNN") and not named:
            return f"{operator} has no known sparse kernel; name it in --include to prune it all the same"
        if 0 in shape:
            return f"its shape {list(shape)} has no elements"
        least = 0 if named else rules.min_channels
        too_small = dense_by_size(length * groups, groups, rules.pattern, least=least)
        if too_small is None and shape[reading.how.axis] % runs:
            channels = counted(length, "input channel is", "input channels are")
            too_small = f"{channels} not a multiple of {rules.pattern.m}"
        if too_small is not None:
            return too_small
    return None


def _entry(weight: PrunedWeight, rules: _Rules) -> PlanEntry:
    wanted = None if weight.status == "dense" else rules.pattern
    earlier = None if rules.plan is None else rules.plan.get(weight.weight)
    if weight.status == "kept" and earlier is not None and earlier.pattern is not None:
        # Training may have asked for more, which the weight still holds.
        wanted = earlier.pattern if rules.pattern.admits(earlier.pattern) else wanted
    return PlanEntry(weight.weight, wanted, weight.reason, weight.shape, weight.axis)


def _check_result(report: VerifyReport, weights: Sequence[PrunedWeight], pattern: NMPattern) -> None:
    """Hold the written model to its promise, read back as any consumer reads it."""
    sparse = {weight.weight for weight in weights if weight.status != "dense"}
    for verdict in report.weights:
        if verdict.weight in sparse and verdict.broken_groups:
            raise LineageError(
                f"{verdict.weight} does not hold {pattern} for {verdict.consumer} after pruning: "
                f"{verdict.sentence}; nothing was written"
            )
