"""Reconstructions as a report shows them: errors per layer, verdict on the outputs, accuracy budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nm2trt.figures import counted, percent
from nm2trt.reporting.fields import Fields
from nm2trt.reporting.records import StageRecord


@dataclass(frozen=True, slots=True)
class RebuiltRow:
    """One weight.

    Args:
        weight: Its name.
        status: "pruned", "refitted", "kept" or "dense".
        ridge: lambda, or None.
        dense_error: Error of the unpruned fit with that lambda, as a share of the output's variance, or None.
        magnitude_error: The same of the magnitude mask with the same fit, or None.
        error: The same of what was written, or None.
        alone: How far the outputs move with only this layer pruned, or None.
        reason: Why it is so.
    """

    weight: str
    status: str
    ridge: float | None
    dense_error: float | None
    magnitude_error: float | None
    error: float | None
    alone: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """One share of the work that was tried.

    Args:
        share: The share that is pruned.
        dense: Number of weights that the choice kept dense.
        value: The metric.
        low: Lower end of its interval.
        high: Upper end.
        difference: The metric minus the dense model's.
        difference_low: Lower end of the paired interval.
        difference_high: Upper end.
        outcome: "written", "kept" or "broken".
    """

    share: float
    dense: int
    value: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    outcome: str


@dataclass(frozen=True, slots=True)
class Budget:
    """A search for the largest share within an accuracy budget.

    Args:
        metric: The metric.
        max_drop: The largest loss allowed, in the metric's unit.
        n: Samples that judged.
        dense_value: The metric of the dense model.
        limit: The metric at the largest loss.
        place: Whose sparse kernels count, as a clause, or "".
        rows: Every share that was tried, the largest first.
    """

    metric: str
    max_drop: float
    n: int
    dense_value: float
    limit: float
    place: str
    rows: tuple[BudgetRow, ...]

    @property
    def scale(self) -> tuple[float, float]:
        """What the interval bars span."""
        values = [self.dense_value, self.limit, *(end for row in self.rows for end in (row.low, row.high))]
        margin = max(0.05 * (max(values) - min(values)), 0.002)
        return min(values) - margin, max(values) + margin


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """One reconstruction.

    Args:
        stage: Name of its stage.
        samples: Calibration samples.
        source: Where they are from.
        verdicts: How far each output moved, in words.
        rows: One row per weight.
        budget: The search for a share, or None.
    """

    stage: str
    samples: int
    source: str
    verdicts: tuple[str, ...]
    rows: tuple[RebuiltRow, ...]
    budget: Budget | None = None


def rebuilt_of(done: Iterable[tuple[StageRecord, Fields]]) -> tuple[Rebuilt, ...]:
    """Return the reconstructions of a run.

    Raises:
        InputError: A record is damaged.
    """
    return tuple(
        _rebuilt(record.name, fields)
        for record, fields in done
        if record.stage == "prune" and fields.text("method", "") == "reconstruct"
    )


def _rebuilt(name: str, fields: Fields) -> Rebuilt:
    rows = tuple(
        RebuiltRow(
            weight=row.text("weight"),
            status=row.text("status"),
            ridge=row.maybe("ridge"),
            dense_error=row.maybe("dense_error"),
            magnitude_error=row.maybe("magnitude_error"),
            error=row.maybe("error"),
            alone=row.maybe("divergence_alone"),
            reason=row.text("reason", ""),
        )
        for row in fields.objects("weights")
    )
    return Rebuilt(
        stage=name,
        samples=fields.count("samples") or 0,
        source=fields.text("source", ""),
        verdicts=tuple(verdict_of(fields)),
        rows=rows,
        budget=_budget(fields.object("budget")) if fields.has("budget") else None,
    )


def verdict_of(fields: Fields) -> Iterable[str]:
    """Yield how far each output of a reconstruction moved, in words."""
    kind = "held-out" if fields.data.get("outputs_held_out") is True else "fitted"
    if not fields.objects("outputs"):
        yield "no output was compared with the dense network's: none is a tensor of numbers"
    for output in fields.objects("outputs"):
        error, cosine = output.maybe("error"), output.maybe("cosine")
        kl, agreement = output.maybe("kl"), output.maybe("agreement")
        words = "not compared" if error is None else f"error {error:.3g} of the variance"
        words += "" if cosine is None else f", cosine {cosine:.4f}"
        words += "" if kl is None else f", KL {kl:.3g}"
        words += "" if agreement is None else f", the same class in {percent(agreement)}"
        remark = output.text("remark", "")
        words += f" ({counted(output.count('samples') or 0, f'{kind} sample')})" + (
            f"; {remark}" if remark else ""
        )
        yield f"output {output.text('output')}: {words}"


def _budget(fields: Fields) -> Budget:
    chosen = fields.object("chosen").data
    rows = tuple(
        BudgetRow(
            share=point.number("share"),
            dense=len(point.texts("dense")),
            value=point.number("value"),
            low=point.number("low"),
            high=point.number("high"),
            difference=point.number("difference"),
            difference_low=point.number("difference_low"),
            difference_high=point.number("difference_high"),
            outcome="written"
            if point.data == chosen
            else "kept"
            if point.data.get("passed") is True
            else "broken",
        )
        for point in fields.objects("points")
    )
    dense, drop = fields.number("dense_value"), fields.number("max_drop")
    worse = 1 if fields.data.get("higher_is_better") is False else -1
    return Budget(
        metric=fields.text("metric"),
        max_drop=drop,
        n=fields.count("n") or 0,
        dense_value=dense,
        limit=dense + worse * drop,
        place=fields.text("place", ""),
        rows=rows,
    )
