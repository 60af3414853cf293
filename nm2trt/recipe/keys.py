"""The keys of a recipe and what their values may be, as the core of pydantic checks them.

pydantic makes the same checks from classes; loading it would take half the time of a recipe that is done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from nm2trt.calibration.yaml_file import first_fault
from nm2trt.extras import names_the_extra

with names_the_extra("pydantic_core"):
    from pydantic_core import CoreConfig, CoreSchema, SchemaValidator, ValidationError, core_schema

_PLAIN = {"str": str, "int": int, "float": float, "bool": bool}


class Keys(Mapping[str, CoreSchema]):
    """The keys of one mapping in a recipe, in order: no unknown ones, no silent conversions.

    Args:
        takes: What each key takes; one without a default must be there.
    """

    def __init__(self, takes: Mapping[str, CoreSchema]) -> None:
        self._takes = dict(takes)

    def __getitem__(self, key: str) -> CoreSchema:
        return self._takes[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._takes)

    def __len__(self) -> int:
        return len(self._takes)

    @cached_property
    def validator(self) -> SchemaValidator:
        """What checks a mapping, and gives it with its defaults."""
        fields = {
            key: core_schema.typed_dict_field(schema, required=schema["type"] != "default")
            for key, schema in self._takes.items()
        }
        strict = CoreConfig(strict=True)
        return SchemaValidator(
            core_schema.typed_dict_schema(fields, extra_behavior="forbid", config=strict), strict
        )

    def read(self, data: Mapping[str, Any], path: str | os.PathLike[str], *, at: str = "") -> dict[str, Any]:
        """Return the values that `data` spells, with defaults, in the order of the keys.

        Args:
            data: The mapping; if it is a `Document`, messages name the line.
            path: The file, for messages.
            at: Where in the file the mapping stands, for messages, e.g. "stages.build".

        Raises:
            InputError: A key is unknown or missing, or a value is out of range; the first is named.
        """
        try:
            values: dict[str, Any] = self.validator.validate_python(dict(data))
        except ValidationError as error:
            raise first_fault(error, self, data, path, at=at) from error
        return values


def default(schema: CoreSchema, value: Any) -> CoreSchema:
    """Return what a key takes that may be left out; None as the default may be given, too."""
    if value is None:
        return core_schema.with_default_schema(core_schema.nullable_schema(schema), default=None)
    if isinstance(value, list | dict):
        return core_schema.with_default_schema(schema, default_factory=value.copy)
    return core_schema.with_default_schema(schema, default=value)


def plain_types(schema: Mapping[str, Any]) -> set[type]:
    """Return the plain types of the values that a key takes; a list adds those of its items."""
    kind = schema["type"]
    if kind in ("default", "nullable"):
        return plain_types(schema["schema"])
    if kind == "literal":
        return {type(choice) for choice in schema["expected"]}
    if kind == "union":
        return set().union(*map(plain_types, schema["choices"]))
    if kind == "list":
        return {list} | plain_types(schema["items_schema"])
    return {dict if kind == "dict" else _PLAIN[kind]}
