"""The values of a stage's options, read as the stage will read them, before any stage runs.

A recipe may run for hours, so a metric that does not exist is refused at its line, in a dry run too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from nm2trt.backends.address import parse_server
from nm2trt.backends.options import parse_size, parse_static_shapes, parse_targets
from nm2trt.errors import InputError
from nm2trt.nm.pattern import NMPattern
from nm2trt.options.engines import BuilderCommand
from nm2trt.options.field import filled, keywords
from nm2trt.options.shares import parse_share
from nm2trt.recipe.schema import Recipe, Stage

_Read = Callable[[Any], object]


def check_stage(recipe: Recipe, stage: Stage, files: Mapping[str, Path]) -> None:
    """Raise if a stage would refuse the value of an option, or a recipe or table that one names.

    Args:
        recipe: The recipe, for messages.
        stage: The stage.
        files: The files that its options name, by key; files that those name are not opened.

    Raises:
        InputError: It would; the sentence names the line of the first such value.
    """
    for key, value in stage.options.options().items():
        read = _BY_KIND.get((stage.kind, key)) or _READ.get(key)
        if read is not None and value not in (None, [], ()):
            _try(read, value, recipe, stage, key)
    if stage.kind in _TOGETHER:
        _try(_TOGETHER[stage.kind], stage.options, recipe, stage)
    for key, path in files.items():
        read = _FILES.get((stage.kind, key))
        if read is None and key in ("calib", "data") and path.suffix in (".yaml", ".yml"):
            read = _named("calibration.recipe", "read_recipe")
        if read is not None:
            _try(read, path, recipe, stage, key)


def _try(read: _Read, value: Any, recipe: Recipe, stage: Stage, *key: str) -> None:
    try:
        read(value)
    except InputError as error:
        raise recipe.error(str(error), "stages", stage.name, *key) from error


def _named(module: str, function: str) -> _Read:
    """Return a function of a module below `nm2trt` that is imported only when it is called."""

    def read(value: Any) -> object:
        return getattr(import_module(f"nm2trt.{module}"), function)(value)

    return read


def _address(url: str) -> None:
    if url:  # no server is asked
        parse_server(url)


def _metrics(names: Sequence[str]) -> None:
    from nm2trt.validation.metrics.table import find_metric

    for name in _known_here(names):
        find_metric(name)


def _metric_options(options: Any) -> None:
    # Without a name the samples decide, between metrics that have no options.
    names = _known_here(options.metrics or ("top-1",))
    if options.metric_options and names:
        from nm2trt.validation.metrics.table import metric_options

        metric_options(options.metric_options, names)


def _known_here(names: Sequence[str]) -> list[str]:
    """Leave functions out: to look at one is to run its module."""
    return [name for name in names if ":" not in name]


def _built(options: Any) -> None:
    from nm2trt.pipeline.keyword_options import build_options

    build_options(None, **keywords(options.command(BuilderCommand)))


def _pruned(options: Any) -> None:
    from nm2trt.pipeline.prune import read_together

    _metric_options(options)
    read_together(keywords(options.command(options.options_class, model="")))


def _served(options: Any) -> None:
    from nm2trt.serving.options import DeployOptions, check_name

    check_name(options.name)
    filled(DeployOptions, options.command(options.options_class, artefact="", parameters=()), parameters={})


def _probed(options: Any) -> None:
    from nm2trt.serving.options import ProbeOptions

    filled(ProbeOptions, options.command(options.options_class, name=""))


# By key, wherever it stands.
_READ: Mapping[str, _Read] = {
    "pattern": NMPattern.parse,
    "target": parse_targets,
    "shapes": parse_static_shapes,
    "workspace": parse_size,
    "require_sparse": lambda share: parse_share(share, "the work", "80%"),
    "max_loss": lambda share: parse_share(share, "the samples", "2%"),
    "max_drop": _named("validation.gate", "parse_drop"),
    "metrics": _metrics,
    "url": _address,
    "canary": _address,
}
_BY_KIND: Mapping[tuple[str, str], _Read] = {
    ("bench", "shapes"): _named("pipeline.sessions", "parse_shapes"),
}
# What options say together.
_TOGETHER: Mapping[str, _Read] = {
    "build": _built,
    "prove": _built,
    "prune": _pruned,
    "validate": _metric_options,
    "deploy": _served,
    "probe": _probed,
}
_FILES: Mapping[tuple[str, str], _Read] = {
    ("sparsify", "recipe"): _named("sparsity.recipe_file", "read_job"),
    ("prune", "gain"): _named("pipeline.gain", "open_table"),
    ("gain", "table"): _named("pipeline.gain", "open_table"),
}
