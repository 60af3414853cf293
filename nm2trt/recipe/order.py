"""In which order the stages of a recipe run, and what each starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nm2trt.calibration.yaml_file import nearest
from nm2trt.recipe.schema import Recipe, Stage

__all__ = ["MODEL", "Step", "ordered"]

MODEL = "model"  # what `from: model` means: the recipe's own


@dataclass(frozen=True, slots=True)
class Step:
    """One stage and what it reads.

    Args:
        stage: The stage.
        sources: What it reads, by key ("from", "against"): a stage's name, `MODEL`, or a path or URL.
        parents: Names of the stages among `sources`.
    """

    stage: Stage
    sources: Mapping[str, str]
    parents: tuple[str, ...]


def ordered(recipe: Recipe) -> tuple[Step, ...]:
    """Return the stages so that each comes after those that it reads; reports come last.

    Raises:
        InputError: A source is unknown, makes nothing that can be read, or stages go in a circle.
    """
    steps = {stage.name: _step(recipe, stage) for stage in recipe.stages}
    done: list[str] = []
    open_: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        if name in open_:
            circle = " -> ".join([*open_[open_.index(name) :], name])
            raise recipe.error(
                f"the stages go in a circle, {circle}; let one of them start from the model",
                "stages",
                open_[-1],
            )
        open_.append(name)
        for parent in steps[name].parents:
            visit(parent)
        open_.pop()
        done.append(name)

    for name in sorted(steps, key=lambda name: steps[name].stage.kind == "report"):
        visit(name)
    return tuple(steps[name] for name in done)


def _step(recipe: Recipe, stage: Stage) -> Step:
    sources: dict[str, str] = {}
    if stage.options.takes or stage.options.from_ is not None:
        sources["from"] = stage.options.from_ or _latest(recipe, stage)
    for key in stage.options.sources:
        named = getattr(stage.options, key)
        if named is None and key == "reference":
            named = _model_behind(recipe, sources["from"])
        if named is not None:
            sources[key] = named
    names = {other.name: other for other in recipe.stages}
    for key, source in sources.items():
        _check(recipe, stage, key, source, names)
    return Step(stage, sources, tuple(dict.fromkeys(name for name in sources.values() if name in names)))


def _latest(recipe: Recipe, stage: Stage) -> str:
    """Return the last stage before `stage` that makes what it takes, or the recipe's model."""
    wanted = ("model", "engine") if stage.options.takes == "artefact" else (stage.options.takes,)
    before = recipe.stages[: recipe.stages.index(stage)]
    found = next((other.name for other in reversed(before) if other.options.makes in wanted), None)
    if found is not None:
        return found
    if stage.options.takes == "deployment":
        raise recipe.error("no stage before it deploys anything; add a stage deploy", "stages", stage.name)
    if recipe.model is None:
        raise recipe.error(
            "it has no model to start from; name one under model:, or put export or sparsify before it",
            "stages",
            stage.name,
        )
    return MODEL


def _model_behind(recipe: Recipe, source: str) -> str:
    """Return the model that a deployment or an engine was made from."""
    names = {stage.name: stage for stage in recipe.stages}
    seen: set[str] = set()
    while source in names and names[source].options.makes in ("engine", "deployment") and source not in seen:
        seen.add(source)
        source = names[source].options.from_ or _latest(recipe, names[source])
    return source


def _check(recipe: Recipe, stage: Stage, key: str, source: str, names: Mapping[str, Stage]) -> None:
    place = ("stages", stage.name, key)
    if source in names:
        if not names[source].options.makes:
            raise recipe.error(f"the stage {source!r} makes no model or engine to start from", *place)
        return
    if source == MODEL:
        if recipe.model is None:
            raise recipe.error("the recipe names no model; add model: at its top", *place)
        return
    if "/" not in source and "." not in source:
        makers = [name for name, other in names.items() if other.options.makes]
        hint = nearest(source, [*makers, MODEL])
        raise recipe.error(f"{source!r} is neither a stage of this recipe nor a file; {hint}", *place)
