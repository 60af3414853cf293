"""Shares as they are typed: "80%" as text, 0.8 as a number."""

from __future__ import annotations

import re

from nm2trt.errors import InputError

_TEXT = re.compile(r"\s*([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*(%?)\s*")


def parse_share(given: str | float, what: str, example: str) -> float:
    """Return a share, over 0 and up to 1.

    Args:
        given: "80%" or "80" as text, 0.8 as a number. A text such as "0.8" is refused: it may mean 80 % or
            0.8 %.
        what: The whole, for the message, e.g. "the work".
        example: How to write it, e.g. "80%".

    Raises:
        InputError: The text is not a share.
    """
    share = given if isinstance(given, (int, float)) and not isinstance(given, bool) else None
    match = _TEXT.fullmatch(given) if isinstance(given, str) else None
    if match is not None and (match[2] or float(match[1]) >= 1):
        share = float(match[1]) / 100
    if share is None or not 0 < share <= 1:
        raise InputError(f"{given!r} is not a share of {what}; write a percentage over 0, as in {example}")
    return float(share)
