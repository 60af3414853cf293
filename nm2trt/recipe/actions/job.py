"""Job of a stage and its outcome: what it is given, and what it leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nm2trt.errors import InputError, Nm2trtError
from nm2trt.options.field import options_of
from nm2trt.terminal_text import shell_line


@dataclass(frozen=True, slots=True)
class StageJob:
    """What a stage is given.

    Args:
        name: The stage's name.
        options: What the recipe says.
        sources: What it reads, by key: a path, or a URL as text.
        files: Files and folders that its options name, by key.
        artefacts: Folder for what it makes.
        unfinished: Folder for what it has found so far; a run that was stopped finds it again. It need not be
            there, and is removed when the stage is done.
        run: The run's folder.
        base: Folder that the recipe's paths are relative to.
        allow_functions: Whether it may run code that a recipe names.
    """

    name: str
    options: Any
    sources: Mapping[str, Path | str]
    files: Mapping[str, Path]
    artefacts: Path
    unfinished: Path
    run: Path
    base: Path
    allow_functions: bool

    @property
    def source(self) -> Path:
        """The file that it starts from.

        Raises:
            InputError: It is a URL.
        """
        source = self.sources["from"]
        if isinstance(source, str):
            raise InputError(f"{self.name} needs a file to start from, not {source}")
        return source

    def command(self, **given: Any) -> Any:
        """Return the options of the stage's command: what the recipe says, and what its place decides.

        Args:
            **given: Sources and outputs. Files that the recipe names are added, and for a stage that reads
                files the permission to run code.
        """
        command = self.options.options_class
        for known in options_of(command):
            if known.name == "allow_functions" and self.options.files:
                given.setdefault(known.name, self.allow_functions)
            elif known.name == "metric_options":
                given.setdefault(known.name, self._metric_options())
            elif known.stage in self.files:
                given.setdefault(known.name, known.kind(self.files[known.stage]))
        return self.options.command(command, **given)

    def _metric_options(self) -> tuple[str, ...]:
        """Return the options of metrics, with the whole paths of the files among them."""
        texts = (text.partition("=") for text in self.options.metric_options)
        return tuple(
            f"{key}{equals}{self.files.get(f'metric_options.{key}', value)}" for key, equals, value in texts
        )

    def artefact(self, suffix: str) -> Path:
        """Return where the stage's own file goes."""
        return self.artefacts / f"{self.name}{suffix}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage did.

    Args:
        result: What its command prints with `--json`.
        command: The command that does the same, in words.
        outputs: Files and folders that it wrote, the one for later stages first.
        failure: Why the run stops here although there is a result, or None.
        sentence: The result in one line, if the result itself does not give it.
    """

    result: Mapping[str, Any]
    command: Sequence[str]
    outputs: tuple[Path, ...] = ()
    failure: Nm2trtError | None = None
    sentence: str = ""

    def line(self) -> str:
        """Return the command as it would be typed, paths below the current folder shortened."""
        here = f"{Path.cwd()}/"
        words = (word.removeprefix(here) for word in self.command)
        return shell_line(("nm2trt", *words)) if self.command else ""


def model_files(model: Path) -> tuple[Path, ...]:
    """Return a model and the data files beside it."""
    from nm2trt.pipeline.info import data_files

    return (model, *data_files(model))
