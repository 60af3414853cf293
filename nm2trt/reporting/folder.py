"""The folder of a run: what each stage found, as JSON that later stages, reports and people read.

    RUN_DIR/
      run.json             schema, name, time, and the names of the stages in order
      stages/NAME.json     one record a stage, or the bare `--json` output of a command
      telemetry.jsonl      one JSON object a line: what training logged, by run and step

Each file is written whole or not at all, so a run that is killed loses only the stage it was in. A bare
result is recognised by its name: `stages/verify.json`, or `stages/verify-fp16.json`.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from nm2trt.errors import InputError, OutputError
from nm2trt.files import check_input, sha256_file, write_atomic

__all__ = ["SCHEMA", "STAGES", "FileRecord", "RunFolder", "RunHeader", "StageRecord", "file_record"]

SCHEMA = 1
# Kinds of stages, in the order of the pipeline.
STAGES = (
    "train",
    "sparsify",
    "export",
    "fuse",
    "prune",
    "cast",
    "quantize",
    "verify",
    "build",
    "prove",
    "explain",
    "gain",
    "accuracy",
    "validate",
    "bench",
    "deploy",
    "probe",
    "report",
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_LARGEST_BYTES = 1 << 28

Status = Literal["done", "failed", "running"]


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as a stage read or wrote it.

    Args:
        path: Where it is, as the stage was told; relative to the run's folder where it lies below it.
        sha256: Hash of its bytes.
        size_bytes: Its size.
        mtime_ns: When it was last written, so that an unchanged file need not be hashed again.
    """

    path: str
    sha256: str
    size_bytes: int
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What one stage did.

    Args:
        stage: Its kind, one of `STAGES`.
        name: Its name in the run, unique.
        status: "done", "failed", or "running" where it was killed.
        sentence: The result in one line, or the error.
        command: The command that does the same, or "".
        seconds: Wall time.
        started: UTC time, ISO 8601.
        versions: Version by product.
        inputs: Files that it read.
        outputs: Files that it wrote.
        key: Hash of everything that the result depends on; "" where it is not known.
        result: What the command prints with `--json`.
    """

    stage: str
    name: str
    status: Status = "done"
    sentence: str = ""
    command: str = ""
    seconds: float | None = None
    started: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[FileRecord, ...] = ()
    outputs: tuple[FileRecord, ...] = ()
    key: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values, the schema's number first."""
        return {"schema": SCHEMA, **asdict(self)}


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What `run.json` says.

    Args:
        name: The run's name.
        created: UTC time, ISO 8601.
        stages: Names of the stages, in order.
        nm2trt: Version that wrote it.
    """

    name: str
    created: str
    stages: tuple[str, ...]
    nm2trt: str


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
            InputError: The name could leave the folder, or is no name.
        """
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r} is no name of a stage: use letters, digits, '-', '_' and '.'")
        return self.path / "stages" / f"{name}.json"

    def start(self, name: str, stages: Iterable[str]) -> RunHeader:
        """Make the folder, or take up the one that is there, and say which stages are meant.

        Raises:
            OutputError: The folder cannot be made or written.
            InputError: It is the folder of a later release.
        """
        from nm2trt import __version__

        try:
            (self.path / "stages").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be made the folder of a run: {error.strerror}") from error
        created = self.header().created if self.header_path.exists() else _now()
        header = RunHeader(name, created, tuple(stages), __version__)
        write_atomic(self.header_path, _dumps({"schema": SCHEMA, "kind": "nm2trt run", **asdict(header)}))
        return header

    def write(self, record: StageRecord) -> None:
        """Write the record of a stage, whole or not at all.

        Raises:
            InputError: The name or the kind is none.
            OutputError: It cannot be written.
        """
        if record.stage not in STAGES:
            raise InputError(f"{record.stage!r} is no kind of stage; kinds are {', '.join(STAGES)}")
        path = self.stage_path(record.name)
        write_atomic(path, _dumps(record.to_json()))

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
            raise OutputError(f"{self.telemetry_path} cannot be written: {error.strerror}") from error

    def header(self) -> RunHeader:
        """Read `run.json`.

        Raises:
            InputError: It is missing, damaged, or of a later release.
        """
        if not self.path.is_dir():
            raise InputError(f"{self.path} is no folder; give the folder of a run, as `nm2trt run` writes it")
        if not self.header_path.exists():
            raise InputError(
                f"{self.path} is not the folder of a run: it has no run.json; docs/report.md says what "
                "belongs there"
            )
        data = _read(self.header_path)
        try:
            return RunHeader(
                _text(data["name"]),
                _text(data["created"]),
                tuple(map(_text, data["stages"])),
                _text(data["nm2trt"]),
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"{self.header_path} is damaged or no header of a run; run it again") from error

    def record(self, name: str) -> StageRecord | None:
        """Read the record of a stage; None where it has not run.

        Raises:
            InputError: It is damaged, or of a later release.
        """
        path = self.stage_path(name)
        return _record(path) if path.exists() else None

    def records(self) -> list[StageRecord]:
        """Read the records of all stages that ran: those of the header in its order, then others by name.

        Raises:
            InputError: The folder is not that of a run, or a record is damaged or of a later release.
        """
        wanted = {name: position for position, name in enumerate(self.header().stages)}
        folder = self.path / "stages"
        paths = [path for path in folder.glob("*.json") if not path.name.startswith(".")]
        paths.sort(key=lambda path: (wanted.get(path.stem, len(wanted)), path.stem))
        return [_record(path) for path in paths]

    def telemetry(self) -> list[dict[str, Any]]:
        """Read what training logged; a last line that a kill cut short is left out.

        Raises:
            InputError: Another line is damaged.
        """
        path = self.telemetry_path
        if not path.exists():
            return []
        lines = check_input(path, "telemetry").read_text(encoding="utf-8", errors="replace").split("\n")
        values = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
                if not isinstance(value, dict) or not isinstance(value["step"], int):
                    raise TypeError
                values.append({**value, "run": _text(value["run"])})
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                if number == len(lines):
                    break
                raise InputError(
                    f"{path} is damaged at line {number}: it should be a JSON object with run and step; "
                    "remove the line"
                ) from error
        return values


def file_record(path: str | os.PathLike[str], root: Path, known: FileRecord | None = None) -> FileRecord:
    """Hash a file, unless its size and time say that it is the one that was hashed before.

    Args:
        path: The file.
        root: The run's folder; a path below it is recorded relative to it.
        known: An earlier record of the same path.
    """
    path = Path(path)
    status = path.stat()
    real, base = path.resolve(), root.resolve()
    shown = str(real.relative_to(base)) if real.is_relative_to(base) else str(path)
    unchanged = known is not None and (known.path, known.size_bytes, known.mtime_ns) == (
        shown,
        status.st_size,
        status.st_mtime_ns,
    )
    digest = known.sha256 if known is not None and unchanged else sha256_file(path)
    return FileRecord(shown, digest, status.st_size, status.st_mtime_ns)


def _record(path: Path) -> StageRecord:
    data = _read(path)
    if "schema" not in data or "result" not in data:
        return StageRecord(_stage_of(path), path.stem, result=data)
    try:
        values = {item.name: data[item.name] for item in fields(StageRecord) if item.name in data}
        for name in ("inputs", "outputs"):
            values[name] = tuple(
                FileRecord(
                    _text(item["path"]),
                    _text(item["sha256"]),
                    int(item["size_bytes"]),
                    int(item.get("mtime_ns", 0)),
                )
                for item in data.get(name, ())
            )
        for name in ("stage", "name", "status", "sentence", "command", "started", "key"):
            _text(values.get(name, ""))
        if not isinstance(values["result"], dict) or not isinstance(values.get("versions", {}), dict):
            raise TypeError
        if values["stage"] not in STAGES or values.get("status", "done") not in ("done", "failed", "running"):
            raise TypeError
        if values.get("seconds") is not None:
            values["seconds"] = float(values["seconds"])
        return StageRecord(**values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged or no record of a stage; run that stage again") from error


def _read(path: Path) -> dict[str, Any]:
    path = check_input(path, "a JSON record of a run")
    if path.stat().st_size > _LARGEST_BYTES:
        raise InputError(f"{path} is larger than 256 MB, which no record of a run is")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is half written or damaged: it is no JSON; run that stage again, the others are kept"
        ) from error
    if not isinstance(data, dict):
        raise InputError(f"{path} is no record of a run: it should hold a JSON object")
    schema = data.get("schema", SCHEMA)
    if schema != SCHEMA:
        raise InputError(
            f"{path} has schema {schema!r}, this release reads {SCHEMA}; use the nm2trt that wrote it, or "
            "run again"
        )
    return data


def _stage_of(path: Path) -> str:
    stage = re.split(r"[-_.]", path.stem, maxsplit=1)[0]
    if stage not in STAGES:
        raise InputError(
            f"{path} is named for no stage; name it STAGE.json or STAGE-LABEL.json, STAGE one of "
            f"{', '.join(STAGES)}"
        )
    return stage


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _now() -> str:
    return dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds")


def _dumps(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1) + "\n"
