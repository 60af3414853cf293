"""Report of a run, for people."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from nm2trt.errors import InputError
from nm2trt.figures import counted
from nm2trt.tables.result import Result

if TYPE_CHECKING:
    from nm2trt.reporting.beside import Beside
    from nm2trt.reporting.data import ReportData

ReportFormat = Literal["html", "json", "md"]


@dataclass(frozen=True, slots=True, repr=False)
class ReportResult(Result):
    """What `report` wrote.

    Args:
        report: The file.
        format: "html", "json" or "md".
        run: The run's folder.
        stages: Stages of the run.
        weights: Weights in the table.
        size_bytes: The file's size.
        beside: Folder of the second run, or None.
    """

    report: Path
    format: ReportFormat
    run: Path
    stages: int
    weights: int
    size_bytes: int
    beside: Path | None = None

    def remarks(self) -> tuple[str, ...]:
        """Return what was written."""
        size = f"{self.size_bytes / 1e3:.0f} kB"
        return (f"{self.report}  {size}, {counted(self.stages, 'stage')}, {counted(self.weights, 'weight')}",)


def report(
    run: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    format: ReportFormat | None = None,  # noqa: A002 - the word that --format has
    beside: str | os.PathLike[str] | None = None,
) -> ReportResult:
    """Write what a run found as one self-contained page, as JSON, or as Markdown for a pull request.

    Args:
        run: The run's folder, as `nm2trt run` and the samples write it; docs/report.md describes it.
        output: The file to write; None puts `report.html` (or `.json`, `.md`) into the folder, of two runs
            `beside.html`.
        format: "html", "json" or "md"; by default what the output's suffix says, else "html".
        beside: Folder of a second run, which the report then shows side by side with the first.

    Raises:
        InputError: The folder is not that of a run, of another release, or a record is damaged.
        OutputError: The file cannot be written.
        BackendMissingError: jinja2 is not installed.
    """
    import json

    from nm2trt.files import check_output, write_atomic
    from nm2trt.reporting.collect import collect
    from nm2trt.reporting.folder import RunFolder

    chosen = format or _format_of(output)
    if chosen not in get_args(ReportFormat):
        raise InputError(f"{chosen!r} is not a report format; choose html, json or md")
    data = collect(run)
    shown: ReportData | Beside = data
    if beside is not None:
        from nm2trt.reporting.beside import beside as side_by_side

        shown = side_by_side(data, collect(beside), (str(run), str(beside)))
    default = Path(run) / f"{'report' if beside is None else 'beside'}.{chosen}"
    given = [path for one in (run, beside) if one is not None for path in RunFolder(one).own_files()]
    target = check_output(default if output is None else output, sources=given)
    if chosen == "json":
        text = json.dumps(shown.to_json(), indent=1) + "\n"
    else:
        from nm2trt.reporting import page

        text = page.to_html(shown) if chosen == "html" else page.to_markdown(shown)
    write_atomic(target, text, follow=output is not None)
    size = len(text.encode())
    second = None if beside is None else Path(beside)
    return ReportResult(target, chosen, Path(run), len(data.stages), len(data.weights), size, second)


def _format_of(output: str | os.PathLike[str] | None) -> ReportFormat:
    suffix = "" if output is None else Path(output).suffix.lower()
    known: dict[str, ReportFormat] = {".json": "json", ".md": "md", ".markdown": "md"}
    return known.get(suffix, "html")
