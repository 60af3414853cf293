"""Versions of installed distributions, read from the names of their folders.

`importlib.metadata` gives the same answer, but its import takes longer than verifying most models.
"""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path

_FOLDER = re.compile(r"(?P<name>.+?)-(?P<version>[^-]+)(-py[0-9.]+)?\.(dist|egg)-info")


def installed_version(*distributions: str) -> str:
    """Return the version of the first of these distributions that is installed; "" if none is.

    Args:
        distributions: Names, e.g. "onnxruntime"; upper case and lower case are the same, and so are "-", "_"
            and ".".
    """
    found = _versions(tuple(sys.path))
    return next((found[name] for name in map(_normal, distributions) if name in found), "")


@functools.lru_cache(maxsize=1)
def _versions(path: tuple[str, ...]) -> dict[str, str]:
    """Return the version of every distribution on `sys.path`; the first folder that has one decides."""
    found: dict[str, str] = {}
    for folder in path:
        try:
            names = [entry.name for entry in Path(folder or ".").iterdir()]
        except OSError:  # a zip file, or a folder that is missing
            continue
        for name in names:
            if name.endswith("-info") and (parts := _FOLDER.fullmatch(name)):
                found.setdefault(_normal(parts["name"]), parts["version"])
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
