"""The few facts that a report opens with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nm2trt.reporting.data import AccuracyRow, ReportData
from nm2trt.reporting.ship import lost

__all__ = ["Fact", "headline"]


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact.

    Args:
        value: The figure.
        label: What it is of.
        detail: What it rests on.
        tone: Whether it is good, bad, or neither.
    """

    value: str
    label: str
    detail: str
    tone: Literal["good", "bad", "plain"] = "plain"


def headline(data: ReportData) -> list[Fact]:
    """Return the facts that this run can back, at most one of each kind.

    A speed is none of them: a run in one process has no interval that holds, and ONNX Runtime on a CPU has no
    sparse kernels, so that the ratio of two medians there is noise. The tables of latencies show what was
    measured.
    """
    facts = [_accuracy(data), _zeros(data), _pattern(data), _sizes(data), _kernels(data), _stages(data)]
    return [fact for fact in facts if fact is not None]


def _stages(data: ReportData) -> Fact | None:
    if not data.stages:
        return None
    done = sum(row.status == "done" for row in data.stages)
    bad = next((row for row in data.stages if row.status in ("failed", "running")), None)
    if bad is not None:
        what = "failed" if bad.status == "failed" else "was stopped"
        return Fact(f"{done} of {len(data.stages)}", "stages done", f"{bad.name} {what}", "bad")
    rest = "all of them" if done == len(data.stages) else "the others have not run"
    tone: Literal["good", "plain"] = "good" if done == len(data.stages) else "plain"
    return Fact(f"{done} of {len(data.stages)}", "stages done", rest, tone)


def _pattern(data: ReportData) -> Fact | None:
    judged = [row for row in data.weights if row.status]
    if not judged:
        return None
    holds = [row for row in judged if row.status == "holds"]
    broken = sum(row.status == "broken" for row in judged)
    wanted = sorted({row.wanted for row in holds if row.wanted})
    detail = f"{broken} broken" if broken else "none broken"
    return Fact(
        f"{len(holds)} of {len(judged)}",
        f"weights hold {' or '.join(wanted) or 'N:M'}",
        detail,
        "bad" if broken else "good" if holds else "plain",
    )


def _zeros(data: ReportData) -> Fact | None:
    counted = [row for row in data.weights if row.parameters and row.zero_share is not None]
    total = sum(row.parameters or 0 for row in counted)
    if not total:
        return None
    zeros = sum((row.parameters or 0) * (row.zero_share or 0.0) for row in counted)
    return Fact(f"{zeros / total:.1%}", "of the weights are zero", f"of {total:,} in {len(counted)} layers")


def _accuracy(data: ReportData) -> Fact | None:
    compared = [row for row in data.accuracy if row.difference is not None]
    if not compared:
        return None
    # A stage that lost is never hidden by a later one that did not.
    row = next((row for row in sorted(compared, key=_difference) if lost(row)), compared[-1])
    value = f"{100 * (row.difference or 0.0):+.2f}".replace("-", "−")
    if row.difference_low is None or row.difference_high is None:
        return Fact(f"{value} points", row.metric, f"{row.model} against {row.reference}")
    interval = f"{100 * row.difference_low:+.2f} to {100 * row.difference_high:+.2f}".replace("-", "−")
    tone: Literal["bad", "good", "plain"] = (
        "bad" if row.difference_high < 0 else "good" if row.difference_low >= -0.01 else "plain"
    )
    return Fact(
        f"{value} points",
        f"{row.metric}, paired",
        f"{row.confidence:.0%} interval {interval}, n = {row.n}",
        tone,
    )


def _difference(row: AccuracyRow) -> float:
    return row.difference or 0.0


def _sizes(data: ReportData) -> Fact | None:
    sized = [node for node in data.lineage if node.size_bytes]
    if len(sized) < 2 or sized[0].key == sized[-1].key:
        return None
    before, after = (f"{(node.size_bytes or 0) / 1e6:.2f} MB" for node in (sized[0], sized[-1]))
    return Fact(after, "on disk", f"{sized[-1].name}; {sized[0].name} has {before}")


def _kernels(data: ReportData) -> Fact | None:
    answers = [row.rungs["chosen"].answer for row in data.weights if "chosen" in row.rungs]
    answers = [answer for answer in answers if answer]
    if not answers:
        return None
    chosen = sum(answer == "yes" for answer in answers)
    if chosen:
        return Fact(
            f"{chosen} of {len(answers)}", "weights run sparse kernels", "named by the builder", "good"
        )
    if "not measured" in answers:
        return Fact("not measured", "sparse kernels", "chosen on the GPU that loads the engine")
    return Fact("none", "sparse kernels", "the ladder says why", "bad")
