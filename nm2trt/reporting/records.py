"""Records in a run's folder, as values, and how they are read, whatever wrote them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from nm2trt.errors import InputError
from nm2trt.files import read_input
from nm2trt.hashes import sha256_file
from nm2trt.json_types import number, text, whole
from nm2trt.json_value import JsonValue

SCHEMA = 1
# Kinds of stages, in the order of the pipeline.
STAGES = (
    "train",
    "sparsify",
    "export",
    "fuse",
    "permute",
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

Status = Literal["done", "failed", "running"]


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as a stage read or wrote it.

    Args:
        path: Where it is, as the stage was told; relative to the run's folder if it lies below it.
        sha256: Hash of its bytes.
        size_bytes: Its size.
        mtime_ns: When it was last written, so that an unchanged file need not be hashed again.
        part_of: Path of the ONNX model whose external data this is; "" for a file of its own.
    """

    path: str
    sha256: str
    size_bytes: int
    mtime_ns: int = 0
    part_of: str = ""


@dataclass(frozen=True, slots=True)
class StageRecord(JsonValue):
    """What one stage did.

    Args:
        stage: Its kind, one of `STAGES`.
        name: Its name in the run, unique.
        status: "done", "failed", or "running" if it was killed.
        sentence: The result in one line, or the error.
        command: The command that does the same, or "".
        seconds: Wall time.
        started: UTC time, ISO 8601.
        versions: Version by product.
        inputs: Files that it read.
        outputs: Files that it wrote.
        key: Hash of everything that the result depends on; "" if it is not known.
        result: What the command prints with `--json`.
    """

    schema = SCHEMA
    json_names = "schema *"

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


def shown_path(path: Path, root: Path) -> str:
    """Return a file's path as a record shows it: relative to the run's folder if the file lies below it."""
    real, base = path.resolve(), root.resolve()
    return str(real.relative_to(base)) if real.is_relative_to(base) else str(path)


def file_record(path: str | os.PathLike[str], root: Path, known: FileRecord | None = None) -> FileRecord:
    """Hash a file, unless its size and time say that it is the one that was hashed before.

    Args:
        path: The file.
        root: The run's folder; a path below it is recorded relative to it.
        known: An earlier record of the same path.
    """
    path = Path(path)
    status, shown = path.stat(), shown_path(path, root)
    unchanged = known is not None and (known.path, known.size_bytes, known.mtime_ns) == (
        shown,
        status.st_size,
        status.st_mtime_ns,
    )
    digest = known.sha256 if known is not None and unchanged else sha256_file(path)
    return FileRecord(shown, digest, status.st_size, status.st_mtime_ns)


def read_record(path: Path) -> StageRecord:
    """Read the record of a stage, or the bare output of a command, which is known by its file's name.

    Raises:
        InputError: It is damaged, of another release, or named for no stage.
    """
    data = read_json(path)
    if "schema" not in data or "result" not in data:
        # What a command prints with `--json` holds its error, beside what it found before.
        if "error" in data and "exit_status" in data:
            told = str(data["error"])
            found = {key: value for key, value in data.items() if key not in ("error", "kind", "exit_status")}
            return StageRecord(_stage_of(path), path.stem, "failed", sentence=told, result=found)
        return StageRecord(_stage_of(path), path.stem, result=data)
    try:
        values = {item.name: data[item.name] for item in fields(StageRecord) if item.name in data}
        for name in ("inputs", "outputs"):
            values[name] = tuple(
                FileRecord(
                    text(item["path"]),
                    text(item["sha256"]),
                    whole(item["size_bytes"]),
                    whole(item.get("mtime_ns", 0)),
                    text(item.get("part_of", "")),
                )
                for item in data.get(name, ())
            )
        for name in ("stage", "name", "status", "sentence", "command", "started", "key"):
            text(values.get(name, ""))
        if not isinstance(values["result"], dict) or not isinstance(values.get("versions", {}), dict):
            raise TypeError
        if values["stage"] not in STAGES or values.get("status", "done") not in ("done", "failed", "running"):
            raise TypeError
        if values.get("seconds") is not None:
            values["seconds"] = number(values["seconds"])
        return StageRecord(**values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged or not a record of a stage; run that stage again") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of this release's schema.

    Raises:
        InputError: It is missing, no JSON, too large, or of another schema.
    """
    written = read_input(path, "a stage record")
    try:
        data = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is half written or damaged: it is not JSON; run that stage again, the others are kept"
        ) from error
    if not isinstance(data, dict):
        raise InputError(f"{path} is not the record of a run: it does not hold a JSON object")
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
            f"{path} names no stage; call it STAGE.json or STAGE-LABEL.json, STAGE one of {', '.join(STAGES)}"
        )
    return stage
