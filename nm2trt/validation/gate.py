"""Is a loss excluded: the interval of a difference against the largest drop that is allowed."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from nm2trt.errors import InputError
from nm2trt.validation.comparison import MetricComparison

__all__ = ["Gate", "hold_to", "parse_drop"]

_DROP = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(pt|pts|points?)?")


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether a metric lost no more than was allowed.

    Args:
        metric: The metric.
        max_drop: Largest loss allowed, in the metric's own unit.
        passed: The interval excludes a larger one.
        sentence: The same in words, with the numbers.
    """

    metric: str
    max_drop: float
    passed: bool
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def parse_drop(text: str) -> float:
    """Return a drop in the metric's unit: "0.5pt" is half a percentage point, 0.005; "0.005" is the same.

    Raises:
        InputError: The text is neither.
    """
    match = _DROP.fullmatch(text.strip())
    if match is None:
        raise InputError(
            f"{text!r} is no drop; write percentage points as in 0.5pt, or a number in the metric's unit"
        )
    return float(match[1]) / (100 if match[2] else 1)


def hold_to(metric: MetricComparison, max_drop: float) -> Gate:
    """Judge one metric: it passes only if its interval excludes a loss of more than `max_drop`."""
    paired = metric.paired
    sign = 1 if metric.higher_is_better else -1
    loss = -sign * paired.difference
    worst = -(paired.low if metric.higher_is_better else -paired.high)
    interval = (
        f"{paired.confidence:.0%} interval of the difference {100 * paired.low:+.2f} to "
        f"{100 * paired.high:+.2f} points, n = {paired.n}"
    )
    what = "drop" if metric.higher_is_better else "rise"
    allowed = f"{100 * max_drop:g} points"
    if worst <= max_drop:
        return Gate(
            metric.name,
            max_drop,
            True,
            f"{metric.name}: a {what} of more than {allowed} is excluded ({interval})",
        )
    if loss > max_drop:
        sentence = f"{metric.name}: the {what} is {100 * loss:.2f} points, more than {allowed} ({interval})"
        return Gate(metric.name, max_drop, False, sentence)
    more = ""
    if max_drop > loss:
        # An interval narrows with the square root of n.
        needed = math.ceil(paired.n * ((worst - loss) / (max_drop - loss)) ** 2)
        more = f"; about {_rounded_up(needed)} samples would decide it, were the difference to stay"
    sentence = f"{metric.name}: a {what} of more than {allowed} is not excluded ({interval}){more}"
    return Gate(metric.name, max_drop, False, sentence)


def _rounded_up(count: int) -> int:
    step = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // step) * step
