"""A report of one run or of two, as one HTML page that asks nothing of any network, or as Markdown."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from typing import Any

from nm2trt.extras import names_the_extra
from nm2trt.figures import large, percent, size
from nm2trt.reporting.beside import Beside
from nm2trt.reporting.curves import Curve
from nm2trt.reporting.data import RUNGS, AccuracyRow, LatencyRow, ReportData, WeightRow
from nm2trt.reporting.headline import headline
from nm2trt.reporting.ship import ship
from nm2trt.reporting.weight_groups import ladder_of, zeros_differ
from nm2trt.terminal_text import printable

with names_the_extra("jinja2"):
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup, escape

_MOST_MARKDOWN_WEIGHTS = 40


def to_html(data: ReportData | Beside) -> str:
    """Return the page of one run or of two; style and script are inside, and a policy forbids all else.

    Args:
        data: What to show; every text in it is escaped.
    """
    style, script = _resource("report.css"), _resource("report.js")
    return _render(
        "html",
        data,
        autoescape=True,
        style=Markup(style),  # noqa: S704 - our own files, not data
        script=Markup(script),  # noqa: S704
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
    )


def to_markdown(data: ReportData | Beside) -> str:
    """Return the report in short, for a pull request; names are escaped for Markdown."""
    return _render("md", data, autoescape=False, most_weights=_MOST_MARKDOWN_WEIGHTS)


def _render(suffix: str, data: ReportData | Beside, *, autoescape: bool, **values: Any) -> str:
    found: dict[str, Any]
    if isinstance(data, ReportData):
        name, found = "report", {"headline": headline(data), "ship": ship(data)}
        found |= {"ladder": ladder_of(data.weights), "zeros_differ": zeros_differ(data.weights)}
    else:
        runs = zip(data.names, data.runs, strict=True)
        name, found = "beside", {"verdicts": [(run_name, ship(run)) for run_name, run in runs]}
    template = _environment(autoescape=autoescape).get_template(f"{name}.{suffix}")
    page = template.render(data=data, **found, **values)
    # Names reach the page through the templates, the charts and the sentences: all are escaped here at once.
    return printable(page, keep="\n\t", whole=True)


@functools.cache
def _environment(*, autoescape: bool) -> Environment:
    """Return the environment that compiles each template once; it keeps nothing of a run."""
    from nm2trt.reporting import charts

    environment = Environment(
        autoescape=autoescape,  # noqa: S701 - only Markdown goes without, and escapes name by name
        undefined=StrictUndefined,
        loader=FunctionLoader(_resource),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=_percent,
        points=_points,
        code=_code,
        cell=_cell,
        size=_size,
        seconds=_seconds,
        si=_si,
        breakable=_breakable,
    )
    environment.globals.update(
        charts=charts,
        rungs=RUNGS,
        accuracy_scale=_accuracy_scale,
        grouped=_grouped,
        latency_scale=_latency_scale,
        answered=_answered,
        counts=_counts,
        methods=_methods,
        constant=_constant,
    )
    return environment


def _resource(name: str) -> str:
    return (resources.files("nm2trt.reporting") / "templates" / name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _percent(share: float | None, digits: int = 2) -> str:
    return "–" if share is None else percent(share, digits)


def _points(difference: float | None) -> str:
    """Show a difference of two shares in points, with its sign."""
    if difference is None:
        return "–"
    return f"{100 * difference:+.2f}".replace("-", "−")


def _size(size_bytes: float | None) -> str:
    return "" if size_bytes is None else size(size_bytes)


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds >= 90:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{1e3 * seconds:.0f} ms"


def _si(number: float | None) -> str:
    return "–" if number is None else large(number)[0]


def _code(text: str) -> str:
    """Quote a name for Markdown, whatever backticks and bars it holds."""
    text = " ".join(str(text).split())
    fence = "`"
    while fence in text:
        fence += "`"
    padding = " " if "`" in text else ""
    return f"{fence}{padding}{text.replace('|', chr(92) + '|')}{padding}{fence}" if text else ""


def _breakable(name: str) -> Markup:
    """Let a long name break after dots, slashes and underscores."""
    return Markup("<wbr>").join(escape(part) for part in re.findall(r"[^./_]*[./_]?", name) if part)


def _cell(text: str) -> str:
    """Escape a sentence for a Markdown table."""
    text = " ".join(str(text).split())
    # A reference such as &#8238; would become the character that it names.
    for character in "\\`*_[]<>|#&~":
        text = text.replace(character, "\\" + character)
    return text


def _grouped(rows: Sequence[Any], key: str) -> list[tuple[str, list[Any]]]:
    """Return rows by a field, in the order in which they come; unlike jinja's filter, which sorts them."""
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(getattr(row, key), []).append(row)
    return list(groups.items())


def _methods(curve: Curve) -> list[tuple[int, str, int]]:
    """Return number, name and runs of each method on a curve."""
    found: dict[int, tuple[str, int]] = {}
    for series in curve.series:
        name, runs = found.get(series.index, (series.method or series.name, 0))
        found[series.index] = (name, runs + 1)
    return [(index, name, runs) for index, (name, runs) in found.items()]


def _constant(curve: Curve) -> float | None:
    """Return the one value that a curve of many points keeps; None if it moves, or has one point."""
    values = {value for series in curve.series for _, value in series.points}
    long = any(len(series.points) > 1 for series in curve.series)
    return next(iter(values)) if long and len(values) == 1 else None


def _accuracy_scale(rows: Sequence[AccuracyRow]) -> tuple[float, float]:
    """Return what the interval bars span: all intervals with a margin, inside 0..1 if shares are shown."""
    values = [v for row in rows for v in (row.value, row.low, row.high) if v is not None]
    low, high = min(values), max(values)
    margin = max(0.08 * (high - low), 0.002)
    if all(row.share for row in rows):
        return max(0.0, low - margin), min(1.0, high + margin)
    return low - margin, high + margin


def _latency_scale(rows: Sequence[LatencyRow]) -> tuple[float, float]:
    """Return what the latency bars span; a rare slow run does not squeeze the rest, and is marked instead."""
    highest = max((value for row in rows for value in row.percentiles.values()), default=1.0)
    usual = max((v for row in rows for p, v in row.percentiles.items() if p <= 90), default=highest)
    return 0.0, 1.05 * min(highest, 3 * usual)


def _answered(weights: Sequence[WeightRow]) -> list[str]:
    """Return the rungs that at least one weight has an answer on."""
    return [key for key in RUNGS if any(key in row.rungs and row.rungs[key].answer for row in weights)]


def _counts(weights: Sequence[WeightRow]) -> Counter[str]:
    return Counter(row.status.replace("-", " ") or "not judged" for row in weights)
