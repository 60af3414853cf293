"""Versions of a deployed model: which are there, served, or were before; read from its folder."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

from nm2trt.errors import InputError
from nm2trt.files import read_regular
from nm2trt.serving.config_message import from_text
from nm2trt.serving.staging import is_real_folder

CONFIG = "config.pbtxt"
RECORD = "deployment.json"
SCHEMA = 1
_PYTHON = re.compile(r"""^[^#\n]*\bbackend\s*:\s*["']python["']""", re.MULTILINE)
_POLICY = re.compile(r"version_policy\s*:?\s*\{\s*(latest|specific|all)\s*:?\s*\{([^}]*)\}")


def history(model: Path) -> list[int]:
    """Return the version that is served, then the one before it, and so on; [] if the model is missing.

    Raises:
        InputError: The folder is not one that nm2trt placed.
    """
    if not is_real_folder(model):
        return []
    config = model / CONFIG
    if config.is_symlink() or not config.is_file():
        raise InputError(
            f"{model} was not placed by nm2trt deploy: it has no {CONFIG} of its own; choose another name"
        )
    policy = from_text(read_regular(config).decode(errors="replace"), str(config)).version_policy
    ours = [number for number in numbers(model) if read_record(model / str(number))]
    named = [number for number in policy.specific.versions if number in ours]
    if not ours or (policy.HasField("specific") and not named):
        raise InputError(
            f"{model} was not placed by nm2trt deploy: what it serves has no {RECORD}; choose another name"
        )
    served: list[int] = []
    version: int | None = max(named or ours)
    while version is not None and version not in served:
        record = read_record(model / str(version))
        if record is None:
            break
        served.append(version)
        version = record["previous"]
    return served


def numbers(model: Path) -> list[int]:
    """Return the numbers that are taken, by whatever it is; those that Triton cannot hold are none."""
    try:
        return sorted(
            int(entry.name) for entry in os.scandir(model) if re.fullmatch(r"[0-9]{1,18}", entry.name)
        )
    except FileNotFoundError:
        return []


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return a version's record, or None if nm2trt did not place it."""
    try:
        if folder.is_symlink():
            return None
        record = json.loads(read_regular(folder / RECORD))
        if record["schema"] != SCHEMA or not isinstance(record["config"], str):
            return None
        if not isinstance(record["previous"], int | None) or not isinstance(record["files"], list):
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return dict(record)


def model_names(root: Path) -> str:
    """Return the names of the models in a repository, for messages."""
    names = sorted(entry.name for entry in os.scandir(root) if (root / entry.name / CONFIG).is_file())
    return ", ".join(names) or "none"


def refuse_hanging(repository: Path) -> None:
    """Check that every version of a Python model that a server would load has its code.

    Triton waits without end for one that has not, and cannot be stopped then.

    Raises:
        InputError: A version has no code.
    """
    for path in sorted(repository.glob(f"*/{CONFIG}")):
        config = ""
        with contextlib.suppress(OSError):
            config = read_regular(path).decode(errors="replace")
        if _PYTHON.search(config) is None:
            continue
        for version in _loaded(path.parent, config):
            if not any(version.glob("*.py")):
                raise InputError(
                    f"{version} holds no model.py, and a server would hang on it; deploy the model again, or "
                    "remove that folder"
                )


def _loaded(model: Path, config: str) -> list[Path]:
    """Return the version folders that a configuration has a server load: by default the latest one."""
    there = {number: path for number in numbers(model) if (path := model / str(number)).is_dir()}
    kind, body = found.groups() if (found := _POLICY.search(config)) else ("latest", "")
    named = [int(number) for number in re.findall(r"\d+", body)]
    if kind == "latest":
        wanted = sorted(there)[-(named or [1])[0] :]
    else:
        wanted = sorted(there) if kind == "all" else sorted({*there} & {*named})
    return [there[number] for number in wanted]
