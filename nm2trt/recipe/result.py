"""Result of a recipe's run, as values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nm2trt.errors import Nm2trtError
from nm2trt.json_value import JsonValue, named
from nm2trt.tables.result import Result
from nm2trt.tables.table import Column, Mark, Row, Table

_MARKS: dict[str, Mark] = {"done": "good", "cached": "good", "failed": "bad"}


@dataclass(frozen=True, slots=True)
class StageResult(JsonValue):
    """What became of one stage.

    Args:
        name: Its name.
        kind: Its kind.
        status: "done", "cached", "failed", "skipped" (after --until), or on a dry run "would run".
        seconds: Wall time; of an earlier run if cached.
        sentence: The result, or why it would run.
    """

    json_names = "name stage=kind status seconds sentence"

    name: str
    kind: str
    status: str
    seconds: float | None
    sentence: str


@dataclass(frozen=True, slots=True, repr=False)
class RunResult(Result):
    """What a run did.

    Args:
        run: Its folder.
        stages: Its stages, in the order in which they ran.
        report: The report, if one was written.
        seconds: Wall time.
        failure: The error of the stage that failed, or None.
        outlook: How much can run sparse, and if nothing can, what would; "" if no stage answered.
    """

    run: Path
    stages: tuple[StageResult, ...]
    report: Path | None
    seconds: float
    failure: Nm2trtError | None = None
    outlook: str = ""

    def tables(self) -> tuple[Table, ...]:
        """Return what became of each stage."""
        columns = (Column("stage"), Column("status"), Column("time", "number"), Column("result", "text"))
        rows = (
            Row(
                (
                    stage.name,
                    stage.status,
                    "" if stage.seconds is None else f"{stage.seconds:.1f} s",
                    stage.sentence,
                ),
                _MARKS.get(stage.status, ""),
            )
            for stage in self.stages
        )
        return (Table(columns, tuple(rows), noun="stages"),)

    def remarks(self) -> tuple[str, ...]:
        """Return where it all lies, and how much can run sparse."""
        failed = "" if self.failure is None else str(self.failure)
        found = (f"{self.run}  in {self.seconds:.1f} s", str(self.report or ""), self.outlook, failed)
        return tuple(line for line in found if line)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            **named(self, "run report"),
            "seconds": round(self.seconds, 3),
            "outlook": self.outlook,
            "error": None if self.failure is None else str(self.failure),
            **named(self, "stages"),
        }
