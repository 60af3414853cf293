"""The verdict that a report opens with: may the model be shipped, what is not measured, what comes next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nm2trt.reporting.data import AccuracyRow, ReportData

__all__ = ["Ship", "lost", "ship"]

# A loss that an interval cannot exclude is accepted up to this.
_TOLERATED = 0.01


@dataclass(frozen=True, slots=True)
class Ship:
    """The verdict.

    Args:
        answer: "yes", "no", or "open" if what a yes needs was not measured.
        sentence: The verdict in words, with the figure that decided.
        not_measured: What a decision should rest on and nobody measured; one clause each.
        next_step: What to do next.
    """

    answer: Literal["yes", "no", "open"]
    sentence: str
    not_measured: tuple[str, ...]
    next_step: str

    @property
    def line(self) -> str:
        """The verdict on one line, for a terminal."""
        open_ = f" (not measured: {'; '.join(self.not_measured)})" if self.not_measured else ""
        return f"{self.sentence}{open_}"


def lost(row: AccuracyRow) -> bool:
    """Tell whether a comparison shows a loss: its interval, or its difference without one, is below zero."""
    if row.difference is None:
        return False
    return row.difference < 0 if row.difference_high is None else row.difference_high < 0


def ship(data: ReportData) -> Ship:
    """Return the verdict on a run: any failed stage, broken weight or lost accuracy says no."""
    compared = [row for row in data.accuracy if row.difference is not None]
    missing = _not_measured(data, compared)
    stopped = next((row for row in data.stages if row.status in ("failed", "running")), None)
    if stopped is not None:
        what = "failed" if stopped.status == "failed" else "was stopped"
        sentence = f"No: stage {stopped.name} {what}"
        return Ship("no", sentence, missing, f"mend stage {stopped.name} and run again")
    broken = [row for row in data.weights if row.status == "broken"]
    if broken:
        count = f"{len(broken)} of {len(data.weights)} weights break their pattern, first {broken[0].weight}"
        step = "export the finalised model again, or prune it (nm2trt prune)"
        return Ship("no", f"No: {count}", missing, step)
    worst = min(compared, key=lambda row: row.difference or 0.0, default=None)
    if worst is not None and lost(worst):
        step = "rebuild it (nm2trt prune --calib SAMPLES.npz), train it sparse, or keep layers dense"
        return Ship("no", f"No: {_loss(worst)}", missing, step)
    if worst is None:
        step = "nm2trt validate CANDIDATE --against REFERENCE --data TEST.npz"
        return Ship("open", "Not shown yet: nothing compared its accuracy", missing, step)
    if worst.difference_low is not None and worst.difference_low < -_TOLERATED:
        low = f"{100 * worst.difference_low:+.2f} points of {worst.metric} are not excluded (n = {worst.n})"
        return Ship("open", f"Not shown yet: {low}", missing, "validate it on more samples")
    kept = f"accuracy held: {_loss(worst)}"
    if missing:
        return Ship("open", f"Its accuracy, yes, its speed not yet: {kept}", missing, _speed_step(data))
    return Ship("yes", f"Yes: {kept}", missing, "nm2trt deploy ENGINE --repository REPOSITORY")


def _loss(row: AccuracyRow) -> str:
    interval = ""
    if row.difference_low is not None and row.difference_high is not None:
        interval = f" ({100 * row.difference_low:+.2f} to {100 * row.difference_high:+.2f}, n = {row.n})"
    points = f"{100 * (row.difference or 0.0):+.2f} points of {row.metric}{interval}"
    return f"{row.model} has {points} against {row.reference}"


def _speed_step(data: ReportData) -> str:
    model = data.weights_of or "MODEL.onnx"
    return f"nm2trt prove {model} on the GPU that it is for"


def _not_measured(data: ReportData, compared: list[AccuracyRow]) -> tuple[str, ...]:
    found = [] if compared else ["accuracy against the dense model"]
    answers = {row.rungs["chosen"].answer for row in data.weights if "chosen" in row.rungs}
    if not answers & {"yes", "no"}:
        found.append("which kernels run, sparse or dense")
    gains = {row.rungs["gain"].answer for row in data.weights if "gain" in row.rungs}
    if not gains & {"yes", "no"}:
        found.append("speed on the GPU")
    return tuple(found)
