"""Report of a search of ranges and placement, and what the work of the result computes in."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nm2trt.calibration.collectors import Method
from nm2trt.figures import counted, percent
from nm2trt.json_value import JsonValue


@dataclass(frozen=True, slots=True)
class Trial:
    """One combination of ranges and placement, judged on held-out samples.

    Args:
        method: How ranges were chosen.
        percentile: Share of magnitudes inside a range, for "percentile".
        float_layers: Layers that the search left in float.
        loss: Share of samples whose answer changed, or of the variance that was lost.
        divergence: KL divergence from the float model's scores, or the share of the variance that was lost.
        samples: Held-out samples.
    """

    method: Method
    percentile: float
    float_layers: tuple[str, ...]
    loss: float
    divergence: float
    samples: int


@dataclass(frozen=True, slots=True)
class RangeSearch(JsonValue):
    """What a search tried.

    Args:
        limit: Largest loss allowed.
        trials: Every trial, in order.
        chosen: The trial that was written.
        counted: Whether a loss is a number of samples, rather than a share of the variance.
    """

    json_names = "limit trials chosen"

    limit: float
    trials: tuple[Trial, ...]
    chosen: Trial
    counted: bool = False

    @property
    def sentence(self) -> str:
        """What was chosen, in words."""
        best = self.chosen
        layers = counted(len(best.float_layers), "layer")
        return (
            f"{counted(len(self.trials), 'trial')}; the one written loses {percent(best.loss)} on "
            f"{counted(best.samples, 'held-out sample')} (divergence {best.divergence:.3g}), "
            f"with {layers} left in float for it"
            f"{finer_than_one(self.limit, best.samples) if self.counted else ''}"
        )


def finer_than_one(limit: float, samples: int) -> str:
    """Return a clause if a limit allows less than one of the samples, else ""."""
    if not samples or limit * samples >= 1:
        return ""
    return (
        f"; of {counted(samples, 'sample')} a limit of {percent(limit, 2)} lets none change, as one is "
        f"{percent(1 / samples, 2)}: give {2 * math.ceil(1 / limit):,} samples or more"
    )


@dataclass(frozen=True, slots=True)
class WorkShares:
    """The work of one inference by what it computes in, in multiply-accumulates.

    Args:
        total: All of it that is counted.
        low: What computes in the low format from end to end.
        sparse: What holds 2:4 besides and can run sparse; work left in float does not.
        place: For which builder and targets, as a clause.
        unknown: Layers that are not counted, since their shapes are not known.
    """

    total: int
    low: int
    sparse: int
    place: str
    unknown: int = 0

    def sentence(self, to: str) -> str:
        """Return the shares in words."""
        if not self.total:
            return "the work cannot be counted because shapes are unknown"
        layers = counted(self.unknown, "layer of unknown shapes is", "layers of unknown shapes are")
        left = f"; {layers} not counted" if self.unknown else ""
        return (
            f"{percent(self.low / self.total)} of the work computes in {to} from end to end; "
            f"{percent(self.sparse / self.total)} is 2:4 {to} that can run sparse{self.place}{left}"
        )
