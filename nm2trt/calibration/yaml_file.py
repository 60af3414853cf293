"""YAML that may come from anybody: plain data only, and one sentence for what is wrong with it."""

from __future__ import annotations

import os
from typing import Any, TypeVar

from nm2trt.errors import BackendMissingError, InputError
from nm2trt.files import check_input

try:
    import yaml
    from pydantic import BaseModel, ConfigDict, ValidationError
except ImportError as error:
    raise BackendMissingError(f"{error.name} is not installed: pip install nm2trt[calib]") from error

__all__ = ["Strict", "read_yaml", "validated"]

_LARGEST_BYTES = 1 << 20

T = TypeVar("T", bound=BaseModel)


class Strict(BaseModel):
    """Base of every recipe: no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """The safe loader, without aliases: nested ones blow a small file up to any size."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read", event.start_mark)
        return super().compose_node(parent, index)


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the mapping that a YAML file holds; no tag builds a Python object.

    Raises:
        InputError: The file is missing, too large, no YAML, or no mapping.
    """
    path = check_input(path, "a YAML recipe")
    if path.stat().st_size > _LARGEST_BYTES:
        raise InputError(f"{path} is larger than 1 MB, which no recipe is")
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)  # noqa: S506 - derived from SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" at line {mark.line + 1}"
        problem = getattr(error, "problem", None) or "it is not UTF-8 text of YAML"
        raise InputError(f"{path} cannot be read{where}: {problem}") from error
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise InputError(f"{path} is no recipe; it should be a mapping of names to values")
    return data


def validated(kind: type[T], data: dict[str, Any], path: str | os.PathLike[str]) -> T:
    """Return the recipe that `data` spells.

    Raises:
        InputError: A key is unknown or missing, or a value is out of range; the first is named.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the recipe"
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = f"unknown key; known are {', '.join(sorted(kind.model_fields))}"
            if len(first["loc"]) > 1:
                message = "unknown key"
        raise InputError(f"{path}: {where}: {message}") from error
