"""Typed reading of JSON that another release, or a hand, may have written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nm2trt.errors import InputError


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object, and where it stands, for messages; its methods check the types of values.

    Args:
        data: The object.
        where: File and path inside it, e.g. "stages/verify.json: result".

    Raises:
        InputError: By each method but `has`: the value is of another type, or missing without a default.
    """

    data: dict[str, Any]
    where: str

    def has(self, key: str) -> bool:
        """Tell whether the key is there with a value."""
        return self.data.get(key) is not None

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text; the default if the key is missing."""
        value = self.data.get(key)
        value = default if value is None else value
        return str(self._checked(key, value, "a text", isinstance(value, str)))

    def number(self, key: str) -> float:
        """Return a finite number, which may not be missing."""
        value = self.maybe(key)
        return float(self._checked(key, value, "a number", value is not None))

    def maybe(self, key: str) -> float | None:
        """Return a finite number, or None if the key is missing, null or NaN."""
        value = self.data.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        self._checked(key, value, "a number", value is None or number)
        return value if number and math.isfinite(value) else None  # type: ignore[arg-type]

    def count(self, key: str) -> int | None:
        """Return a whole number, or None if the key is missing or null."""
        value = self.maybe(key)
        return None if value is None else int(value)

    def object(self, key: str) -> Fields:
        """Return an object; an empty one if the key is missing or null."""
        value = {} if self.data.get(key) is None else self.data[key]
        return Fields(self._checked(key, value, "an object", isinstance(value, dict)), f"{self.where}.{key}")

    def objects(self, key: str) -> list[Fields]:
        """Return a list of objects; an empty one if the key is missing or null."""
        found = self._list(key, "a list of objects", dict)
        return [Fields(item, f"{self.where}.{key}[{at}]") for at, item in enumerate(found)]

    def entries(self) -> Iterator[tuple[str, Fields]]:
        """Yield key and value of an object of objects."""
        for key in self.data:
            yield key, self.object(key)

    def texts(self, key: str) -> list[str]:
        """Return a list of texts; an empty one if the key is missing or null."""
        return self._list(key, "a list of texts", str)

    def sizes(self, key: str) -> tuple[int, ...]:
        """Return a shape; () if the key is missing or null."""
        return tuple(self._list(key, "a list of whole numbers", int))

    def _list(self, key: str, what: str, kind: type) -> list[Any]:
        value = [] if self.data.get(key) is None else self.data[key]
        sound = isinstance(value, list) and all(type(item) is kind for item in value)
        return list(self._checked(key, value, what, sound))

    def _checked(self, key: str, value: Any, what: str, sound: bool) -> Any:
        if sound:
            return value
        state = "is missing" if key not in self.data else "is something else"
        raise InputError(
            f"{self.where}.{key} should be {what} and {state}; the record is damaged or of another "
            "release: run that stage again"
        )
