"""Charts as inline SVG: sized in percent, so that text stays readable on a phone; coloured by the page's CSS.

Every function returns markup in which names are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from nm2trt.figures import percent
from nm2trt.reporting.curves import Curve, Series
from nm2trt.reporting.data import LatencyRow, WeightRow
from nm2trt.reporting.lineage import LineageNode

COLOURS = 8
_CURVE_HEIGHT = 190
_LANE_WIDTH = 18
_ROW_HEIGHT = 56
_BINS = 48


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round values between `low` and `high`, both ends included if they are round."""
    span = high - low
    if not span > 0:
        return [low]
    step = 10 ** math.floor(math.log10(span / most))
    step = next(step * factor for factor in (1, 2, 2.5, 5, 10) if span / (step * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(at * step, 12) for at in range(first, math.floor(high / step + 1e-9) + 1)]


def interval_bar(value: float, low: float | None, high: float | None, scale: tuple[float, float]) -> Markup:
    """Draw a point with its interval on a scale."""
    at = _percent(value, scale)
    parts = [Markup('<line class="rail" x1="0%" x2="100%" y1="12" y2="12"/>')]
    if low is not None and high is not None:
        left, right = _percent(low, scale), _percent(high, scale)
        parts.append(_svg('<line class="span" x1="{}%" x2="{}%" y1="12" y2="12"/>', left, right))
        parts += [
            _svg('<line class="cap" x1="{0}%" x2="{0}%" y1="7" y2="17"/>', end) for end in (left, right)
        ]
    parts.append(_svg('<circle class="point" cx="{}%" cy="12" r="5"/>', at))
    title = f"{value:.4g}" if low is None or high is None else f"{value:.4g} ({low:.4g} to {high:.4g})"
    return Markup('<svg class="strip" height="24" role="img"><title>{}</title>{}</svg>').format(
        title, Markup("").join(parts)
    )


def range_bar(row: LatencyRow, scale: tuple[float, float], colour: int) -> Markup:
    """Draw a latency's percentiles: a bar from the lowest to the highest, the median as a point."""
    values = sorted(row.percentiles.items())
    if not values:
        return Markup("")
    left, right = (_percent(values[end][1], scale) for end in (0, -1))
    parts = [
        Markup('<line class="rail" x1="0%" x2="100%" y1="12" y2="12"/>'),
        _svg('<line class="range" x1="{}%" x2="{}%" y1="12" y2="12"/>', left, right),
    ]
    point = Markup('<circle class="point" cx="{}%" cy="12" r="5"><title>p{:g} {:.3f} ms</title></circle>')
    cap = Markup(
        '<line class="cap" x1="{0}%" x2="{0}%" y1="6" y2="18"><title>p{1:g} {2:.3f} ms</title></line>'
    )
    parts += [
        (point if percentile == 50 else cap).format(_short(_percent(value, scale)), percentile, value)
        for percentile, value in values
        if value <= scale[1]
    ]
    if values[-1][1] > scale[1]:
        parts.append(Markup('<text x="100%" y="16" text-anchor="end" class="beyond">▸</text>'))
    return Markup('<svg class="strip c{}" height="24" role="img">{}</svg>').format(
        colour % COLOURS, Markup("").join(parts)
    )


def histogram(samples: Sequence[float], scale: tuple[float, float], colour: int) -> Markup:
    """Draw how single runs are distributed; what lies above the scale is counted in its last bin."""
    counts = [0] * _BINS
    low, high = scale
    for value in samples:
        at = int((value - low) / (high - low) * _BINS) if high > low else 0
        counts[min(max(at, 0), _BINS - 1)] += 1
    most = max(counts) or 1
    step = (high - low) / _BINS
    bars = (
        Markup('<rect x="{}%" y="{}%" width="{}%" height="{}%"><title>{}</title></rect>').format(
            _short(100 * at / _BINS),
            _short(100 * (1 - n / most)),
            _short(100 / _BINS),
            _short(100 * n / most),
            f"{n} of {len(samples)} runs took {low + at * step:.3g} ms "
            + ("or more" if at == _BINS - 1 else f"to {low + (at + 1) * step:.3g} ms"),
        )
        for at, n in enumerate(counts)
        if n
    )
    return Markup('<svg class="histogram c{}" height="34" role="img">{}</svg>').format(
        colour % COLOURS, Markup("").join(bars)
    )


def share_bar(share: float | None, status: str) -> Markup:
    """Draw one share of zeros, coloured by what became of the pattern."""
    length = 100 * (share or 0.0)
    return Markup(
        '<svg class="strip" height="16" aria-hidden="true">'
        '<line class="rail" x1="0%" x2="100%" y1="8" y2="8"/>'
        '<line class="share {}" x1="0%" x2="{}%" y1="8" y2="8"/></svg>'
    ).format(_status_class(status), _short(max(length, 0.01)))


def sparsity_bars(weights: Sequence[WeightRow]) -> Markup:
    """Draw the share of zeros, one bar per weight in the model's order."""
    width = 100 / max(len(weights), 1)
    gap = 0.14 if len(weights) <= 160 else 0.0
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = 100 - 100 * share
        parts.append(_svg('<line class="grid" x1="0%" x2="100%" y1="{0}%" y2="{0}%"/>', y))
    for at, row in enumerate(weights):
        share = row.zero_share or 0.0
        title = f"{row.weight}: {_zeros(row.zero_share)}, {row.status or 'not judged'}"
        parts.append(
            Markup(
                '<rect class="{}" x="{}%" y="{}%" width="{}%" height="{}%"><title>{}</title></rect>'
            ).format(
                _status_class(row.status),
                _short(width * (at + gap / 2)),
                _short(100 - 100 * max(share, 0.008)),
                _short(width * (1 - gap)),
                _short(100 * max(share, 0.008)),
                title,
            )
        )
    return Markup(
        '<svg class="bars" height="170" role="img" aria-label="share of zeros by weight">{}</svg>'
    ).format(Markup("").join(parts))


def curve_chart(curve: Curve) -> Markup:
    """Draw the lines of a curve, with grid and labels."""
    points = [point for series in curve.series for point in series.points]
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = _value_range([y for _, y in points], share=curve.share)
    marks = ticks(low, high)
    grid = [
        _svg('<line class="grid" x1="0%" x2="100%" y1="{0}%" y2="{0}%"/>', 100 - _percent(mark, (low, high)))
        for mark in marks
    ]
    lines = [_line(series, (left, right), (low, high)) for series in curve.series if len(series.points) > 1]
    dots = [
        Markup('<circle class="c{} m{} dot" cx="{}%" cy="{}%" r="3"><title>{}</title></circle>').format(
            series.index % COLOURS,
            series.index,
            _short(_percent(series.points[0][0], (left, right))),
            _short(100 - _percent(series.points[0][1], (low, high))),
            series.name,
        )
        for series in curve.series
        if len(series.points) == 1
    ]
    labels = Markup("").join(
        Markup('<text x="-8" y="{}%" dy="0.32em" text-anchor="end">{}</text>').format(
            _short(100 - _percent(mark, (low, high))), _tick(mark, share=curve.share)
        )
        for mark in marks
    )
    steps = Markup("").join(
        Markup('<text x="{}%" y="{}" text-anchor="{}">{}</text>').format(
            _short(_percent(mark, (left, right))), _CURVE_HEIGHT + 18, _anchor(mark, left, right), f"{mark:g}"
        )
        for mark in (ticks(left, right, 4) if right > left else [left])
    )
    return Markup(
        '<svg class="curve" height="{height}" role="img" aria-label="{title}" data-x="{left} {right}" '
        'data-y="{low} {high}" data-share="{share}">{grid}'
        '<svg class="plot" viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%">'
        "{lines}</svg>{dots}{labels}{steps}"
        '<text class="axis" x="100%" y="{below}" text-anchor="end">step</text></svg>'
    ).format(
        height=_CURVE_HEIGHT,
        below=_CURVE_HEIGHT + 34,
        left=repr(float(left)),
        right=repr(float(right)),
        low=repr(low),
        high=repr(high),
        share=1 if curve.share else 0,
        title=curve.title,
        grid=Markup("").join(grid),
        lines=Markup("").join(lines),
        dots=Markup("").join(dots),
        labels=labels,
        steps=steps,
    )


def _line(series: Series, across: tuple[float, float], up: tuple[float, float]) -> Markup:
    """Draw one line in percent of the chart; the page's script reads values for the hover from it."""
    path = " ".join(
        f"{_short(_percent(x, across))},{_short(100 - _percent(y, up))}" for x, y in series.points
    )
    # The ninth method starts the colours again, with dashes.
    dashed = " dashed" if series.index // COLOURS % 2 else ""
    return Markup(
        '<polyline class="c{} m{}{}" data-name="{}" points="{}"><title>{}</title></polyline>'
    ).format(series.index % COLOURS, series.index, dashed, series.name, path, series.name)


def lanes(nodes: Sequence[LineageNode]) -> Markup:
    """Draw the lineage of files beside a list of rows of fixed height, one lane per line of descent."""
    row = {node.key: at for at, node in enumerate(nodes)}
    last_use = {parent: at for at, node in enumerate(nodes) for parent in node.parents if parent in row}
    lane: dict[str, int] = {}
    owner: list[str | None] = []
    for at, node in enumerate(nodes):
        mine = next(
            (lane[p] for p in node.parents if p in lane and last_use[p] == at and owner[lane[p]] == p), None
        )
        if mine is None:
            mine = next((i for i, held in enumerate(owner) if held is None), len(owner))
        for parent in node.parents:
            if parent in lane and last_use[parent] == at and owner[lane[parent]] == parent:
                owner[lane[parent]] = None
        owner += [None] * (mine + 1 - len(owner))
        lane[node.key] = mine
        owner[mine] = node.key if node.key in last_use else None
    centre = {key: (_LANE_WIDTH * (at + 0.5), _ROW_HEIGHT * (row[key] + 0.5)) for key, at in lane.items()}
    edges, dots = [], []
    for node in nodes:
        x, y = centre[node.key]
        edges += [_edge(centre[parent], (x, y)) for parent in node.parents if parent in centre]
        dots.append(_svg('<circle class="node" cx="{}" cy="{}" r="5"/>', x, y))
    width = _LANE_WIDTH * (1 + max(lane.values(), default=0))
    return Markup('<svg class="lanes" width="{}" height="{}" aria-hidden="true">{}{}</svg>').format(
        width, _ROW_HEIGHT * len(nodes), Markup("").join(edges), Markup("").join(dots)
    )


def _edge(start: tuple[float, float], end: tuple[float, float]) -> Markup:
    (x0, y0), (x1, y1) = start, end
    if x0 == x1:
        path = f"M{x0:g},{y0:g}V{y1:g}"
    elif x1 > x0:  # a branch leaves its parent's lane at once
        path = f"M{x0:g},{y0:g}C{x0:g},{y0 + 28:g} {x1:g},{y0 + 10:g} {x1:g},{y0 + 40:g}V{y1:g}"
    else:  # and comes back to it at the end
        path = f"M{x0:g},{y0:g}V{y1 - 40:g}C{x0:g},{y1 - 10:g} {x1:g},{y1 - 28:g} {x1:g},{y1:g}"
    return Markup('<path d="{}"/>').format(path)


def _value_range(values: Sequence[float], *, share: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low >= 0 and low < 0.5 * high:
        low = 0.0
    if high == low:
        low, high = (low - 0.5, high + 0.5) if not share else (max(0.0, low - 0.05), min(1.0, high + 0.05))
    margin = 0.04 * (high - low)
    return (low if low == 0 else low - margin), (high if share and high == 1 else high + margin)


def _percent(value: float, scale: tuple[float, float]) -> float:
    low, high = scale
    share = (value - low) / (high - low) if high > low else 0.5
    return 100 * min(max(share, 0.0), 1.0)


def _anchor(mark: float, left: float, right: float) -> str:
    place = _percent(mark, (left, right))
    return "start" if place < 4 else "end" if place > 96 else "middle"


def _tick(value: float, *, share: bool) -> str:
    return f"{100 * value:g} %" if share else f"{value:g}"


def _zeros(share: float | None) -> str:
    return "zeros not counted" if share is None else f"{percent(share)} zeros"


def _status_class(status: str) -> str:
    return status if status in ("holds", "broken", "dense-by-plan") else "other"


def _short(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _svg(template: str, *values: float) -> Markup:
    return Markup(template).format(*map(_short, values))  # noqa: S704 - templates are constants of this file
