"""`JsonValue`: the base of results whose JSON is their fields."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

__all__ = ["JsonValue"]


class JsonValue:
    """A dataclass whose JSON is its fields; those that need more override `to_json`."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]
