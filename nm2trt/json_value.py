"""JSON of results: `JsonValue`, whose JSON is its fields, and `named`, for those that choose among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any


class JsonValue:
    """A dataclass whose JSON is its fields; those that need more override `to_json`."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]


def named(value: object, names: str) -> dict[str, Any]:
    """Return attributes as JSON values.

    Args:
        value: The result.
        names: The attributes, separated by spaces. Those that have `to_json` say themselves what they are;
            paths become text, tuples lists, other dataclasses their fields.
    """
    return {name: _plain(getattr(value, name)) for name in names.split()}


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
