"""Cache file of a calibration, from which a stopped one goes on; plain arrays, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.calibration.array_files import UNSOUND_CONTENT, read_archive
from nm2trt.files import atomic_path


class RangeCache:
    """What one calibration has found so far, in a file.

    Args:
        path: The file; None keeps nothing.
        key: What the calibration is of: a file of another one counts as empty.
    """

    def __init__(self, path: Path | None, key: Mapping[str, Any]) -> None:
        self._path, self._key = path, key

    def load(self) -> tuple[int, str, dict[str, Array]] | None:
        """Return samples done, their hash, and the collector's arrays; None if there is nothing usable."""
        if self._path is None or not self._path.is_file():
            return None
        try:
            arrays = dict(read_archive(self._path))
            head = json.loads(str(arrays.pop("head")))
            if {name: head.get(name) for name in self._key} != dict(self._key):
                return None
            return int(head["samples"]), str(head["sha256"]), arrays
        except UNSOUND_CONTENT:
            return None

    def save(self, samples: int, sha256: str, arrays: Arrays) -> None:
        """Replace the file's content, whole or not at all; a symbolic link in its place is not followed.

        Raises:
            OutputError: It cannot be written.
        """
        if self._path is None or not samples:
            return
        head = json.dumps({**self._key, "samples": samples, "sha256": sha256})
        with atomic_path(self._path, follow=False) as temporary, temporary.open("wb") as file:
            kept: dict[str, Any] = {"head": np.array(head), **arrays}
            np.savez(file, **kept)

    def say(self) -> str:
        """Return a clause that says where to go on from, or ""."""
        return "" if self._path is None else f"; what was found is in {self._path}, run again to go on"
