"""Order of a recipe's stages, and what each starts from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from nm2trt.calibration.yaml_file import nearest
from nm2trt.recipe.schema import Recipe, Stage

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
    places = _Places(recipe)
    steps = {stage.name: _step(places, stage) for stage in recipe.stages}
    done: dict[str, None] = {}
    for first in sorted(steps, key=lambda name: steps[name].stage.kind == "report"):
        # Depth first, without recursion: a recipe may have more stages than Python has frames.
        waiting = {first: iter(steps[first].parents)} if first not in done else {}
        while waiting:
            name = next(reversed(waiting))
            parent = next((one for one in waiting[name] if one not in done), None)
            if parent is None:
                waiting.popitem()
                done[name] = None
            elif parent in waiting:
                names = list(waiting)
                circle = " -> ".join([*names[names.index(parent) :], parent])
                raise recipe.error(
                    f"the stages go in a circle, {circle}; let one of them start from the model",
                    "stages",
                    name,
                )
            else:
                waiting[parent] = iter(steps[parent].parents)
    return tuple(steps[name] for name in done)


class _Places:
    """The stages of a recipe by name, and what was made last before each.

    Args:
        recipe: The recipe.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.names = {stage.name: stage for stage in recipe.stages}
        self._before: dict[str, dict[str, tuple[int, str]]] = {}
        last: dict[str, tuple[int, str]] = {}
        for number, stage in enumerate(recipe.stages):
            self._before[stage.name] = dict(last)
            if stage.options.makes:
                last[stage.options.makes] = (number, stage.name)

    def latest(self, stage: Stage, kinds: Collection[str]) -> str | None:
        """Return the last stage before `stage` that makes one of the kinds."""
        before = self._before[stage.name]
        return max((before[kind] for kind in kinds if kind in before), default=(0, None))[1]


def _step(places: _Places, stage: Stage) -> Step:
    sources: dict[str, str] = {}
    if stage.options.takes or stage.options.from_ is not None:
        sources["from"] = stage.options.from_ or _latest(places, stage)
    for key in stage.options.sources:
        named = getattr(stage.options, key)
        if named is None and key == "reference":
            named = _model_behind(places, sources["from"])
        if named is not None:
            sources[key] = named
    for key, source in sources.items():
        _check(places.recipe, stage, key, source, places.names)
    parents = dict.fromkeys(name for name in sources.values() if name in places.names)
    return Step(stage, sources, tuple(parents))


def _latest(places: _Places, stage: Stage) -> str:
    """Return the last stage before `stage` that makes what it takes, or the recipe's model."""
    wanted = ("model", "engine") if stage.options.takes == "artefact" else (stage.options.takes,)
    recipe, found = places.recipe, places.latest(stage, wanted)
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


def _model_behind(places: _Places, source: str) -> str:
    """Return the model that a deployment or an engine was made from."""
    names = places.names
    seen: set[str] = set()
    while source in names and names[source].options.makes in ("engine", "deployment") and source not in seen:
        seen.add(source)
        source = names[source].options.from_ or _latest(places, names[source])
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
