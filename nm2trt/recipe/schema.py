"""Schema of a recipe; docs/recipes.md is the page for people.

    version: 1
    model: resnet50.onnx
    stages:
      prune: {pattern: "2:4"}
      cast: {to: fp16}
      verify:
      build: {sparsity: enable}
      validate: {against: model, data: test.npz}
      report:

A stage is named by its kind, or has a name of its own and says `stage: KIND`. It starts from what the last
stage before it made, or from what `from` names: a stage, `model`, or a file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic_core import core_schema

from nm2trt.calibration.yaml_file import Document, nearest, read_yaml
from nm2trt.errors import InputError
from nm2trt.recipe.keys import Keys, default
from nm2trt.recipe.options import KINDS, StageOptions
from nm2trt.recipe.overrides import overridden
from nm2trt.reporting.folder import is_stage_name

RECIPE_VERSION = 1


_TEXT = core_schema.str_schema()
# Everything but the stages, which are read one by one.
_HEAD = Keys(
    {
        "version": core_schema.literal_schema([RECIPE_VERSION]),
        "name": default(_TEXT, None),
        "model": default(_TEXT, None),
        "run": default(_TEXT, None),
        "stages": core_schema.dict_schema(_TEXT, core_schema.any_schema(), min_length=1),
    }
)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a recipe.

    Args:
        name: Its name.
        kind: Its kind, a key of `KINDS`.
        options: What it says.
        line: Line of its name.
    """

    name: str
    kind: str
    options: StageOptions
    line: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe.

    Args:
        path: The file.
        name: The run's name.
        model: Path of the model that it starts from, as written; None if a stage makes the first one.
        run: Folder of the run, as written, or None.
        stages: In the order of the file.
        lines: Where keys stand, for messages.
    """

    path: Path
    name: str
    model: str | None
    run: str | None
    stages: tuple[Stage, ...]
    lines: Document

    def error(self, message: str, *place: str | int) -> InputError:
        """Return the error that names file, line and key."""
        where = ".".join(map(str, place))
        return InputError(f"{self.path} line {self.lines.line(place)}: {where}: {message}")


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe; nothing that it names is opened.

    Args:
        path: The YAML file.
        overrides: Values to replace, each STAGE.KEY=VALUE.

    Raises:
        InputError: It is missing, no YAML, or has a wrong key or value; the message names line and key.
    """
    path = Path(path)
    document = overridden(read_yaml(path), overrides)
    head = _HEAD.read(document, path)
    stages = tuple(_stage(name, document, path) for name in head["stages"])
    return Recipe(path, head["name"] or path.stem, head["model"], head["run"], stages, document)


def _stage(name: str, document: Document, path: Path) -> Stage:
    place = ("stages", name)
    line = document.line(place)
    if name == "model" or not is_stage_name(name):
        raise InputError(
            f"{path} line {line}: stages.{name}: give the stage another name, of letters, digits, '-', '_' "
            "and '.'; `model` means the recipe's own"
        )
    values = document["stages"][name]
    if values is not None and not isinstance(values, dict):
        raise InputError(f"{path} line {line}: stages.{name}: should be a mapping of options, or nothing")
    part = document.part(*place)
    kind = part.get("stage") or name
    if not isinstance(kind, str) or kind not in KINDS:
        hint = nearest(str(kind), KINDS)
        own = "" if part.get("stage") else "; a stage with a name of its own says `stage: KIND`"
        raise InputError(f"{path} line {line}: stages.{name}: stage {kind!r} is unknown, {hint}{own}")
    options = KINDS[kind](KINDS[kind].keys.read(part, path, at=f"stages.{name}"))
    return Stage(name, kind, options, line)
