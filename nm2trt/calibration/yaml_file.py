"""YAML that may come from anybody: plain data only, and one sentence for what is wrong with it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from nm2trt.errors import InputError
from nm2trt.extras import names_the_extra
from nm2trt.files import check_input
from nm2trt.text_files import decoded

if TYPE_CHECKING:
    from pydantic_core import ValidationError

with names_the_extra("yaml"):
    import yaml

_LARGEST_BYTES = 1 << 20
# Keys, items and values; parsing 1 MB of short ones took 8 seconds.
_MOST_NODES = 20_000
_MOST_DIGITS = 1_000
# Files that are given in place of a recipe, and where they belong.
_OTHERS = {
    ".npz": "it holds samples, which need no recipe; give it to a command with --calib",
    ".onnx": "it is a model; `nm2trt init MODEL` writes a recipe for it",
}
_NUMBERS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float"))
_NO_TEXT = _NUMBERS | {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "null", "timestamp")}

Place = tuple[str | int, ...]


class Document(dict[str, Any]):
    """The mapping that a YAML file holds, which knows where its keys stand.

    Args:
        data: The mapping.
        lines: Line of each key and item, from 1, by its path.
    """

    def __init__(self, data: Mapping[str, Any], lines: Mapping[Place, int]) -> None:
        super().__init__(data)
        self.lines = lines
        self._groups: dict[int, dict[Place, dict[Place, int]]] = {}

    def line(self, place: Place) -> int:
        """Return the line of a place, or of the closest one above it that the file has."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def part(self, *place: str | int) -> Document:
        """Return the mapping at a place, with its lines; an empty one if the file has null."""
        value: Any = self
        for step in place:
            value = value[step]
        return Document(value or {}, self._grouped(len(place)).get(place, {}))

    def _grouped(self, size: int) -> Mapping[Place, Mapping[Place, int]]:
        """Return the lines below each place of a length, by the rest of their path; made once."""
        if size not in self._groups:
            found: dict[Place, dict[Place, int]] = {}
            for key, line in self.lines.items():
                if len(key) >= size:
                    found.setdefault(key[:size], {})[key[size:]] = line
            self._groups[size] = found
        return self._groups[size]


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """The safe loader, without aliases: nested ones blow a small file up to any size."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            why = f"it has more than {_MOST_NODES:,} keys and values, which no recipe has"
            raise yaml.composer.ComposerError(None, None, why, self.peek_event().start_mark)
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read", event.start_mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        # YAML reads 1:30 as 90: in Python a long number of that kind takes minutes.
        if node.tag in _NUMBERS and len(node.value) > _MOST_DIGITS:
            raise yaml.constructor.ConstructorError(None, None, "a number is too long", node.start_mark)
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # a date that no calendar has
            why = str(error).partition(":")[0]
            raise yaml.constructor.ConstructorError(None, None, why, node.start_mark) from error


def _reason(error: Exception) -> str:
    """Return why a file is not YAML, in words."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.reader.ReaderError):
        return f"it holds the character {error.character:#06x}, which YAML does not take"
    return getattr(error, "problem", None) or "it is not UTF-8 text of YAML"


def read_yaml(path: str | os.PathLike[str]) -> Document:
    """Return the mapping that a YAML file holds; no tag builds a Python object.

    Raises:
        InputError: The file is missing, too large, no YAML, no mapping, or has a key twice.
    """
    path = check_input(path, "a YAML recipe")
    if other := _OTHERS.get(path.suffix.lower()):
        raise InputError(f"{path} is not a recipe: {other}")
    if path.stat().st_size > _LARGEST_BYTES:
        raise InputError(f"{path} is larger than 1 MB, which no recipe is")
    lines: dict[Place, int] = {}
    try:
        loader = _PlainLoader(decoded(path.read_bytes()))
        try:
            node = loader.get_single_node()
            data = None if node is None else loader.construct_document(node)
            if node is not None:
                _number(node, (), lines)
        finally:
            loader.dispose()
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" at line {mark.line + 1}"
        raise InputError(f"{path} cannot be read{where}: {_reason(error)}") from error
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise InputError(f"{path} is not a recipe, which is a mapping of names to values")
    return Document(data, lines)


def _number(node: Any, place: Place, lines: dict[Place, int]) -> None:
    """Note the line of every key and item below a node; raise if a mapping has a key twice."""
    if isinstance(node, yaml.SequenceNode):
        for at, item in enumerate(node.value):
            lines[(*place, at)] = item.start_mark.line + 1
            _number(item, (*place, at), lines)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag in _NO_TEXT:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is not text to YAML; put it in quotes",
                    problem_mark=key.start_mark,
                )
            if (*place, key.value) in lines:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is there twice", problem_mark=key.start_mark
                )
            lines[(*place, key.value)] = key.start_mark.line + 1
            _number(value, (*place, key.value), lines)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for the known word that looks most like `word`, or what is known."""
    names = sorted(known)
    found = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {found[0]!r}?" if found else f"known are {', '.join(names)}"


def first_fault(
    error: ValidationError,
    fields: Iterable[str],
    data: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    at: str = "",
) -> InputError:
    """Return the error that names the first key of a recipe that is unknown, missing or out of range.

    Args:
        error: What the check found.
        fields: The keys that there are at the top.
        data: The mapping that was checked; if it is a `Document`, the message names the line.
        path: The file.
        at: Where in the file the mapping stands, e.g. "stages.build".
    """
    first = error.errors()[0]
    place = tuple(first["loc"])
    where = ".".join([*filter(None, [at]), *(str(part) for part in place)]) or "the recipe"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_type" and isinstance(first["input"], bool | int | float | date):
        message += f", and YAML reads {first['input']} here; put it in quotes"
    if first["type"] == "extra_forbidden":
        message = f"unknown key; {nearest(str(place[-1]), fields)}" if len(place) == 1 else "unknown key"
    line = f" line {data.line(place)}" if isinstance(data, Document) else ""
    return InputError(f"{path}{line}: {where}: {message}")
