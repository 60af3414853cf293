"""Plan of a run: the stages that would run, and why; the others have records that still hold."""

from __future__ import annotations

from nm2trt.recipe.order import Step
from nm2trt.recipe.result import StageResult
from nm2trt.recipe.sources import Sources
from nm2trt.reporting.records import StageRecord

_ENDS = {"failed": "failed", "running": "was stopped"}


def planned(
    steps: tuple[Step, ...], sources: Sources, first: str | None, until: str | None
) -> tuple[StageResult, ...]:
    """Say what would run, without running or writing anything.

    Args:
        steps: The stages in order.
        sources: What they read; told of what finished stages left.
        first: Stage from which all run.
        until: Stage after which none does.

    Raises:
        InputError: A file that a stage reads cannot be read.
    """
    results: list[StageResult] = []
    again: set[str] = set()
    forced = stopped = False
    for step in steps:
        name, kind = step.stage.name, step.stage.kind
        changed = next((parent for parent in step.parents if parent in again), None)
        if stopped:
            result = StageResult(name, kind, "skipped", None, f"--until {until}")
        elif name == first or forced:
            forced = True
            result = StageResult(name, kind, "would run", None, f"--from {first}")
        elif changed is not None:
            result = StageResult(name, kind, "would run", None, f"{changed} runs before it")
        elif kind == "report" and again:
            result = StageResult(name, kind, "would run", None, "stages run before it")
        else:
            result = _alone(step, sources)
        results.append(result)
        if result.status == "would run":
            again.add(name)
        stopped = stopped or name == until
    return tuple(results)


def _alone(step: Step, sources: Sources) -> StageResult:
    name, kind = step.stage.name, step.stage.kind
    key = sources.key(step)
    record = usable(step, sources, key)
    if record is not None:
        sources.take(step, record)
        return StageResult(name, kind, "cached", record.seconds, record.sentence)
    record = sources.record(step)
    if record is None:
        why = "it has not run"
    elif record.status != "done":
        why = f"it {_ENDS[record.status]} last time"
    elif record.key == key:
        why = "what it made is gone or has changed"
    else:
        why = "its inputs, options or versions have changed"
    return StageResult(name, kind, "would run", None, why)


def usable(step: Step, sources: Sources, key: str) -> StageRecord | None:
    """Return the record of an earlier run if it still holds.

    Args:
        step: The stage.
        sources: What the stages read.
        key: Hash of everything that its result depends on.
    """
    record = sources.record(step)
    if record is None or (record.status, record.key) != ("done", key):
        return None
    return record if sources.index.unchanged(record.outputs) else None
