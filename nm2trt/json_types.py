"""Type checks of decoded JSON without conversion: `"1"` and `true` are not numbers."""

from __future__ import annotations

from typing import Any

_LARGEST = 2.0**1000  # sums and squares of measured figures stay finite


def text(value: Any) -> str:
    """Return a text.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def truth(value: Any) -> bool:
    """Return `true` or `false`.

    Raises:
        TypeError: It is something else, 1 and 0 included.
    """
    if type(value) is not bool:
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def whole(value: Any) -> int:
    """Return a whole number of at most 64 bits.

    Raises:
        TypeError: It is something else, `true` and 1.0 included.
        ValueError: It is larger.
    """
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    if abs(value) >= 1 << 63:
        raise ValueError("a number has more than 64 bits")
    return value


def number(value: Any) -> float:
    """Return a finite number.

    Raises:
        TypeError: It is something else, `true` included.
        ValueError: It is NaN, infinite or too large.
    """
    if type(value) not in (int, float):
        raise TypeError(f"{value!r} is not a number")
    if not abs(value) < _LARGEST:
        raise ValueError("a number is not finite")
    return float(value)
