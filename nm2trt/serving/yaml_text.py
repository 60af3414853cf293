"""YAML text of plain values: mappings, lists, strings, numbers and booleans, in the order that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# A word that YAML reads as text without quotes; everything else is quoted as JSON, which YAML reads too.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_NOT_TEXT = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}


def yaml_text(*documents: Mapping[str, Any], comment: str = "") -> str:
    """Return documents as one YAML file.

    Args:
        documents: One or more mappings of strings, numbers, booleans, lists and mappings.
        comment: Lines that stand before the first document, without their `#`.
    """
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + "---\n".join("\n".join(_lines(document)) + "\n" for document in documents)


def _lines(value: Mapping[str, Any] | Sequence[Any]) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inside in value.items():
            if isinstance(inside, (Mapping, list, tuple)) and inside:
                yield f"{_scalar(key)}:"
                yield from (f"  {line}" for line in _lines(inside))
            else:
                yield f"{_scalar(key)}: {_scalar(inside)}"
        return
    for inside in value:
        if isinstance(inside, (Mapping, list, tuple)) and inside:
            first, *rest = _lines(inside)
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
        else:
            yield f"- {_scalar(inside)}"


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT:
        return value
    return json.dumps(value)
