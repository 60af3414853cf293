"""Figures in words that every command and report shares: large counts, shares and sizes of files.

A count of things is written whole, with commas: `f"{count:,}"`. Parameters and multiply-accumulates have a
unit, and figures that stand side by side have the same one. A share has one digit; a score has two, as the
difference of two scores has in points.
"""

from __future__ import annotations

_UNITS = ((10**12, " T"), (10**9, " G"), (10**6, " M"), (10**3, " k"))
_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def large(*numbers: float) -> tuple[str, ...]:
    """Return large counts in the unit of the largest, as in "4.09 G" and "0.88 G"."""
    unit, name = next(((unit, name) for unit, name in _UNITS if max(numbers) >= unit), (1, ""))
    return tuple(f"{number / unit:.2f}{name}" if name else f"{number:g}" for number in numbers)


def percent(share: float, digits: int = 1) -> str:
    """Return a share in percent, as in "88.0 %"."""
    return f"{100 * share:.{digits}f} %"


def counted(number: int, one: str, many: str = "") -> str:
    """Return a count and its word, as in "1 weight" and "1,024 weights"; `many` where an s is not enough."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size(size_bytes: float) -> str:
    """Return the size of a file, as in "1.7 MB"."""
    unit, name = next(((unit, name) for unit, name in _SIZES if size_bytes >= unit), (1, "B"))
    return f"{size_bytes / unit:.{0 if unit == 1 else 1}f} {name}"
