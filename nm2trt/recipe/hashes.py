"""Hashes of what a stage depends on; a file that has not changed is not read again."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nm2trt.errors import InputError, OutputError
from nm2trt.files import read_regular, write_atomic
from nm2trt.installed import installed_version
from nm2trt.reporting.records import FileRecord, file_record, shown_path

_INDEX = "files.json"
# What a result may depend on beside nm2trt itself; those that are installed are part of every key.
_TOOLS = (
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "torch",
    "tensorrt",
    "tensorrt-rtx-cu12",
    "tritonclient",
)


def tool_versions() -> dict[str, str]:
    """Return nm2trt's version and those of the installed libraries, without importing them."""
    from nm2trt import __version__

    versions = {"nm2trt": __version__}
    for name in _TOOLS:
        if version := installed_version(name):
            versions[name] = version
    return versions


def stage_key(
    kind: str, options: Mapping[str, Any], files: Iterable[FileRecord], versions: Mapping[str, str]
) -> str:
    """Hash everything that the result of a stage depends on.

    Args:
        kind: The stage's kind.
        options: What was asked of it.
        files: What it reads, in a fixed order.
        versions: What runs it.
    """
    parts = [kind, dict(options), [file.sha256 for file in files], dict(versions)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _is_entry(entry: Any) -> bool:
    """Tell whether an entry of the index is as it was written; any other file is hashed again."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("sha256"), str)
        and all(type(entry.get(key)) is int for key in ("size", "time"))
        and isinstance(entry.get("data", []), list)
        and all(isinstance(name, str) for name in entry.get("data", []))
    )


class FileIndex:
    """Hashes of files by path, size and time, kept in the run's folder; only a cache.

    Args:
        root: The run's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, dict[str, Any]] = {}
        self._changed = False
        with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
            data = json.loads(read_regular(root / _INDEX))
            self._known = {path: entry for path, entry in data.items() if _is_entry(entry)}

    def records(self, path: Path) -> list[FileRecord]:
        """Return the record of a file and of the data files that an ONNX model refers to.

        A folder is one record: the hash of its files' names, sizes and times.

        Raises:
            InputError: It is missing, or the model is not sound.
        """
        if path.is_dir():
            return [_folder_record(path)]
        if not path.is_file():
            raise InputError(f"{path} does not exist")
        record = self._file(path)
        if path.suffix != ".onnx":
            return [record]
        entry = self._known[record.path]
        if "data" not in entry:
            from nm2trt.pipeline.info import data_files

            entry["data"] = [str(found) for found in data_files(path)]
            self._changed = True
        data = (self._file(Path(found)) for found in entry["data"] if Path(found) != path.resolve())
        return [record, *(replace(found, part_of=record.path) for found in data)]

    def records_of(self, paths: Iterable[Path]) -> tuple[FileRecord, ...]:
        """Return the records of files, each once: data of a model that is among them follows the model.

        Raises:
            InputError: As `records`.
        """
        found: dict[str, FileRecord] = {}
        for path in paths:
            for record in self.records(path):
                found.setdefault(record.path, record)
        return tuple(found.values())

    def save(self) -> None:
        """Write the index if it changed; that it cannot be written costs only time."""
        if self._changed:
            with contextlib.suppress(OutputError):
                write_atomic(self._root / _INDEX, json.dumps(self._known, indent=1) + "\n", follow=False)
            self._changed = False

    def unchanged(self, outputs: Sequence[FileRecord]) -> bool:
        """Tell whether every file is there with the hash that it was recorded with."""
        for output in outputs:
            path = self._root / output.path
            try:
                found = _folder_record(path) if path.is_dir() else self._file(path)
            except (OSError, InputError):
                return False
            if found.sha256 != output.sha256:
                return False
        return True

    def _file(self, path: Path) -> FileRecord:
        try:
            shown = shown_path(path, self._root)
            entry = self._known.get(shown)
            known = FileRecord(shown, entry["sha256"], entry["size"], entry["time"]) if entry else None
            record = file_record(path, self._root, known)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        if known is None or record != known:
            self._known[record.path] = {
                "sha256": record.sha256,
                "size": record.size_bytes,
                "time": record.mtime_ns,
            }
            self._changed = True
        return record


def _folder_record(path: Path) -> FileRecord:
    digest, size = hashlib.sha256(), 0
    for found in sorted(path.rglob("*")):
        if found.is_file():
            status = found.stat()
            digest.update(f"{found.relative_to(path)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
            size += status.st_size
    return FileRecord(str(path), digest.hexdigest(), size)
