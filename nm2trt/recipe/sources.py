"""Sources of a recipe's stages: files below the recipe's root, and what earlier stages made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nm2trt.backends.address import is_url
from nm2trt.errors import InputError
from nm2trt.files import within
from nm2trt.hashes import sha256_file
from nm2trt.manifest import manifest_path
from nm2trt.named_code import code_files
from nm2trt.recipe.hashes import FileIndex, stage_key
from nm2trt.recipe.named import named_code, named_files
from nm2trt.recipe.order import MODEL, Step
from nm2trt.recipe.schema import Recipe
from nm2trt.reporting.folder import RunFolder
from nm2trt.reporting.records import FileRecord, StageRecord


class Sources:
    """Resolves what stages read, and hashes it.

    Args:
        recipe: The recipe.
        steps: Its stages in order.
        base: Folder that its paths are relative to and may not leave.
        folder: The run's folder.
        versions: What runs the stages.

    Attributes:
        outputs: Files that each stage left, by its name; filled as the run goes.
        index: Hashes of files.
        base: As given.
    """

    def __init__(
        self,
        recipe: Recipe,
        steps: tuple[Step, ...],
        base: Path,
        folder: RunFolder,
        versions: Mapping[str, str],
    ) -> None:
        self.outputs: dict[str, tuple[Path, ...]] = {}
        self.index = FileIndex(folder.path)
        self._recipe, self._steps, self.base, self._folder = recipe, steps, base, folder
        self._versions = versions
        self._names = {step.stage.name for step in steps}

    def check(self) -> None:
        """Raise before any work if a file that the recipe names is missing, a folder, or outside its root.

        Raises:
            InputError: One is.
        """
        for step in self._steps:
            self.folders(step)
            given: dict[tuple[str, ...], Path] = {
                ("stages", step.stage.name, *key.split(".")): path for key, path in self.files(step).items()
            }
            if step.stage.kind == "export":
                module = step.stage.options.model.rpartition(":")[0]
                if module.endswith(".py"):
                    given["stages", step.stage.name, "model"] = self.base / module
            for key, source in step.sources.items():
                if source not in self._names:
                    place: tuple[str, ...] = ("stages", step.stage.name, key)
                    place = ("model",) if source == MODEL else place
                    path = self._given(source, step, key)
                    if isinstance(path, Path):
                        given[place] = path
            for where, named in given.items():
                if not named.exists():
                    raise self._recipe.error(f"{named} does not exist", *where)
                # A version that was deployed is a folder.
                if named.is_dir() and not (where[-1] == "from" and step.stage.options.takes == "deployment"):
                    raise self._recipe.error(f"{named} is a folder; give the path of a file", *where)

    def take(self, step: Step, record: StageRecord) -> None:
        """Remember what a stage left for later ones."""
        self.outputs[step.stage.name] = tuple(self._folder.path / file.path for file in record.outputs)

    def record(self, step: Step) -> StageRecord | None:
        """Return the stage's record of an earlier run; a damaged one is as good as none."""
        try:
            return self._folder.record(step.stage.name)
        except InputError:
            return None

    def all(self, step: Step) -> dict[str, Path | str]:
        """Return what a stage starts from and compares with: paths, or URLs as text.

        Raises:
            InputError: A stage before it has made nothing.
        """
        return {key: self._source(step, key) for key in step.sources}

    def files(self, step: Step) -> dict[str, Path]:
        """Return the files that a stage's options name, by key.

        Raises:
            InputError: One lies outside the recipe's root.
        """
        named = named_files(step.stage)
        return {
            key: self._below(value, "stages", step.stage.name, *key.split("."))
            for key, value in named.items()
        }

    def folders(self, step: Step) -> dict[str, Path]:
        """Return the folders that a stage writes into, by key; they need not be there yet.

        Raises:
            InputError: One lies outside the recipe's root.
        """
        options = step.stage.options
        return {
            key: self._below(getattr(options, key), "stages", step.stage.name, key) for key in options.folders
        }

    def inputs(self, step: Step) -> list[FileRecord]:
        """Hash everything that a stage reads.

        Raises:
            InputError: A file is missing or cannot be read.
        """
        files = self.files(step)
        paths = [*self.all(step).values(), *files.values()]
        paths += [
            record for path in paths if isinstance(path, Path) and (record := manifest_path(path)).is_file()
        ]
        for path in files.values():
            if path.suffix in (".yaml", ".yml"):
                paths += _named_by_recipe(path)
        for named in named_code(step.stage):
            paths += code_files(named.rpartition(":")[0], self.base)
        return [record for path in paths if isinstance(path, Path) for record in self.index.records(path)]

    def key(self, step: Step) -> str:
        """Hash everything that a stage's result depends on."""
        options: dict[str, Any] = {**step.stage.options.options(), "sources": dict(step.sources)}
        options["gpu"] = Path("/dev/nvidiactl").exists()
        if step.stage.kind == "report":
            options["records"] = [
                self._recipe.name,
                *(step.stage.name for step in self._steps),
                *self._reported(),
            ]
        return stage_key(step.stage.kind, options, self.inputs(step), self._versions)

    def _reported(self) -> list[tuple[str, str]]:
        """Hash everything in the run's folder that a report shows, whoever wrote it."""
        reports = {step.stage.name for step in self._steps if step.stage.kind == "report"}
        paths = [path for path in self._folder.record_paths() if path.stem not in reports]
        if self._folder.telemetry_path.is_file():
            paths.append(self._folder.telemetry_path)
        return [(path.name, sha256_file(path)) for path in paths]

    def _source(self, step: Step, key: str) -> Path | str:
        source = step.sources[key]
        if source not in self._names:
            return self._given(source, step, key)
        made = self.outputs.get(source)
        if not made:
            raise InputError(f"the stage {source!r} has made nothing for {step.stage.name!r} to start from")
        return made[0]

    def _given(self, source: str, step: Step, key: str) -> Path | str:
        if source == MODEL:
            return self._below(self._recipe.model or "", "model")
        if is_url(source):
            return source
        return self._below(source, "stages", step.stage.name, key)

    def _below(self, path: str, *place: str) -> Path:
        try:
            return within(self.base, path)
        except InputError as error:
            raise self._recipe.error(f"{error}; --root DIR allows more", *place) from error


def _named_by_recipe(path: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """Return the files and folders that a sparsify or calibration recipe names in turn.

    Args:
        path: The recipe.
        above: Those that named it; one that comes back to them is not read again.
    """
    from nm2trt.calibration.yaml_file import read_yaml

    data = read_yaml(path)
    source = data.get("source")
    source = source if isinstance(source, dict) else {}
    code = [
        file
        for named in (data.get("model"), source.get("function"))
        if isinstance(named, str)
        for file in code_files(named.rpartition(":")[0], path.parent)
    ]
    named = [
        data.get("weights"),
        data.get("calibration"),
        source.get("path"),
        source.get("labels"),
    ]
    found = [path.parent / name for name in named if isinstance(name, str) and name]
    nested = [
        inner
        for file in found
        if file.suffix in (".yaml", ".yml") and file.is_file() and file not in (path, *above)
        for inner in _named_by_recipe(file, (path, *above))
    ]
    return [file for file in (*code, *found, *nested) if file.exists()]
