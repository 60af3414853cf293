"""What a run of a recipe did, as values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nm2trt.errors import Nm2trtError

__all__ = ["RunResult", "StageResult"]


@dataclass(frozen=True, slots=True)
class StageResult:
    """What became of one stage.

    Args:
        name: Its name.
        kind: Its kind.
        status: "done", "cached", "failed", "skipped" (after --until), or on a dry run "would run" or
            "may run" (where something before it would run).
        seconds: Wall time; of an earlier run where cached.
        sentence: The result, or why it would run.
    """

    name: str
    kind: str
    status: str
    seconds: float | None
    sentence: str


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run did.

    Args:
        run: Its folder.
        stages: Its stages, in the order in which they ran.
        report: The report, where one was written.
        seconds: Wall time.
        failure: The error of the stage that failed, or None.
        outlook: How much can run sparse, and if nothing can, what would; "" where no stage answered.
    """

    run: Path
    stages: tuple[StageResult, ...]
    report: Path | None
    seconds: float
    failure: Nm2trtError | None = None
    outlook: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "run": str(self.run),
            "report": None if self.report is None else str(self.report),
            "seconds": round(self.seconds, 3),
            "outlook": self.outlook,
            "error": None if self.failure is None else str(self.failure),
            "stages": [
                {
                    "name": stage.name,
                    "stage": stage.kind,
                    "status": stage.status,
                    "seconds": stage.seconds,
                    "sentence": stage.sentence,
                }
                for stage in self.stages
            ],
        }
