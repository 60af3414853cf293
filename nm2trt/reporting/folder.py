"""The folder of a run: what each stage found, as JSON that later stages, reports and people read.

    RUN_DIR/
      run.json             schema, name, time, and the names of the stages in order
      stages/NAME.json     one record per stage, or the bare `--json` output of a command
      telemetry.jsonl      one JSON object per line: what training logged, by run and step

Each file is written whole or not at all, so a run that is killed loses only the stage it was in. A bare
result is recognised by its name: `stages/verify.json`, or `stages/verify-fp16.json`.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nm2trt.errors import InputError, OutputError
from nm2trt.file_replacement import make_output_folder, os_reason
from nm2trt.files import read_input, write_atomic
from nm2trt.json_types import text, whole
from nm2trt.reporting.records import SCHEMA, STAGES, RunHeader, StageRecord, read_json, read_record
from nm2trt.text_files import decoded

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def is_stage_name(name: str) -> bool:
    """Tell whether a stage may be called so: its record and what it makes are files of that name."""
    return _NAME.fullmatch(name) is not None


class RunFolder:
    """A run's folder, to write into or to read.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def header_path(self) -> Path:
        """Where `run.json` lies."""
        return self.path / "run.json"

    @property
    def telemetry_path(self) -> Path:
        """Where `telemetry.jsonl` lies."""
        return self.path / "telemetry.jsonl"

    def stage_path(self, name: str) -> Path:
        """Return where the record of a stage lies.

        Raises:
            InputError: The name is invalid, or could leave the folder.
        """
        if not is_stage_name(name):
            raise InputError(f"{name!r} is not a valid stage name: use letters, digits, '-', '_' and '.'")
        return self.path / "stages" / f"{name}.json"

    def make(self) -> None:
        """Make the folder, if it is not there.

        Raises:
            OutputError: The folder cannot be made.
        """
        make_output_folder(self.path / "stages", "give another folder for the run")

    def start(self, name: str, stages: Iterable[str]) -> RunHeader:
        """Make the folder, or take up the one that is there, and say which stages are meant.

        Raises:
            OutputError: The folder cannot be made or written.
            InputError: It is the folder of a later release.
        """
        from nm2trt import __version__

        self.make()
        created = self.header().created if self.header_path.exists() else _now()
        header = RunHeader(name, created, tuple(stages), __version__)
        write_atomic(
            self.header_path, _dumps({"schema": SCHEMA, "kind": "nm2trt run", **asdict(header)}), follow=False
        )
        return header

    def write(self, record: StageRecord) -> None:
        """Write the record of a stage, whole or not at all.

        Raises:
            InputError: The name or the kind is invalid.
            OutputError: It cannot be written.
        """
        if record.stage not in STAGES:
            raise InputError(f"{record.stage!r} is not a kind of stage; choose {', '.join(STAGES)}")
        path = self.stage_path(record.name)
        write_atomic(path, _dumps(record.to_json()), follow=False)

    def log(self, run: str, step: int, report: Mapping[str, Any] | None = None, **values: float) -> None:
        """Append one line of telemetry.

        Args:
            run: Which training, e.g. "sparse, seed 0".
            step: Optimizer step, or epoch.
            report: What `SparseSession.report` returned; its sparsity and SAD are taken, its layers are not.
            **values: Numbers, e.g. `loss=0.3, accuracy=0.98`.

        Raises:
            OutputError: The file cannot be written.
        """
        line: dict[str, Any] = {"run": run, "step": int(step)}
        if report is not None:
            line["sparsity"] = report["sparsity"]
            line.update({key: report[key]["normalised"] for key in ("sad_step", "sad_anchored")})
        line.update({key: float(value) for key, value in values.items()})
        try:
            with self.telemetry_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise OutputError(f"{self.telemetry_path} cannot be written: {os_reason(error)}") from error

    def header(self) -> RunHeader:
        """Read `run.json`.

        Raises:
            InputError: It is missing, damaged, or of a later release.
        """
        if not self.path.is_dir():
            raise InputError(f"{self.path} is not a folder; give the folder that `nm2trt run` wrote")
        if not self.header_path.exists():
            raise InputError(
                f"{self.path} is not the folder of a run: it has no run.json; docs/report.md says what "
                "belongs there"
            )
        data = read_json(self.header_path)
        try:
            return RunHeader(
                text(data["name"]),
                text(data["created"]),
                tuple(map(text, data["stages"])),
                text(data["nm2trt"]),
            )
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{self.header_path} is damaged or not a header of a run; run it again"
            ) from error

    def record(self, name: str) -> StageRecord | None:
        """Read the record of a stage; None if it has not run.

        Raises:
            InputError: It is damaged, or of a later release.
        """
        path = self.stage_path(name)
        return read_record(path) if path.exists() else None

    def record_paths(self) -> list[Path]:
        """Return the files of all records, by name."""
        return sorted(path for path in (self.path / "stages").glob("*.json") if not path.name.startswith("."))

    def own_files(self) -> list[Path]:
        """Return every file that the run itself is made of, so that a report does not replace one."""
        made = [path for path in (self.path / "artefacts").rglob("*") if path.is_file()]
        return [self.header_path, self.telemetry_path, *self.record_paths(), *made]

    def records(self) -> list[StageRecord]:
        """Read the records of all stages that ran: those of the header in its order, then others by name.

        Raises:
            InputError: The folder is not that of a run, or a record is damaged or of a later release.
        """
        wanted = {name: position for position, name in enumerate(self.header().stages)}
        paths = sorted(self.record_paths(), key=lambda path: wanted.get(path.stem, len(wanted)))
        return [read_record(path) for path in paths]

    def telemetry(self) -> list[dict[str, Any]]:
        """Read what training logged; a last line that a kill cut short is left out.

        Raises:
            InputError: Another line is damaged.
        """
        path = self.telemetry_path
        if not path.exists():
            return []
        lines = decoded(read_input(path, "telemetry"), errors="replace").split("\n")
        values = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
                values.append({**value, "step": whole(value["step"]), "run": text(value["run"])})
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                if number == len(lines):
                    break
                raise InputError(
                    f"{path} is damaged at line {number}: it should be a JSON object with run and step; "
                    "remove the line"
                ) from error
        return values


def _now() -> str:
    return dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds")


def _dumps(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1) + "\n"
