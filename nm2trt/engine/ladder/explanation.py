"""Explanation of an engine that is not faster: reasons with their share of the work."""

from __future__ import annotations

from dataclasses import dataclass

from nm2trt.engine.ladder.forecast import Forecast
from nm2trt.engine.ladder.ladder_row import LadderRow
from nm2trt.figures import percent
from nm2trt.tables.result import Result
from nm2trt.terminal_text import shorten


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason.

    Args:
        rung: Where: "build", "pattern", "shape", "dtype", "listed", "tactic", "gain" or "whole".
        code: Short stable name.
        sentence: The reason, as it applies to the first of its weights.
        weights: Whom it applies to; () for the whole engine.
        share: Their share of the multiply-accumulates, 0..1; None if it is not known.
        remedy: What to do.
        source: Where it comes from; "" for what was seen of this very model or engine.
        basis: How far to trust it; "" likewise.
    """

    rung: str
    code: str
    sentence: str
    weights: tuple[str, ...]
    share: float | None
    remedy: str
    source: str = ""
    basis: str = ""

    def lines(self, number: int) -> list[str]:
        """Return a heading, and indented the reason, what to do, and where the reason comes from."""
        whom = ""
        if self.weights:
            more = f" and {len(self.weights) - 1} more" if len(self.weights) > 1 else ""
            whom = f", {shorten(self.weights[0], 40)}{more}"
        share = "" if self.share is None else f", {percent(self.share, 0)} of the work"
        lines = [f"{number}. {self.rung}{share}{whom}", f"   {self.sentence}", f"   do: {self.remedy}"]
        if self.source:
            lines.append(f"   source: {self.source}" + (f" ({self.basis})" if self.basis else ""))
        return lines


@dataclass(frozen=True, slots=True, repr=False)
class Explanation(Result):
    """Why a model or engine is not faster.

    Args:
        subject: The file.
        builder: Name of the builder that it was judged for; "" for none in particular.
        targets: Architectures that it was judged for.
        reasons: In the order of the ladder, those of most work first.
        ladder: One row per weight.
        forecast: Which share of the work may run sparse.
        sparse_share: Share of the eligible work that runs sparse kernels; None if it is not known.
        notes: What could not be read and why; one sentence each.
    """

    subject: str
    builder: str
    targets: tuple[str, ...]
    reasons: tuple[Reason, ...]
    ladder: tuple[LadderRow, ...]
    forecast: Forecast
    sparse_share: float | None
    notes: tuple[str, ...]

    def remarks(self) -> tuple[str, ...]:
        """Return the reasons, each with what to do about it."""
        where = " ".join(filter(None, (self.builder, ",".join(self.targets))))
        lines = [f"{self.subject}{f'  (for {where})' if where else ''}"]
        for number, reason in enumerate(self.reasons, start=1):
            lines += ["", *reason.lines(number)]
        if not self.ladder:
            lines.append("it has no weights to judge, so nothing can run sparse")
        elif not self.reasons:
            lines.append("nothing speaks against it: every eligible layer runs a sparse kernel")
        share = "not measured" if self.sparse_share is None else percent(self.sparse_share, 0)
        return (*lines, "", f"eligible work that runs sparse kernels: {share}")
