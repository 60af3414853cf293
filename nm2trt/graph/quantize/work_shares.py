"""Work shares: multiply-accumulates of a quantised model by what they compute in, and what can run sparse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nm2trt.graph.analysis.multiply_accumulates import with_macs
from nm2trt.graph.quantize.search_report import WorkShares
from nm2trt.graph.storage.model import Model
from nm2trt.graph.verify.report import VerifyReport
from nm2trt.nm.eligibility import Place, can_run_sparse

_LOW = ("int8", "float8")


def layer_work(
    model: Model, report: VerifyReport, shapes: Mapping[str, Sequence[int]]
) -> dict[str, tuple[float, bool]]:
    """Return, by the label of a layer, its work and whether its weight holds the pattern.

    Args:
        model: The float model.
        report: Its weights, judged.
        shapes: Shape of every input that has free sizes.
    """
    rows = with_macs(model, report.weights, shapes)
    return {
        row.consumer: (
            float(row.parameters if row.macs is None else row.macs),
            row.pattern == "holds" and row.facts is not None and row.facts.conv_groups == 1,
        )
        for row in rows
    }


def work_shares(
    model: Model, report: VerifyReport, shapes: Mapping[str, Sequence[int]], place: Place
) -> WorkShares:
    """Return how much of a quantised model's work computes in the low format, and how much can run sparse.

    Args:
        model: The quantised model.
        report: Its weights, judged.
        shapes: Shape of every input that has free sizes.
        place: Builder and targets.
    """
    every = with_macs(model, report.weights, shapes)
    rows = [row for row in every if row.macs is not None]
    low = [
        (row, facts)
        for row in rows
        if (facts := row.facts) is not None and facts.dtype.startswith(_LOW) and not facts.island
    ]
    sparse = [row for row, facts in low if can_run_sparse(facts, place).answer == "yes"]
    parts = (rows, [row for row, _ in low], sparse)
    total, in_low, in_sparse = (sum(row.macs or 0 for row in part) for part in parts)
    return WorkShares(total, in_low, in_sparse, place.suffix, len(every) - len(rows))
