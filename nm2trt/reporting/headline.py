"""The few facts that a report opens with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nm2trt.figures import counted, percent, size
from nm2trt.reporting.data import ReportData
from nm2trt.reporting.decision import decisive


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact.

    Args:
        value: The figure.
        label: What it is of.
        detail: What it rests on.
        tone: Whether it is good, bad, or neither.
        kind: What it is called beside the fact of another run; "" if as its label says.
    """

    value: str
    label: str
    detail: str
    tone: Literal["good", "bad", "plain"] = "plain"
    kind: str = ""

    @property
    def title(self) -> str:
        """Its name in a table of two runs."""
        return self.kind or self.label


def headline(data: ReportData) -> list[Fact]:
    """Return the facts that this run can back, at most one of each kind.

    A speed is shown only if an engine that can run sparse kernels was timed, with an interval: the ratio of
    two medians in ONNX Runtime on a CPU is noise. The tables of latencies show all that was measured.
    """
    facts = [_accuracy(data), _work(data), _zeros(data), _pattern(data), _sizes(data), _speed(data)]
    return [fact for fact in facts if fact is not None]


def _accuracy(data: ReportData) -> Fact | None:
    compared = decisive(data)
    if not compared:
        return Fact("not measured", "accuracy", "no stage compared it with the dense model")
    # A stage that lost is never hidden by a later one that did not.
    lost = [row for row in compared if row.lost]
    row = min(lost, key=lambda row: row.difference or 0.0, default=compared[-1])
    value = f"{100 * (row.difference or 0.0):+.2f}".replace("-", "−")
    if row.difference_low is None or row.difference_high is None:
        return Fact(f"{value} points", row.metric, f"{row.model} against {row.reference}")
    interval = f"{100 * row.difference_low:+.2f} to {100 * row.difference_high:+.2f}".replace("-", "−")
    tone: Literal["bad", "good", "plain"] = (
        "bad" if row.difference_high < 0 else "good" if row.difference_low >= -0.01 else "plain"
    )
    score = percent(row.value, 2) if row.share else f"{row.value:.4g}"
    detail = f"{percent(row.confidence, 0)} interval {interval}; {row.model} has {score}, n = {row.n:,}"
    return Fact(f"{value} points", f"{row.metric}, paired", detail, tone)


def _work(data: ReportData) -> Fact | None:
    if data.sparse_work is None:
        return None
    share, place = data.sparse_work.share, data.sparse_work.place
    return Fact(
        percent(share),
        "of the work can run sparse",
        f"on {place}" if place else "",
        "plain" if share else "bad",
        "work that can run sparse",
    )


def _zeros(data: ReportData) -> Fact | None:
    known = [row for row in data.weights if row.parameters and row.zero_share is not None]
    total = sum(row.parameters or 0 for row in known)
    if not total:
        return None
    zeros = sum((row.parameters or 0) * (row.zero_share or 0.0) for row in known)
    detail = f"of {total:,} in {counted(len(known), 'layer')}"
    return Fact(percent(zeros / total), "of the weights are zero", detail, kind="zeros among the weights")


def _pattern(data: ReportData) -> Fact | None:
    judged = [row for row in data.weights if row.status]
    if not judged:
        return None
    holds = [row for row in judged if row.status == "holds"]
    broken = sum(row.status == "broken" for row in judged)
    wanted = sorted({row.wanted for row in holds if row.wanted})
    return Fact(
        f"{len(holds)} of {len(judged)}",
        f"weights hold {' or '.join(wanted) or 'N:M'}",
        f"{broken} broken" if broken else "none broken",
        "bad" if broken else "good" if holds else "plain",
    )


def _sizes(data: ReportData) -> Fact | None:
    """Return the size of what was made last, and of what it was made from."""
    nodes = {node.key: node for node in data.lineage}
    last = next((node for node in reversed(data.lineage) if node.size_bytes), None)
    if last is None:
        return None
    first, seen = last, {last.key}
    while parent := next((nodes[key] for key in first.parents if key in nodes and key not in seen), None):
        first = parent
        seen.add(first.key)
    if first is last or not first.size_bytes:
        return None
    after, before = (size(node.size_bytes or 0) for node in (last, first))
    return Fact(after, "on disk", f"{last.name}; {first.name} had {before}")


def _speed(data: ReportData) -> Fact:
    if not data.speed:
        return Fact("not measured", "speed", "no engine that can run sparse kernels was timed")
    row = data.speed[0]
    where = f" on {row.device}" if row.device else ""
    # A folder of GPU evidence has several models: the first of them is not the speed of all.
    alike = [one for one in data.speed if (one.name, one.against) == (row.name, row.against)]
    low, high = min(one.low for one in alike), max(one.high for one in alike)
    tone: Literal["bad", "good", "plain"] = "good" if low > 1 else "bad" if high < 1 else "plain"
    pair = f"{row.name} against {row.against}{where}"
    if len(alike) > 1:
        speeds = [one.speedup for one in alike]
        value = f"{min(speeds):.2f}x to {max(speeds):.2f}x"
        return Fact(value, "speed", f"of {len(alike)} models, {pair}", tone)
    return Fact(f"{row.speedup:.2f}x", "speed", f"{low:.2f}x to {high:.2f}x, {pair}", tone)
