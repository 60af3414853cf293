"""What a run found, for people: report."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from nm2trt.errors import InputError

__all__ = ["ReportFormat", "ReportResult", "report"]

ReportFormat = Literal["html", "json", "md"]


@dataclass(frozen=True, slots=True)
class ReportResult:
    """What `report` wrote.

    Args:
        report: The file.
        format: "html", "json" or "md".
        run: The run's folder.
        stages: Stages of the run.
        weights: Weights in the table.
        size_bytes: The file's size.
    """

    report: Path
    format: ReportFormat
    run: Path
    stages: int
    weights: int
    size_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "report": str(self.report),
            "format": self.format,
            "run": str(self.run),
            "stages": self.stages,
            "weights": self.weights,
            "size_bytes": self.size_bytes,
        }


def report(
    run: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    format: ReportFormat | None = None,  # noqa: A002 - the word that --format has
) -> ReportResult:
    """Write what a run found as one self-contained page, as JSON, or as Markdown for a pull request.

    Args:
        run: The run's folder, as `nm2trt run` and the samples write it; docs/report.md describes it.
        output: The file to write; None puts `report.html` (or `.json`, `.md`) into the folder.
        format: "html", "json" or "md"; by default what the output's suffix says, else "html".

    Raises:
        InputError: The folder is not that of a run, of another release, or a record is damaged.
        OutputError: The file cannot be written.
        BackendMissingError: jinja2 is not installed.
    """
    import json

    from nm2trt.files import check_output, write_atomic
    from nm2trt.reporting.collect import collect

    chosen = format or _format_of(output)
    if chosen not in get_args(ReportFormat):
        raise InputError(f"{chosen!r} is no format of a report; choose html, json or md")
    data = collect(run)
    target = check_output(Path(run) / f"report.{chosen}" if output is None else output)
    if chosen == "json":
        text = json.dumps(data.to_json(), indent=1) + "\n"
    else:
        from nm2trt.reporting import page

        text = page.to_html(data) if chosen == "html" else page.to_markdown(data)
    write_atomic(target, text)
    return ReportResult(target, chosen, Path(run), len(data.stages), len(data.weights), len(text.encode()))


def _format_of(output: str | os.PathLike[str] | None) -> ReportFormat:
    suffix = "" if output is None else Path(output).suffix.lower()
    known: dict[str, ReportFormat] = {".json": "json", ".md": "md", ".markdown": "md"}
    return known.get(suffix, "html")
