"""Versions of a deployed model: which are there, served, or were before; read from its folder."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from nm2trt.errors import InputError
from nm2trt.files import read_regular
from nm2trt.serving.config_message import from_text
from nm2trt.serving.staging import is_real_folder

CONFIG = "config.pbtxt"
RECORD = "deployment.json"
SCHEMA = 1
# Triton starts a Python model by a shell command with the path of its version, which it does not quote.
_ONE_WORD = re.compile(r"[\w.,:+=@%-]+")


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
    return ", ".join(names) or "no model at all"


def refuse_hanging(repository: Path, names: Collection[str] = ("*",)) -> None:
    """Check that a server can start every Python model that it would load.

    Triton waits without end for one that does not start, and cannot be stopped then.

    Args:
        repository: The model repository.
        names: What the server loads at its start, with the models that ensembles among them name; "*" is all.

    Raises:
        InputError: A version has no code, or the name of the model's folder is not one word of a shell.
    """
    configs = {}
    for path in sorted(repository.glob(f"*/{CONFIG}")):
        # One that cannot be read is not loaded either.
        with contextlib.suppress(OSError, InputError):
            text = read_regular(path).decode(errors="replace")
            configs[path.parent.name] = from_text(text, str(path), skip_unknown=True)
    loaded = [name for name in configs if "*" in names or name in names]
    for name in loaded:
        steps = configs[name].ensemble_scheduling.step
        loaded += [
            step.model_name for step in steps if step.model_name in configs and step.model_name not in loaded
        ]
        if configs[name].backend != "python":
            continue
        if not _ONE_WORD.fullmatch(name):
            raise InputError(
                f"a server would hang on the name of the Python model {repository / name}, which a shell "
                "takes apart; use letters, digits, _, . and -"
            )
        for version in _loaded(repository / name, configs[name].version_policy):
            if not any(version.glob("*.py")):
                raise InputError(
                    f"{version} holds no model.py, and a server would hang on it; deploy the model again, or "
                    "remove that folder"
                )


def _loaded(model: Path, policy: Any) -> list[Path]:
    """Return the version folders that a policy has a server load: by default the latest one."""
    there = {number: path for number in numbers(model) if (path := model / str(number)).is_dir()}
    if policy.HasField("all"):
        wanted = sorted(there)
    elif policy.HasField("specific"):
        wanted = sorted({*there} & {*policy.specific.versions})
    else:
        wanted = sorted(there)[-(policy.latest.num_versions or 1) :]
    return [there[number] for number in wanted]
