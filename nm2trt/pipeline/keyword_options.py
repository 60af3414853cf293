"""Build options from the keywords of `build` and `prove`, or from one `BuildOptions`."""

from __future__ import annotations

from typing import Any

from nm2trt.backends.options import BuildOptions, Sparsity
from nm2trt.errors import InputError

__all__ = ["merged_options", "sparsity_of"]

_EMPTY: tuple[Any, ...] = (None, ())
# Keywords whose default is not empty.
_DEFAULTS = {"tf32": True, "strict_nans": False, "library_tactics": True}


def merged_options(
    options: BuildOptions | None, sparsity: bool | Sparsity | None = None, /, **given: Any
) -> BuildOptions:
    """Return what a builder is asked for.

    Args:
        options: All of it as one value; None takes the keywords.
        sparsity: True for "enable", False or None for "disable", or the word.
        **given: The keywords of `build_options`.

    Raises:
        InputError: Both are given, or a keyword cannot be read.
    """
    from nm2trt.pipeline.build import build_options

    wanted = {
        name: value
        for name, value in given.items()
        if not (value in _EMPTY if name not in _DEFAULTS else value == _DEFAULTS[name])
    }
    if options is None:
        return build_options(sparsity=sparsity_of(sparsity), **wanted)
    if sparsity is not None or wanted:
        named = ", ".join([*(["sparsity"] if sparsity is not None else []), *wanted])
        raise InputError(f"the options of the build are given twice: leave out options=, or {named}")
    return options


def sparsity_of(sparsity: bool | Sparsity | None) -> Sparsity:
    """Return the word for a truth value."""
    if sparsity is None or isinstance(sparsity, bool):
        return "enable" if sparsity else "disable"
    return sparsity
