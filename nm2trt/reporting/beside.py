"""Two runs side by side: what a page of both shows, as values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from nm2trt.figures import percent
from nm2trt.json_value import JsonValue
from nm2trt.reporting.curves import Curve
from nm2trt.reporting.data import REPORT_SCHEMA, AccuracyRow, ReportData, WeightRow
from nm2trt.reporting.headline import Fact, headline


@dataclass(frozen=True, slots=True)
class Pair:
    """One thing of both runs.

    Args:
        label: What it is.
        first: What the first run says of it; "" if nothing.
        second: What the second run says.
        lost: Whether the first and the second show a loss.
    """

    label: str
    first: str
    second: str
    lost: tuple[bool, bool] = (False, False)

    @property
    def differs(self) -> bool:
        """Whether the two say different things."""
        return self.first != self.second


@dataclass(frozen=True, slots=True)
class Beside(JsonValue):
    """Two runs.

    Args:
        runs: The runs.
        names: What to call them: their names, made different.
        facts: The facts that each report opens with.
        stages: Stages by name.
        accuracy: Scores, by metric and stage.
        latency: Medians in ms, by group and model: of one machine and one process each, so no ratio.
        weights: Weights whose pattern, zeros or rungs differ; totals, if the networks do.
        alike: Weights that do not differ.
        other_network: Whether the runs have hardly a weight in common.
        curves: What training logged, both runs on each.
        versions: Versions that differ.
    """

    schema = REPORT_SCHEMA
    json_names = "schema names facts stages accuracy latency weights versions alike other_network runs"

    runs: tuple[ReportData, ReportData]
    names: tuple[str, str]
    facts: tuple[Pair, ...]
    stages: tuple[Pair, ...]
    accuracy: tuple[Pair, ...]
    latency: tuple[Pair, ...]
    weights: tuple[Pair, ...]
    alike: int
    curves: tuple[Curve, ...]
    versions: tuple[Pair, ...]
    other_network: bool = False


def beside(first: ReportData, second: ReportData, folders: tuple[str, str]) -> Beside:
    """Set two runs side by side.

    Args:
        first: A run.
        second: Another.
        folders: Their folders, which tell them apart if their names are equal.
    """
    runs = (first, second)
    names = (first.name, second.name)
    if names[0] == names[1]:
        names = (f"{names[0]} ({folders[0]})", f"{names[1]} ({folders[1]})")
    other = _is_other_network(runs)
    weights = _pairs(
        runs, _totals if other else lambda run: {row.weight: _weight(row) for row in run.weights}
    )
    differing = tuple(pair for pair in weights if pair.differs or other)
    return Beside(
        runs=runs,
        names=names,
        facts=_pairs(runs, lambda run: {fact.title: _fact(fact) for fact in headline(run)}),
        stages=_stages(runs),
        accuracy=_accuracy(runs),
        latency=_pairs(runs, _medians),
        weights=differing,
        alike=len(weights) - len(differing),
        curves=_curves(runs, names),
        versions=tuple(p for p in _pairs(runs, lambda run: dict(run.versions)) if p.differs),
        other_network=other,
    )


def _pairs(runs: Sequence[ReportData], told: Callable[[ReportData], dict[str, str]]) -> tuple[Pair, ...]:
    first, second = map(told, runs)
    return tuple(Pair(key, first.get(key, ""), second.get(key, "")) for key in {**first, **second})


def _fact(fact: Fact) -> str:
    return fact.value + (f" ({fact.detail})" if fact.detail else "")


def _stages(runs: Sequence[ReportData]) -> tuple[Pair, ...]:
    pairs = _pairs(
        runs,
        lambda run: {row.name: row.sentence if row.status == "done" else row.status for row in run.stages},
    )
    bad = [
        {row.name for row in run.stages if row.lost or row.status in ("failed", "running")} for run in runs
    ]
    return tuple(replace(pair, lost=(pair.label in bad[0], pair.label in bad[1])) for pair in pairs)


def _accuracy(runs: Sequence[ReportData]) -> tuple[Pair, ...]:
    def key(row: AccuracyRow) -> str:
        return f"{row.metric}, {row.stage}" + ("" if row.difference is not None else f", {row.model}")

    pairs = _pairs(runs, lambda run: {key(row): _score(row) for row in run.accuracy})
    lost = [{key(row) for row in run.accuracy if row.lost} for run in runs]
    return tuple(replace(pair, lost=(pair.label in lost[0], pair.label in lost[1])) for pair in pairs)


def _score(row: AccuracyRow) -> str:
    text = percent(row.value, 2) if row.share else f"{row.value:.4g}"
    if row.difference is None:
        return text
    text += f", {100 * row.difference:+.2f} points"
    if row.difference_low is not None and row.difference_high is not None:
        text += f" ({100 * row.difference_low:+.2f} to {100 * row.difference_high:+.2f})"
    return text.replace("-", "−")


def _medians(run: ReportData) -> dict[str, str]:
    return {
        f"{row.group}, {row.name}": f"{row.percentiles[50]:.3g} ms"
        for row in run.latency
        if 50 in row.percentiles
    }


def _weight(row: WeightRow) -> str:
    zeros = "zeros not counted" if row.zero_share is None else f"{percent(row.zero_share)} zeros"
    rungs = [answer.detail for answer in row.rungs.values() if answer.detail not in ("", "-")]
    return ", ".join(dict.fromkeys(filter(None, (row.status.replace("-", " "), zeros, *rungs))))


def _is_other_network(runs: Sequence[ReportData]) -> bool:
    """Tell whether two runs share less than a tenth of their weights by name and shape."""
    first, second = ({(row.weight, row.shape) for row in run.weights} for run in runs)
    return bool(first and second) and 10 * len(first & second) < min(len(first), len(second))


def _totals(run: ReportData) -> dict[str, str]:
    """Return how many weights there are, how many in each state, and their elements; zeros are a fact."""
    states = Counter(row.status.replace("-", " ") for row in run.weights if row.status)
    return {
        "weights": str(len(run.weights)),
        "of them": ", ".join(f"{count} {status}" for status, count in sorted(states.items())),
        "elements": f"{sum(row.parameters or 0 for row in run.weights):,}",
    }


def _curves(runs: Sequence[ReportData], names: tuple[str, str]) -> tuple[Curve, ...]:
    """Draw both runs on each curve: the second one's methods get the colours after those of the first."""
    found: dict[str, Curve] = {}
    offset = 0
    for run, name in zip(runs, names, strict=True):
        highest = -1
        for curve in run.curves:
            series = tuple(
                replace(
                    line,
                    index=line.index + offset,
                    name=f"{name}: {line.name}",
                    method=f"{name}: {line.method or line.name}",
                )
                for line in curve.series
            )
            known = found.get(curve.key)
            found[curve.key] = replace(curve, series=(*(known.series if known else ()), *series))
            highest = max(highest, *(line.index for line in curve.series))
        offset += highest + 1
    return tuple(found.values())
