"""Build options from the keywords of `build` and `prove`, or from one `BuildOptions`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nm2trt.backends.options import (
    BuildOptions,
    Sparsity,
    parse_profiles,
    parse_size,
    parse_static_shapes,
    parse_targets,
)
from nm2trt.errors import InputError
from nm2trt.options.engines import BuilderCommand
from nm2trt.options.field import options_of

# Keywords that are texts or paths: the field of `BuildOptions` that each sets, and how it is read.
_READ: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "targets": ("targets", parse_targets),
    "profiles": ("profiles", parse_profiles),
    "workspace": ("workspace_bytes", parse_size),
    "shapes": ("static_shapes", parse_static_shapes),
    "timing_cache": ("timing_cache", Path),
    "plugins": ("plugins", lambda plugins: tuple(Path(plugin) for plugin in plugins)),
}


def build_options(
    options: BuildOptions | None = None, sparsity: bool | Sparsity | None = None, /, **given: Any
) -> BuildOptions:
    """Return what a builder is asked for.

    Args:
        options: All of it as one value; None takes the keywords.
        sparsity: True for "enable", False or None for "disable", or the word.
        **given: The options of `BuilderCommand`, as the command line takes them.

    Raises:
        InputError: Both are given, or a keyword cannot be read.
    """
    defaults = {known.name: known.default for known in options_of(BuilderCommand)}
    wanted = {name: value for name, value in given.items() if value != defaults[name]}
    if options is None:
        if sparsity is None or isinstance(sparsity, bool):
            sparsity = "enable" if sparsity else "disable"
        read = [(_READ.get(name, (name, None)), value) for name, value in wanted.items()]
        fields = {field: value if parse is None else parse(value) for (field, parse), value in read}
        return BuildOptions(sparsity=sparsity, **fields)
    if sparsity is not None or wanted:
        named = ", ".join([*(["sparsity"] if sparsity is not None else []), *wanted])
        raise InputError(f"the options of the build are given twice: leave out options=, or {named}")
    return options
