"""The verdicts on a model's weights, counted and judged by the gate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from nm2trt.errors import InputError
from nm2trt.figures import counted, large
from nm2trt.graph.analysis.qdq_islands import Island, island_table
from nm2trt.graph.storage.element_types import DTYPE_NAMES
from nm2trt.graph.storage.model import Model
from nm2trt.graph.verify.verdict_table import verdict_table
from nm2trt.graph.verify.verdicts import answered_at
from nm2trt.json_value import JsonValue, named
from nm2trt.nm.eligibility import NOWHERE, Place
from nm2trt.nm.outlook import outlook
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import Plan
from nm2trt.nm.verdict import WeightVerdict
from nm2trt.tables.result import Result
from nm2trt.tables.table import Table

FailOn = Literal["broken", "ineligible", "any", "none"]
FAIL_ON: tuple[FailOn, ...] = ("broken", "ineligible", "any", "none")


def _saved(verdict: WeightVerdict) -> float:
    return (verdict.zero_share or 0.0) if verdict.pattern == "holds" else 0.0


@dataclass(frozen=True, slots=True)
class Summary(JsonValue):
    """The file in numbers; a weight with several consumers counts once.

    Args:
        parameters: Elements of all numeric initializers and judged weights.
        parameters_left: Those that are not zeros of a weight that holds its pattern.
        macs: Multiply-accumulates of one inference over weights whose shapes are known.
        macs_left: Those whose weight is kept.
        macs_unknown: Weights whose multiply-accumulates are not known.
    """

    parameters: int
    parameters_left: int
    macs: int
    macs_left: int
    macs_unknown: int


@dataclass(frozen=True, slots=True, repr=False)
class VerifyReport(Result):
    """What `verify_model` found.

    Args:
        model: Path of the model, or "".
        pattern: The pattern asked for if no plan says otherwise.
        weights: One verdict for each weight and consumer, in graph order.
        plan: The plan in the metadata, or None.
        missing: Planned weights that no consumer reads.
        mask_sha256: Hash over all masks; see `nm2trt.nm.lineage`.
        recorded_mask_sha256: The hash in the metadata, or "".
        summary: The file in numbers.
        islands: Layers of a quantised model that do not compute in INT8 (FP8) from end to end.
        place: Builder, version and targets that eligibility was answered for.
        quantised: The first node that quantises or computes with integers, or "".
    """

    model: str
    pattern: NMPattern
    weights: tuple[WeightVerdict, ...]
    plan: Plan | None
    missing: tuple[str, ...]
    mask_sha256: str
    recorded_mask_sha256: str
    summary: Summary
    islands: tuple[Island, ...] = ()
    place: Place = NOWHERE
    quantised: str = ""

    @property
    def outlook(self) -> str:
        """One sentence: how much can run sparse at `place`, and if nothing can, what would."""
        return outlook(self.weights, self.place)

    @property
    def counts(self) -> dict[str, int]:
        """Number of verdicts by pattern status."""
        counts: dict[str, int] = {}
        for verdict in self.weights:
            counts[verdict.pattern] = counts.get(verdict.pattern, 0) + 1
        return counts

    @property
    def any_holds(self) -> bool:
        """Whether at least one weight holds its pattern."""
        return any(verdict.pattern == "holds" for verdict in self.weights)

    def at(self, place: Place) -> VerifyReport:
        """Return the report with "eligible" answered for another place."""
        weights = tuple(answered_at(verdict, place, self.place) for verdict in self.weights)
        return replace(self, weights=weights, place=place)

    def failures(self, fail_on: FailOn = "broken") -> list[WeightVerdict]:
        """Return the verdicts that fail a gate.

        Args:
            fail_on: "broken": the pattern is broken, or an untraceable weight was planned sparse.
                "ineligible": also what holds the pattern but is not known to be eligible. "any": all
                that is neither held nor dense by plan. "none": nothing.

        Raises:
            InputError: `fail_on` is something else.
        """
        if fail_on not in FAIL_ON:
            raise InputError(f"{fail_on!r} is not one of {', '.join(FAIL_ON)}")
        planned = {entry.weight for entry in (self.plan.sparse if self.plan else ())}
        return [
            verdict
            for verdict in self.weights
            if _fails(verdict, fail_on, planned=not planned.isdisjoint((verdict.weight, *verdict.parts)))
        ]

    @property
    def judged(self) -> int:
        """Number of verdicts that say something of the weight's pattern: all but untraceable ones."""
        return sum(verdict.pattern != "untraceable" for verdict in self.weights)

    @property
    def blind(self) -> bool:
        """Whether the model has weights and none of them could be judged."""
        return bool(self.weights) and not self.judged

    def passed(self, fail_on: FailOn = "broken") -> bool:
        """Tell whether the model passes.

        Planned weights that are missing fail every gate but "none", and so does a model with weights of which
        none could be judged.
        """
        return fail_on == "none" or not (self.failures(fail_on) or self.missing or self.blind)

    def tables(self) -> tuple[Table, ...]:
        """Return the verdicts as a table, and the islands among Q/DQ if there are any."""
        islands = (island_table(self.islands),) if self.islands else ()
        return (verdict_table(self.weights), *islands)

    def remarks(self) -> tuple[str, ...]:
        """Return the file in numbers, and what could not be judged."""
        counts = ", ".join(f"{number} {status}" for status, number in sorted(self.counts.items()))
        total, unseen = len(self.weights), len(self.weights) - self.judged
        numbers = self.summary
        unknown = (
            f" (not known for {counted(numbers.macs_unknown, 'weight')})" if numbers.macs_unknown else ""
        )
        lines = [f"planned sparse, but no consumer reads it: {name}" for name in self.missing]
        parameters, macs = (
            ", left ".join(large(before, left))
            for before, left in (
                (numbers.parameters, numbers.parameters_left),
                (numbers.macs, numbers.macs_left),
            )
        )
        work = f"{macs}{unknown}" if numbers.macs or not numbers.macs_unknown else "not known"
        lines += [counts or "no weights", f"parameters {parameters}; MACs {work}"]
        if self.blind:
            lines.append(f"none of {counted(total, 'weight')} could be judged: all are untraceable")
        elif unseen:
            lines.append(f"{unseen} of {total} weights could not be judged: they are untraceable")
        return tuple(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            **named(self, "model pattern weights missing counts judged summary"),
            **named(self, "mask_sha256 recorded_mask_sha256"),
            "planned": self.plan is not None,
            **named(self, "builder=place.builder builder_version=place.version targets=place.targets"),
            **named(self, "outlook islands"),
        }


def _fails(verdict: WeightVerdict, fail_on: FailOn, *, planned: bool) -> bool:
    """Tell whether a verdict fails a gate.

    Args:
        verdict: The verdict.
        fail_on: The gate.
        planned: Whether the plan wants the weight, or a part of it, sparse.
    """
    if fail_on == "none":
        return False
    if verdict.pattern == "broken" or (verdict.pattern == "untraceable" and planned):
        return True
    if fail_on == "ineligible":
        return verdict.pattern == "holds" and verdict.eligible != "yes"
    return fail_on == "any" and verdict.pattern != "dense-by-plan" and verdict.eligible != "yes"


def summarise(model: Model, verdicts: Iterable[WeightVerdict]) -> Summary:
    """Count a file; a weight with several consumers counts once."""
    unique: dict[str, WeightVerdict] = {}
    macs_all = macs_left = 0.0
    unknown = 0
    for verdict in verdicts:
        if verdict.pattern == "untraceable":
            unknown += 1
            continue
        # A weight that several consumers read is as sparse as its best holder says.
        if verdict.weight not in unique or verdict.pattern == "holds":
            unique[verdict.weight] = verdict
        if verdict.macs is None:
            unknown += 1
            continue
        macs_all += verdict.macs
        macs_left += verdict.macs * (1.0 - _saved(verdict))
    judged = sum(verdict.parameters for verdict in unique.values())
    other = sum(
        math.prod(tensor.dims)
        for tensor in model.proto.graph.initializer
        if tensor.name not in unique
        and DTYPE_NAMES.get(tensor.data_type, "int64") not in ("int64", "int32", "bool")
    )
    kept = sum(round(verdict.parameters * (1.0 - _saved(verdict))) for verdict in unique.values())
    return Summary(judged + other, kept + other, round(macs_all), round(macs_left), unknown)
