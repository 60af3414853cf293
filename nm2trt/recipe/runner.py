"""Run a recipe: stage after stage, each skipped where its result is there and nothing it depends on changed.

A stage's record is written when it is done, so a run that was killed goes on with the stage it was in. What a
stage writes, it writes whole or not at all.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nm2trt.calibration.yaml_file import nearest
from nm2trt.errors import InputError, Nm2trtError
from nm2trt.files import within
from nm2trt.recipe.actions import ACTIONS, Job, Outcome
from nm2trt.recipe.hashes import FileIndex, stage_key, tool_versions
from nm2trt.recipe.live import SilentView, View
from nm2trt.recipe.order import MODEL, Step, ordered
from nm2trt.recipe.schema import Recipe, load_recipe
from nm2trt.reporting.folder import FileRecord, RunFolder, StageRecord

__all__ = ["RunResult", "StageResult", "run_recipe"]

_URL = ("http://", "https://", "grpc://", "grpcs://")


@dataclass(frozen=True, slots=True)
class StageResult:
    """What became of one stage.

    Args:
        name: Its name.
        kind: Its kind.
        status: "done", "cached", "failed", "skipped" (behind --until), or on a dry run "would run" or
            "may run" (where something before it would run).
        seconds: Wall time; of an earlier run where cached.
        sentence: The result, or why it would run.
    """

    name: str
    kind: str
    status: str
    seconds: float | None
    sentence: str


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run did.

    Args:
        run: Its folder.
        stages: Its stages, in the order in which they ran.
        report: The report, where one was written.
        seconds: Wall time.
        failure: The error of the stage that failed, or None.
    """

    run: Path
    stages: tuple[StageResult, ...]
    report: Path | None
    seconds: float
    failure: Nm2trtError | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "run": str(self.run),
            "report": None if self.report is None else str(self.report),
            "seconds": round(self.seconds, 3),
            "error": None if self.failure is None else str(self.failure),
            "stages": [
                {
                    "name": stage.name,
                    "stage": stage.kind,
                    "status": stage.status,
                    "seconds": stage.seconds,
                    "sentence": stage.sentence,
                }
                for stage in self.stages
            ],
        }


def run_recipe(
    path: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    root: str | os.PathLike[str] | None = None,
    first: str | None = None,
    until: str | None = None,
    dry_run: bool = False,
    allow_functions: bool = False,
    view: View | None = None,
) -> RunResult:
    """Run a recipe; what is done already, with the same inputs, options and versions, is not done again.

    Args:
        path: The YAML file; `nm2trt.recipe.schema` says what it may hold.
        output: The run's folder; by default what the recipe says, or `runs/NAME` beside it.
        root: Folder that the recipe's paths are relative to and may not leave; its own by default.
        first: Run this stage, and those that depend on it, even where they are done.
        until: Stop behind this stage.
        dry_run: Only say what would run.
        allow_functions: Run Python code that the recipe names.
        view: Told of every stage as it starts and ends.

    Returns:
        What became of each stage. `failure` is set where one failed; the report is written all the same.

    Raises:
        InputError: The recipe is wrong, or names what is not there.
        OutputError: The run's folder cannot be written.
    """
    start = time.perf_counter()
    recipe = load_recipe(path)
    steps = ordered(recipe)
    for name in filter(None, (first, until)):
        if name not in {step.stage.name for step in steps}:
            known = [step.stage.name for step in steps]
            raise InputError(f"{path} has no stage {name!r}; {nearest(name, known)}")
    base = Path(path).resolve().parent if root is None else Path(root).resolve()
    run = _Run(recipe, steps, base, _run_folder(recipe, base, output), allow_functions, view or SilentView())
    _refuse_code(recipe, steps, allow_functions=allow_functions)
    run.check_files()
    if dry_run:
        stages = run.plan(first, until)
        return RunResult(run.folder.path, stages, None, time.perf_counter() - start)
    run.folder.start(recipe.name, [step.stage.name for step in steps])
    with _one_run(run.folder.path):
        stages, failure = run.all(first, until)
    report = next(
        (run.outputs[s.name][0] for s in stages if s.kind == "report" and run.outputs.get(s.name)), None
    )
    return RunResult(run.folder.path, stages, report, time.perf_counter() - start, failure)


class _Run:
    """One run of one recipe.

    Attributes:
        folder: Its folder.
        outputs: Files that each stage left, by its name.
    """

    def __init__(
        self,
        recipe: Recipe,
        steps: tuple[Step, ...],
        base: Path,
        folder: RunFolder,
        allow_functions: bool,
        view: View,
    ) -> None:
        self.recipe, self.steps, self.base, self.folder = recipe, steps, base, folder
        self.outputs: dict[str, tuple[Path, ...]] = {}
        self._allow_functions, self._view = allow_functions, view
        self._index = FileIndex(folder.path)
        self._versions = tool_versions()

    def check_files(self) -> None:
        """Raise before any work where a file that the recipe names is missing."""
        for step in self.steps:
            for key, path in self._files(step).items():
                if not path.exists():
                    place = ("stages", step.stage.name, key)
                    raise self.recipe.error(f"{path} does not exist", *place)
            for key, source in step.sources.items():
                path = self._given(source, step, key) if source not in self._names() else None
                if isinstance(path, Path) and not path.exists():
                    place = ("model",) if source == MODEL else ("stages", step.stage.name, key)
                    raise self.recipe.error(f"{path} does not exist", *place)

    def all(self, first: str | None, until: str | None) -> tuple[tuple[StageResult, ...], Nm2trtError | None]:
        """Run what has to be run."""
        results: list[StageResult] = []
        forced: set[str] = set()
        failure: Nm2trtError | None = None
        stopped = False
        for step in self.steps:
            name, report = step.stage.name, step.stage.kind == "report"
            if (stopped or failure is not None) and not (report and until is None):
                results.append(StageResult(name, step.stage.kind, "skipped", None, ""))
                continue
            if name == first or forced & set(step.parents):
                forced.add(name)
            try:
                results.append(self._one(step, forced=name in forced))
            except Nm2trtError as error:
                results.append(StageResult(name, step.stage.kind, "failed", None, str(error)))
                failure = failure or error
            stopped = stopped or name == until
            self._index.save()
        return tuple(results), failure

    def plan(self, first: str | None, until: str | None) -> tuple[StageResult, ...]:
        """Say what would run, without running or writing anything."""
        results: list[StageResult] = []
        again: set[str] = set()
        stopped = False
        for step in self.steps:
            name, kind = step.stage.name, step.stage.kind
            changed = next((parent for parent in step.parents if parent in again), None)
            if stopped:
                results.append(StageResult(name, kind, "skipped", None, f"--until {until}"))
            elif name == first:
                results.append(StageResult(name, kind, "would run", None, f"--from {first}"))
            elif changed is not None:
                results.append(StageResult(name, kind, "may run", None, f"{changed} runs before it"))
            elif kind == "report" and again:
                results.append(StageResult(name, kind, "would run", None, "stages run before it"))
            else:
                results.append(self._planned(step))
            if results[-1].status in ("would run", "may run"):
                again.add(name)
            stopped = stopped or name == until
        return tuple(results)

    def _planned(self, step: Step) -> StageResult:
        record = self._record(step)
        if record is None or record.status != "done":
            why = "it has not run" if record is None else f"it {_ENDS[record.status]} last time"
            return StageResult(step.stage.name, step.stage.kind, "would run", None, why)
        if record.key == self._key(step) and self._index.unchanged(record.outputs):
            self._take(step, record)
            return StageResult(step.stage.name, step.stage.kind, "cached", record.seconds, record.sentence)
        why = "its inputs, options or versions changed"
        if record.key == self._key(step):
            why = "what it made is gone or changed"
        return StageResult(step.stage.name, step.stage.kind, "would run", None, why)

    def _one(self, step: Step, *, forced: bool) -> StageResult:
        stage = step.stage
        inputs = self._inputs(step)
        key = self._key(step)
        record = self._record(step)
        if (
            not forced
            and record is not None
            and (record.status, record.key) == ("done", key)
            and self._index.unchanged(record.outputs)
        ):
            self._take(step, record)
            self._view.ended(stage.name, "cached", record.seconds or 0.0, record.sentence)
            return StageResult(stage.name, stage.kind, "cached", record.seconds, record.sentence)
        self._view.started(stage.name)
        begun = StageRecord(
            stage.kind, stage.name, "running", started=_now(), versions=self._versions, inputs=tuple(inputs)
        )
        self.folder.write(begun)
        start = time.perf_counter()
        try:
            outcome = ACTIONS[stage.kind](self._job(step))
            done = self._finished(begun, outcome, key, time.perf_counter() - start)
        except Nm2trtError as error:
            seconds = time.perf_counter() - start
            self.folder.write(replace(begun, status="failed", sentence=str(error), seconds=round(seconds, 3)))
            self._view.ended(stage.name, "failed", seconds, str(error))
            raise
        self.folder.write(done)
        self._view.ended(stage.name, done.status, done.seconds or 0.0, done.sentence)
        if outcome.failure is not None:
            raise outcome.failure
        self._take(step, done)
        return StageResult(stage.name, stage.kind, "done", done.seconds, done.sentence)

    def _finished(self, begun: StageRecord, outcome: Outcome, key: str, seconds: float) -> StageRecord:
        outputs = [record for path in outcome.outputs for record in self._index.records(path)[:1]]
        failed = outcome.failure is not None
        return replace(
            begun,
            status="failed" if failed else "done",
            sentence=str(outcome.failure) if failed else outcome.sentence,
            command=outcome.line(),
            seconds=round(seconds, 3),
            outputs=tuple(outputs),
            key="" if failed else key,
            result=outcome.result,
        )

    def _record(self, step: Step) -> StageRecord | None:
        """Return the stage's record of an earlier run; a damaged one is as good as none."""
        try:
            return self.folder.record(step.stage.name)
        except InputError:
            return None

    def _take(self, step: Step, record: StageRecord) -> None:
        self.outputs[step.stage.name] = tuple(self.folder.path / file.path for file in record.outputs)

    def _job(self, step: Step) -> Job:
        artefacts = self.folder.path / "artefacts"
        artefacts.mkdir(exist_ok=True)
        return Job(
            step.stage.name,
            step.stage.options,
            {key: self._source(step, key) for key in step.sources},
            self._files(step),
            artefacts,
            self.folder.path,
            self._allow_functions,
        )

    def _inputs(self, step: Step) -> list[FileRecord]:
        paths = [self._source(step, key) for key in step.sources]
        paths += list(self._files(step).values())
        if step.stage.kind == "sparsify":
            paths += _named_by_job(self._files(step)["recipe"])
        return [record for path in paths if isinstance(path, Path) for record in self._index.records(path)]

    def _key(self, step: Step) -> str:
        options: dict[str, Any] = {**step.stage.options.options(), "sources": dict(step.sources)}
        if step.stage.kind == "report":
            options["records"] = [
                (record.name, record.key, record.started, record.status)
                for record in map(self._record, self.steps)
                if record is not None and record.stage != "report"
            ]
        return stage_key(step.stage.kind, options, self._inputs(step), self._versions)

    def _names(self) -> set[str]:
        return {step.stage.name for step in self.steps}

    def _source(self, step: Step, key: str) -> Path | str:
        source = step.sources[key]
        if source not in self._names():
            return self._given(source, step, key)
        made = self.outputs.get(source)
        if not made:
            raise InputError(f"the stage {source!r} has made nothing for {step.stage.name!r} to start from")
        return made[0]

    def _given(self, source: str, step: Step, key: str) -> Path | str:
        if source == MODEL:
            return self._below(self.recipe.model or "", "model")
        if source.startswith(_URL):
            return source
        return self._below(source, "stages", step.stage.name, key)

    def _files(self, step: Step) -> Mapping[str, Path]:
        options = step.stage.options
        named = {key: getattr(options, key) for key in options.files}
        return {
            key: self._below(value, "stages", step.stage.name, key)
            for key, value in named.items()
            if value is not None
        }

    def _below(self, path: str, *place: str) -> Path:
        try:
            return within(self.base, path)
        except InputError as error:
            raise self.recipe.error(f"{error}; --root DIR allows more", *place) from error


_ENDS = {"failed": "failed", "running": "was stopped"}


def _run_folder(recipe: Recipe, base: Path, output: str | os.PathLike[str] | None) -> RunFolder:
    if output is not None:
        return RunFolder(output)
    try:
        return RunFolder(within(base, recipe.run or f"runs/{recipe.name}"))
    except InputError as error:
        raise recipe.error(f"{error}; give it with -o DIR", "run") from error


def _refuse_code(recipe: Recipe, steps: tuple[Step, ...], *, allow_functions: bool) -> None:
    for step in steps:
        if step.stage.options.runs_code and not allow_functions:
            raise recipe.error(
                "it would run Python code that the recipe names; allow it with --allow-functions if you "
                "trust it",
                "stages",
                step.stage.name,
            )


def _named_by_job(path: Path) -> list[Path]:
    """Return the files that a sparsify recipe names: model, weights, calibration recipe."""
    from nm2trt.calibration.yaml_file import read_yaml

    job = read_yaml(path)
    named = [str(job.get("model", "")).rpartition(":")[0], job.get("weights"), job.get("calibration")]
    found = [path.parent / name for name in named if isinstance(name, str) and name]
    return [file for file in found if file.is_file()]


@contextlib.contextmanager
def _one_run(folder: Path) -> Iterator[None]:
    """Let one process at a time work in a run's folder; the lock is on the folder and dies with the process."""
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another nm2trt run works in {folder}; wait for it, or choose another folder with -o"
            ) from error
        except OSError:
            pass  # a network file system may know no locks
        yield
    finally:
        os.close(descriptor)


def _now() -> str:
    return dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds")
