"""The verdict that a report opens with: may the model be shipped, what is not measured, what comes next."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from nm2trt.options.engines import BuilderCommand, ProveCommand
from nm2trt.options.field import Option, options_of
from nm2trt.options.shared import Tabled
from nm2trt.reporting.data import AccuracyRow, ReportData
from nm2trt.reporting.decision import decisive
from nm2trt.terminal_text import quoted_words, shell_path

# A loss that an interval cannot exclude is accepted up to this.
_TOLERATED = 0.01
# Files that only the user has.
_SAMPLES, _TEST, _DENSE = "SAMPLES.npz", "TEST.npz", "DENSE.onnx"
# Labelled samples that choose; figures of a test set that chose would flatter.
_LABELLED = "LABELLED.npz"


@dataclass(frozen=True, slots=True)
class Ship:
    """The verdict.

    Args:
        answer: "yes", "no", or "open" if what a yes needs was not measured.
        sentence: The verdict in words, with the figure that decided.
        not_measured: What a decision should rest on and was not measured; one clause each.
        next_step: The command to type next, with a remark as a comment of the shell; "" if none is known.
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


def ship(data: ReportData) -> Ship:
    """Return the verdict on a run: any failed stage, broken weight or lost accuracy says no."""
    compared = decisive(data)
    missing = _not_measured(data, compared)
    return _refused(data, compared, missing) or _open(data, compared, missing)


def _refused(data: ReportData, compared: list[AccuracyRow], missing: tuple[str, ...]) -> Ship | None:
    """Return the verdict "no" and its reason, or None."""
    losses = [row for row in compared if row.lost]
    worst = min(losses, key=lambda row: row.difference or 0.0, default=None)
    stopped = next((row for row in data.stages if row.status in ("failed", "running")), None)
    if stopped is not None:
        what = "failed" if stopped.status == "failed" else "was stopped"
        why = f": {_loss(worst)}" if worst is not None and stopped.stage == "validate" else ""
        step = f"{stopped.command}  # once its cause is mended" if stopped.command else ""
        if worst is not None and why:
            step = _repair(data, worst)
        return Ship("no", f"No: stage {stopped.name} {what}{why}", missing, step)
    broken = [row for row in data.weights if row.status == "broken"]
    if broken:
        count = f"{len(broken)} of {len(data.weights)} weights break their pattern, first {broken[0].weight}"
        step = f"nm2trt prune {_file(data, 'model', 'MODEL.onnx')} --calib {_SAMPLES}"
        return Ship("no", f"No: {count}", missing, f"{step}  # or export the finalised model again")
    if worst is not None:
        return Ship("no", f"No: {_loss(worst)}", missing, _repair(data, worst))
    return None


def _open(data: ReportData, compared: list[AccuracyRow], missing: tuple[str, ...]) -> Ship:
    """Return the verdict on a run in which nothing failed."""
    if not compared:
        candidate = _file(data, "model", "CANDIDATE.onnx")
        step = f"nm2trt validate {candidate} --against {_file(data, 'dense', _DENSE)} --data {_TEST}"
        return Ship("open", "Not shown yet: nothing compared its accuracy", missing, step)
    wide = next((row for row in compared if (row.difference_low or 0.0) < -_TOLERATED), None)
    if wide is not None:
        low = f"a loss of {-100 * (wide.difference_low or 0.0):.2f} points of {wide.metric} is not excluded"
        names = (_file(data, *pair) for pair in (("candidate", "CANDIDATE.onnx"), ("reference", _DENSE)))
        step = f"nm2trt validate {' --against '.join(names)} --data {_TEST}  # more samples than {wide.n}"
        return Ship("open", f"Not shown yet: {low} (n = {wide.n:,})", missing, step)
    kept = f"accuracy held: {_loss(compared[-1])}"
    model = _file(data, "model", "MODEL.onnx")
    if data.sparse_work is not None and not data.sparse_work.share:
        sentence = f"Not for speed, since nothing is known to run sparse; {kept}"
        return Ship("open", sentence, missing, f"nm2trt explain {model}")
    if missing:
        step = f"nm2trt prove {model}{_as_built(data)}  # on the GPU that it is for"
        return Ship("open", f"For its accuracy yes, for its speed not yet: {kept}", missing, step)
    engine = _file(data, "engine", "ENGINE")
    return Ship("yes", f"Yes: {kept}", missing, f"nm2trt deploy {engine} --repository REPOSITORY --name NAME")


def _as_built(data: ReportData) -> str:
    """Return the options of the run's last build that a proof takes too, as words of a shell."""
    built = [row.command for row in data.stages if row.stage == "build" and row.command]
    typed = iter(quoted_words(built[-1]) if built else ())
    kept = []
    for word in typed:
        flag, joined, _ = word.lstrip("$'").partition("=")
        known = _of_builder().get(flag)
        if known is not None:
            kept.append(word)
            kept += [] if joined or known.kind is bool else [next(typed, "")]
    return "".join(f" {word}" for word in kept)


@functools.cache
def _of_builder() -> dict[str, Option]:
    shown = {known.name for known in options_of(Tabled)}
    both = (*options_of(BuilderCommand), *(o for o in options_of(ProveCommand) if o.name == "backend"))
    return {known.flag: known for known in both if known.name not in shown}


def _repair(data: ReportData, loss: AccuracyRow) -> str:
    """Return the command that prunes the dense model again, as far as the accuracy allows."""
    prune = f"nm2trt prune {_file(data, 'reference', _DENSE)} --calib {_SAMPLES}"
    if loss.metric != "top-1":
        return f"{prune} --share 50%  # half of the work, the layers that move the outputs least"
    return f"{prune} --data {_LABELLED} --max-drop 1pt"


def _file(data: ReportData, kind: str, otherwise: str) -> str:
    return shell_path(data.files.get(kind) or otherwise)


def _loss(row: AccuracyRow) -> str:
    interval = ""
    if row.difference_low is not None and row.difference_high is not None:
        interval = f" ({100 * row.difference_low:+.2f} to {100 * row.difference_high:+.2f}, n = {row.n:,})"
    points = f"{100 * (row.difference or 0.0):+.2f} points of {row.metric}{interval}"
    return f"{row.model} has {points} against {row.reference}"


def _not_measured(data: ReportData, compared: list[AccuracyRow]) -> tuple[str, ...]:
    found = [] if compared else ["accuracy against the dense model"]
    answers = {row.rungs["chosen"].answer for row in data.weights if "chosen" in row.rungs}
    if not answers & {"yes", "no"}:
        found.append("which kernels run, sparse or dense")
    gains = {row.rungs["gain"].answer for row in data.weights if "gain" in row.rungs}
    if not gains & {"yes", "no"} and not data.speed:
        found.append("speed on the GPU")
    return tuple(found)
