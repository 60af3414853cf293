"""Curves of what training logged."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Key of a telemetry line, what the page calls it, and whether it is a share.
_KNOWN = {
    "loss": ("Loss", False),
    "accuracy": ("Accuracy", True),
    "sad_anchored": ("SAD, masks now against the start", True),
    "sad_step": ("SAD, from step to step", True),
    "sparsity": ("Sparsity of the sparse layers", True),
    "learning_rate": ("Learning rate", False),
}
_MOST_POINTS = 600
# What a run's name says about its seed, as in "sr-ste, seed 1".
_SEED = re.compile(r"[\s,;:/_-]*(?<![A-Za-z])seed\W?\d+\s*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a curve.

    Args:
        name: The training run that it is of.
        index: Number of its method, from 0: one colour per method, on every curve.
        points: (step, value), ascending.
        method: The run's name without its seed, as in "sr-ste" of "sr-ste, seed 1".
    """

    name: str
    index: int
    points: tuple[tuple[float, float], ...]
    method: str = ""


@dataclass(frozen=True, slots=True)
class Curve:
    """A quantity over steps.

    Args:
        key: Short stable name, e.g. "loss".
        title: What the page calls it.
        share: Whether values are shares, shown in percent.
        series: Its lines.
    """

    key: str
    title: str
    share: bool
    series: tuple[Series, ...]


def curves_of(lines: Sequence[Mapping[str, Any]]) -> tuple[Curve, ...]:
    """Return one curve for each number that was logged, the known ones first.

    Args:
        lines: Objects with `run`, `step` and numbers.
    """
    keys = [*_KNOWN, *sorted({key for line in lines for key in line} - {"run", "step", *_KNOWN})]
    methods = {run: _SEED.sub("", run) or run for run in dict.fromkeys(line["run"] for line in lines)}
    number = {method: at for at, method in enumerate(dict.fromkeys(methods.values()))}
    curves = []
    for key in keys:
        points: dict[str, dict[float, float]] = {}
        for line in lines:
            value = line.get(key)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                continue
            # A run that was resumed logs some steps twice; the later line counts.
            points.setdefault(line["run"], {})[line["step"]] = value
        if points:
            title, share = _KNOWN.get(key, (key.replace("_", " "), False))
            series = (
                Series(run, number[methods[run]], _thinned(sorted(values.items())), methods[run])
                for run, values in points.items()
            )
            curves.append(Curve(key, title, share, tuple(series)))
    return tuple(curves)


def _thinned(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Keep at most some hundred points, first and last among them: more than a screen shows."""
    if len(points) <= _MOST_POINTS:
        return tuple(points)
    last = len(points) - 1
    return tuple(points[round(at * last / (_MOST_POINTS - 1))] for at in range(_MOST_POINTS))
