"""JSON of results: `JsonValue`, whose JSON is its fields or what `json_names` says, and `named`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar


class JsonValue:
    """A dataclass whose JSON is its fields, or what `json_names` lists in the words of `named`."""

    __slots__ = ()
    json_names: ClassVar[str] = "*"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return named(self, self.json_names)


def named(value: Any, names: str) -> dict[str, Any]:
    """Return attributes as JSON values.

    Args:
        value: The result.
        names: The attributes, separated by spaces: "name", or "key=name" and "key=name.inner" under another
            key; "**name" for the keys of one that has `to_json`, and "*" for all fields. Paths become text,
            tuples lists, infinite and undefined figures None, and dataclasses what their `to_json` says or
            their fields.
    """
    found: dict[str, Any] = {}
    for name in names.split():
        if name == "*":
            found |= {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        elif name.startswith("**"):
            found |= getattr(value, name[2:]).to_json()
        else:
            key, _, path = name.partition("=")
            found[key] = _plain(attrgetter(path or key)(value))
    return found


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return named(value, "*")
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
