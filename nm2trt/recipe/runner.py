"""Runner of recipes: a stage is skipped if its result is there and nothing that it depends on changed.

A stage's record is written when it is done, so a run that was killed goes on with the stage it was in. What a
stage writes, it writes whole or not at all. A stage that solves layers goes on with those that it had solved.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nm2trt.calibration.yaml_file import nearest
from nm2trt.errors import InputError, Nm2trtError, OutputError
from nm2trt.file_replacement import clear_folder, make_output_folder
from nm2trt.files import within
from nm2trt.locks import one_writer
from nm2trt.named_code import refuse_code
from nm2trt.recipe.actions import ACTIONS
from nm2trt.recipe.actions.job import Outcome, StageJob
from nm2trt.recipe.hashes import tool_versions
from nm2trt.recipe.named import named_code
from nm2trt.recipe.order import Step, ordered
from nm2trt.recipe.planned import planned, usable
from nm2trt.recipe.result import RunResult, StageResult
from nm2trt.recipe.schema import Recipe, load_recipe
from nm2trt.recipe.sources import Sources
from nm2trt.recipe.values import check_stage
from nm2trt.recipe.view import View
from nm2trt.reporting.decision import outlook_of
from nm2trt.reporting.fields import Fields
from nm2trt.reporting.folder import RunFolder
from nm2trt.reporting.records import StageRecord
from nm2trt.reporting.sentences import sentence_of

# What a run writes into its folder.
_OWN_FOLDERS = ("stages", "artefacts")
_OWN_FILE = re.compile(r"run\.json|telemetry\.jsonl|report\.\w+")


def stage_names(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> list[str]:
    """Return the names of a recipe's stages, in the order in which they run.

    Raises:
        InputError: The recipe is wrong.
    """
    return [step.stage.name for step in ordered(load_recipe(path, overrides))]


def run(
    path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
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
        overrides: Values of it to replace, each STAGE.KEY=VALUE, as in "prune.pattern=1:4".
        output: The run's folder; by default what the recipe says, or `runs/NAME` beside it.
        root: Folder that the recipe's paths are relative to and may not leave; its own by default.
        first: Run this stage and all after it, even if they are done.
        until: Stop after this stage.
        dry_run: Only say what would run.
        allow_functions: Run Python code that the recipe names.
        view: Told of every stage as it starts and ends.

    Returns:
        What became of each stage. `failure` is set if one failed; the report is written anyway.

    Raises:
        InputError: The recipe is wrong, or names what is not there.
        OutputError: The run's folder cannot be written, or was removed meanwhile.
    """
    start = time.perf_counter()
    recipe = load_recipe(path, overrides)
    steps = ordered(recipe)
    names = [step.stage.name for step in steps]
    for name in filter(None, (first, until)):
        if name not in names:
            raise InputError(f"{path} has no stage {name!r}; {nearest(name, names)}")
    _refuse_code(recipe, steps, allow_functions=allow_functions)
    base = Path(path).resolve().parent if root is None else Path(root).resolve()
    folder = _run_folder(recipe, base, output)
    _refuse_links_out(folder.path, whole=output is None)
    versions = tool_versions()
    sources = Sources(recipe, steps, base, folder, versions)
    sources.check()
    stages = planned(steps, sources, first, until)
    would_run = {stage.name for stage in stages if stage.status == "would run"}
    for step in steps:
        if step.stage.name in would_run:
            check_stage(recipe, step.stage, sources.files(step))
    if dry_run:
        return RunResult(folder.path, stages, None, time.perf_counter() - start)
    folder.make()
    busy = f"another nm2trt run works in {folder.path}; wait for it, or choose another folder with -o"
    with one_writer(folder.path, busy=busy):
        folder.start(recipe.name, names)
        run = _Run(steps, sources, folder, versions, allow_functions, view or View())
        stages, failure = run.all(first, until)
    if not folder.header_path.exists():
        raise OutputError(f"{folder.path} was removed while the run worked in it; run {path} again")
    reports = [sources.outputs.get(stage.name) for stage in stages if stage.kind == "report"]
    report = next((files[0] for files in reports if files), None)
    return RunResult(
        folder.path, stages, report, time.perf_counter() - start, failure, _outlook(folder, stages)
    )


def _outlook(folder: RunFolder, stages: Sequence[StageResult]) -> str:
    """Return what the stages of this run say of sparse kernels."""
    found = [folder.record(stage.name) for stage in stages if stage.status in ("done", "cached", "failed")]
    records = [record for record in found if record is not None]
    return outlook_of((r, Fields(dict(r.result), r.name)) for r in records)


class _Run:
    """One run of one recipe."""

    def __init__(
        self,
        steps: tuple[Step, ...],
        sources: Sources,
        folder: RunFolder,
        versions: Mapping[str, str],
        allow_functions: bool,
        view: View,
    ) -> None:
        self._steps, self._sources, self._folder, self._versions = steps, sources, folder, versions
        self._allow_functions, self._view = allow_functions, view

    def all(self, first: str | None, until: str | None) -> tuple[tuple[StageResult, ...], Nm2trtError | None]:
        """Run what has to be run; after a failed stage only reports are still written."""
        results: list[StageResult] = []
        failure: Nm2trtError | None = None
        forced = stopped = False
        for step in self._steps:
            name, kind = step.stage.name, step.stage.kind
            if stopped or (failure is not None and kind != "report"):
                results.append(StageResult(name, kind, "skipped", None, ""))
                continue
            forced = forced or name == first
            try:
                results.append(self._one(step, forced=forced))
            except Nm2trtError as error:
                results.append(StageResult(name, kind, "failed", None, str(error)))
                failure = failure or error
            finally:
                self._sources.index.save()
            stopped = name == until
        return tuple(results), failure

    def _one(self, step: Step, *, forced: bool) -> StageResult:
        stage, sources = step.stage, self._sources
        key = sources.key(step)
        record = None if forced else usable(step, sources, key)
        if record is not None:
            sources.take(step, record)
            self._view.ended(stage.name, "cached", record.seconds or 0.0, record.sentence)
            return StageResult(stage.name, stage.kind, "cached", record.seconds, record.sentence)
        self._view.started(stage.name)
        begun = StageRecord(
            stage.kind,
            stage.name,
            "running",
            started=dt.datetime.now(dt.timezone.utc).isoformat(timespec="milliseconds"),
            versions=self._versions,
            key=key,
            inputs=tuple(sources.inputs(step)),
        )
        self._folder.write(begun)
        unfinished = self._unfinished(stage.name, key)
        start = time.perf_counter()
        try:
            outcome = ACTIONS[stage.kind](self._job(step, unfinished))
            done = self._ended(begun, outcome, time.perf_counter() - start)
        except Nm2trtError as error:
            done = replace(
                begun, status="failed", sentence=str(error), seconds=round(time.perf_counter() - start, 3)
            )
            self._tell(done)
            raise
        self._tell(done)
        clear_folder(unfinished.parent)
        with contextlib.suppress(OSError):  # what other stages left lies there too
            unfinished.parent.parent.rmdir()
        if outcome.failure is not None:
            raise outcome.failure
        sources.take(step, done)
        return StageResult(stage.name, stage.kind, "done", done.seconds, done.sentence)

    def _tell(self, record: StageRecord) -> None:
        self._folder.write(record)
        self._view.ended(record.name, record.status, record.seconds or 0.0, record.sentence)

    def _ended(self, begun: StageRecord, outcome: Outcome, seconds: float) -> StageRecord:
        failed = outcome.failure is not None
        result = json.loads(json.dumps(outcome.result, default=str))
        sentence = outcome.sentence or sentence_of(begun.stage, Fields(result, f"the result of {begun.name}"))
        return replace(
            begun,
            status="failed" if failed else "done",
            sentence=str(outcome.failure) if failed else sentence,
            command=outcome.line(),
            seconds=round(seconds, 3),
            outputs=self._sources.index.records_of(outcome.outputs),
            result=result,
        )

    def _unfinished(self, name: str, key: str) -> Path:
        """Return where a stage keeps what it has found; remove what it found with other inputs or options."""
        folder = self._folder.path / "artefacts" / ".unfinished" / name
        clear_folder(folder, but=key[:16])
        return folder / key[:16]

    def _job(self, step: Step, unfinished: Path) -> StageJob:
        artefacts = self._folder.path / "artefacts"
        make_output_folder(artefacts, "give another folder for the run")
        return StageJob(
            step.stage.name,
            step.stage.options,
            self._sources.all(step),
            {**self._sources.files(step), **self._sources.folders(step)},
            artefacts,
            unfinished,
            self._folder.path,
            self._sources.base,
            self._allow_functions,
        )


def _run_folder(recipe: Recipe, base: Path, output: str | os.PathLike[str] | None) -> RunFolder:
    if output is not None:
        return RunFolder(output)
    try:
        return RunFolder(within(base, recipe.run or f"runs/{recipe.name}"))
    except InputError as error:
        raise recipe.error(f"{error}; give it with -o DIR", "run") from error


def _refuse_links_out(folder: Path, *, whole: bool) -> None:
    """Raise if a run's folder holds a link by which a stage would write somewhere else.

    Args:
        folder: The folder.
        whole: Whether a recipe names it, so that everything in it counts. One that the command line names may
            hold other things, e.g. links to data: only what a run writes counts.
    """
    real = folder.resolve()
    for place, folders, files in os.walk(folder):
        if not whole and Path(place) == folder:
            folders[:] = [name for name in folders if name in _OWN_FOLDERS]
            files = [name for name in files if _OWN_FILE.fullmatch(name)]
        for path in (Path(place) / name for name in (*files, *folders)):
            if path.is_symlink() and not path.resolve().is_relative_to(real):
                raise InputError(f"{path} is a link that leaves the run's folder; remove it")


def _refuse_code(recipe: Recipe, steps: tuple[Step, ...], *, allow_functions: bool) -> None:
    for step in steps:
        code = ", ".join(named_code(step.stage))
        try:
            refuse_code(code, allowed=allow_functions or not code)
        except InputError as error:
            raise recipe.error(str(error), "stages", step.stage.name) from error
