"""Values of a recipe that the command line replaces, as in `nm2trt run recipe.yaml prune.pattern=1:4`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from nm2trt.calibration.yaml_file import Document, nearest
from nm2trt.errors import InputError
from nm2trt.recipe.keys import plain_types
from nm2trt.recipe.options import KINDS

# Keys of a recipe beside its stages that may be replaced.
HEAD = ("name", "model", "run")


def overridden(document: Document, overrides: Sequence[str]) -> Document:
    """Return a recipe with values replaced, each STAGE.KEY=VALUE or KEY=VALUE for name, model and run.

    A value is text if the key takes text, else YAML; the recipe's schema then judges it as if the file
    said so.

    Raises:
        InputError: One has another form, or names a stage that the recipe has not.
    """
    data: dict[str, Any] = dict(document)
    for word in overrides:
        place, sign, value = word.partition("=")
        stage, dot, key = place.partition(".")
        if not sign or not place or (dot and not key):
            raise InputError(f"{word!r} replaces nothing; write STAGE.KEY=VALUE, as in prune.pattern=1:4")
        if not dot:
            if place not in HEAD:
                raise InputError(f"{word!r}: a recipe has no value {place!r}; {nearest(place, HEAD)}")
            data[place] = value
            continue
        stages = data.get("stages")
        if not isinstance(stages, dict) or stage not in stages:
            known = stages if isinstance(stages, dict) else ()
            raise InputError(f"{word!r}: the recipe has no stage {stage!r}; {nearest(stage, known)}")
        values = stages[stage] or {}
        if not isinstance(values, dict):
            raise InputError(f"{word!r}: the recipe's stage {stage!r} is not a mapping of options")
        kind = str(values.get("stage") or stage)
        data["stages"] = {**stages, stage: {**values, key: _value(kind, key, value, word)}}
    return Document(data, document.lines)


def _value(kind: str, key: str, text: str, word: str) -> Any:
    """Return a value in the type that its key takes: text such as 1:4 would be a number to YAML."""
    keys = KINDS[kind].keys if kind in KINDS else {}
    takes = plain_types(keys[key]) if key in keys else {str}
    if str in takes and list not in takes:
        return text
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{word!r}: the value is not YAML; put it in quotes") from error
    if list in takes and not isinstance(value, list):
        return [text if str in takes else value]
    return value
