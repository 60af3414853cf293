"""Report of a search within an accuracy budget: points, the written one, a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nm2trt.errors import InputError
from nm2trt.extras import names_the_extra
from nm2trt.figures import counted, percent
from nm2trt.json_value import named
from nm2trt.tables.result import Result
from nm2trt.tables.table import Column, Row, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nm2trt.graph.reconstruct.report import ReconstructReport
    from nm2trt.graph.verify.report import VerifyReport


@dataclass(frozen=True, slots=True)
class BudgetPoint:
    """One share that was tried.

    Args:
        share: Share of the countable work whose layers are pruned.
        dense: Weights that the choice kept dense.
        value: The metric.
        low: Lower end of its 95 % interval.
        high: Upper end.
        difference: The metric minus the dense model's.
        difference_low: Lower end of the paired interval.
        difference_high: Upper end.
        passed: Whether the interval excludes a larger loss than the budget.
        sentence: The same in words.
    """

    share: float
    dense: tuple[str, ...]
    value: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    passed: bool
    sentence: str


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class BudgetPoints(Result):
    """The shares that a search for the largest one within a budget tried.

    Args:
        metric: The metric.
        max_drop: The budget, in the metric's own unit.
        n: Samples of each point.
        dense_value: The metric of the dense model.
        higher_is_better: Whether more of the metric is better.
        points: Every share that was tried, the largest first.
        chosen: The one that was written; None if nothing fits.
        place: Whose sparse kernels count, as a clause; "" counts every layer that can hold the pattern.
        beyond: Weights that no sparse kernel there is known to run, or that the gain table says do not pay,
            with reasons; they stay dense and their work does not count.
        notes: What limits the answers of the gain table, one sentence each.
    """

    metric: str
    max_drop: float
    n: int
    dense_value: float
    higher_is_better: bool
    points: tuple[BudgetPoint, ...]
    chosen: BudgetPoint | None = None
    place: str
    beyond: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def tables(self) -> tuple[Table, ...]:
        """Return one row per share that was tried."""
        columns = (
            Column("share of the work", "number"),
            Column("stay dense", "number"),
            Column(self.metric, "number"),
            Column("difference", "number"),
            Column("interval", "number"),
            Column("budget"),
        )
        rows = (
            Row(
                (
                    percent(point.share),
                    str(len(point.dense)),
                    f"{point.value:.4f}",
                    f"{100 * point.difference:+.2f}",
                    f"{100 * point.difference_low:+.2f} to {100 * point.difference_high:+.2f}",
                    ("written" if point is self.chosen else "kept") if point.passed else "broken",
                ),
                "good" if point.passed else "",
            )
            for point in self.points
        )
        return (Table(columns, tuple(rows), title=f"{self.metric} by share", noun="shares"),)

    def to_json(self) -> dict[str, Any]:
        """Return the search as JSON values, under `budget`."""
        names = "metric max_drop n dense_value points chosen place beyond higher_is_better notes"
        return {"budget": named(self, names)}


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class BudgetReport(BudgetPoints):
    """What a search for the largest share within a budget found, if a share fits.

    Args:
        report: The reconstruction that was written.
        chosen: The share that was written.
    """

    report: ReconstructReport
    chosen: BudgetPoint

    @property
    def output(self) -> str:
        """The model that was written."""
        return self.report.output

    @property
    def verified(self) -> VerifyReport | None:
        """What `verify` says of it."""
        return self.report.verified

    def tables(self) -> tuple[Table, ...]:
        """Return the table of the reconstruction, and one row per share that was tried."""
        return (*self.report.tables(), *BudgetPoints.tables(self))

    def remarks(self) -> tuple[str, ...]:
        """Return what the reconstruction says, and what the budget allowed."""
        where = f" that sparse kernels can run{self.place}" if self.place else " that can be pruned"
        beyond = (
            f"; {counted(len(self.beyond), 'weight beyond it stays', 'weights beyond it stay')} dense"
            if self.beyond
            else ""
        )
        most = f"the most of {counted(len(self.points), 'share that was', 'shares that were')} tried{beyond}"
        return (
            *self.report.remarks(),
            f"{percent(self.chosen.share)} of the work{where} is pruned, {most}",
            self.chosen.sentence,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the reconstruction as JSON values, with the search under `budget`."""
        return {**self.report.to_json(), **BudgetPoints.to_json(self)}


def check_plot(target: Path) -> None:
    """Raise if a picture cannot be drawn into a file of this name.

    Raises:
        BackendMissingError: matplotlib is not installed.
        InputError: It does not write this format.
    """
    formats = _figure().canvas.get_supported_filetypes()
    if _format(target) not in formats:
        raise InputError(f"{target.name} has a suffix that matplotlib does not write; use .png or .svg")


def _figure() -> Figure:
    with names_the_extra("matplotlib"):
        from matplotlib.figure import Figure
    return Figure(figsize=(5, 3.5), layout="constrained")


def _format(target: Path) -> str:
    return target.suffix.lstrip(".").lower() or "png"


def plot_points(report: BudgetReport, target: Path) -> None:
    """Draw the metric against the share of the work that is pruned.

    Args:
        report: The search.
        target: The picture; `check_plot` takes its name.

    Raises:
        BackendMissingError: matplotlib is not installed.
        OutputError: The file cannot be written.
    """
    from nm2trt.files import atomic_path

    figure = _figure()
    axes = figure.subplots()
    shares = [100 * point.share for point in report.points]
    values = [point.value for point in report.points]
    ends = [
        [max(p.value - p.low, 0.0) for p in report.points],
        [max(p.high - p.value, 0.0) for p in report.points],
    ]
    axes.errorbar(shares, values, yerr=ends, marker="o", capsize=3, color="tab:blue")
    axes.axhline(report.dense_value, color="tab:gray", label="dense")
    sign = -1 if report.higher_is_better else 1
    axes.axhline(report.dense_value + sign * report.max_drop, color="tab:red", linestyle="--", label="budget")
    axes.plot([100 * report.chosen.share], [report.chosen.value], "o", color="tab:green", label="written")
    axes.set(xlabel=f"% of the work pruned{report.place}", ylabel=report.metric, xlim=(0, 105))
    axes.legend()
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format=_format(target), dpi=120)
