"""Typed reading of JSON that another release, or a hand, may have written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nm2trt.errors import InputError

__all__ = ["Fields"]


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object, and where it stands, for messages.

    Args:
        data: The object.
        where: File and path inside it, e.g. "stages/verify.json: result".
    """

    data: dict[str, Any]
    where: str

    def has(self, key: str) -> bool:
        """Tell whether the key is there with a value."""
        return self.data.get(key) is not None

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text; the default where the key is missing.

        Raises:
            InputError: The value is not text, or missing without a default.
        """
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, "a text")
        return value

    def number(self, key: str) -> float:
        """Return a finite number.

        Raises:
            InputError: It is none, or missing.
        """
        value = self.maybe(key)
        if value is None:
            raise self._wrong(key, "a number")
        return value

    def maybe(self, key: str) -> float | None:
        """Return a finite number, or None where the key is missing, null or NaN.

        Raises:
            InputError: It is something else.
        """
        value = self.data.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, "a number")
        return value if math.isfinite(value) else None

    def count(self, key: str) -> int | None:
        """Return a whole number, or None where the key is missing or null.

        Raises:
            InputError: It is something else.
        """
        value = self.maybe(key)
        return None if value is None else int(value)

    def object(self, key: str) -> Fields:
        """Return an object; an empty one where the key is missing or null.

        Raises:
            InputError: The value is not an object.
        """
        value = self.data.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self._wrong(key, "an object")
        return Fields(value, f"{self.where}.{key}")

    def objects(self, key: str) -> list[Fields]:
        """Return a list of objects; an empty one where the key is missing or null.

        Raises:
            InputError: The value is not a list of objects.
        """
        value = self.data.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self._wrong(key, "a list of objects")
        return [Fields(item, f"{self.where}.{key}[{at}]") for at, item in enumerate(value)]

    def entries(self) -> Iterator[tuple[str, Fields]]:
        """Yield key and value of an object of objects.

        Raises:
            InputError: A value is not an object.
        """
        for key in self.data:
            yield key, self.object(key)

    def texts(self, key: str) -> list[str]:
        """Return a list of texts; an empty one where the key is missing or null.

        Raises:
            InputError: The value is not a list of texts.
        """
        value = self.data.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(key, "a list of texts")
        return value

    def sizes(self, key: str) -> tuple[int, ...]:
        """Return a shape; () where the key is missing or null.

        Raises:
            InputError: The value is not a list of whole numbers.
        """
        value = self.data.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            raise self._wrong(key, "a list of whole numbers")
        return tuple(value)

    def _value(self, key: str, default: Any) -> Any:
        value = self.data.get(key, default)
        return default if value is None else value

    def _wrong(self, key: str, what: str) -> InputError:
        state = "is missing" if key not in self.data else "is something else"
        return InputError(
            f"{self.where}.{key} should be {what} and {state}; the record is damaged or of another "
            "release: run that stage again"
        )
