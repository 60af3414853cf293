"""What training logged, as curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nm2trt.reporting.data import Curve, Series

__all__ = ["curves_of"]

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


def curves_of(lines: Sequence[Mapping[str, Any]]) -> tuple[Curve, ...]:
    """Return one curve for each number that was logged, the known ones first.

    Args:
        lines: Objects with `run`, `step` and numbers.
    """
    keys = [*_KNOWN, *sorted({key for line in lines for key in line} - {"run", "step", *_KNOWN})]
    runs = {run: at for at, run in enumerate(dict.fromkeys(line["run"] for line in lines))}
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
                Series(run, runs[run], _thinned(sorted(values.items()))) for run, values in points.items()
            )
            curves.append(Curve(key, title, share, tuple(series)))
    return tuple(curves)


def _thinned(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Keep at most some hundred points, first and last among them: more than a screen shows."""
    if len(points) <= _MOST_POINTS:
        return tuple(points)
    last = len(points) - 1
    return tuple(points[round(at * last / (_MOST_POINTS - 1))] for at in range(_MOST_POINTS))
