"""The base of recipes that are pydantic models: no unknown keys, no silent conversions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar

from nm2trt.calibration.yaml_file import first_fault
from nm2trt.extras import names_the_extra

with names_the_extra("pydantic"):
    from pydantic import BaseModel, ConfigDict, ValidationError

T = TypeVar("T", bound=BaseModel)


class Strict(BaseModel):
    """Base of a recipe."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True, allow_inf_nan=False)


def validated(kind: type[T], data: Mapping[str, Any], path: str | os.PathLike[str]) -> T:
    """Return the recipe that `data` spells.

    Args:
        kind: What it should be.
        data: The mapping; if it is a `Document`, messages name the line.
        path: The file, for messages.

    Raises:
        InputError: A key is unknown or missing, or a value is out of range; the first is named.
    """
    try:
        return kind.model_validate(dict(data))
    except ValidationError as error:
        fields = (field.alias or name for name, field in kind.model_fields.items())
        raise first_fault(error, fields, data, path) from error
