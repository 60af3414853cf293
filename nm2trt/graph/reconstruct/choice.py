"""Which layers are pruned, which are only refitted, and the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from nm2trt.errors import InputError
from nm2trt.graph.reconstruct.layers import Layer
from nm2trt.graph.reconstruct.report import ReconstructOptions
from nm2trt.nm.verdict import WeightVerdict

__all__ = ["check_globs", "dense_reason", "holds"]


def check_globs(options: ReconstructOptions, names: Sequence[str]) -> None:
    """Raise if a glob matches no weight.

    Raises:
        InputError: One does not.
    """
    for argument, globs in (("include", options.include), ("exclude", options.exclude)):
        for glob in globs:
            if not any(fnmatchcase(name, glob) for name in names):
                shown = ", ".join(names[:6]) or "none"
                raise InputError(f"{argument}: {glob!r} matches no weight; the model has {shown} ...")


def dense_reason(layer: Layer, options: ReconstructOptions, planned_dense: Mapping[str, str]) -> str | None:
    """Say why a layer stays dense, or None when it is pruned.

    Args:
        layer: The layer.
        options: Pattern and globs.
        planned_dense: Weights that an earlier plan keeps dense, with its reasons.
    """
    name = layer.weight
    glob = next((g for g in options.exclude if fnmatchcase(name, g)), None)
    if glob is not None:
        return f"excluded by {glob!r}"
    if options.include and not any(fnmatchcase(name, g) for g in options.include):
        return "not among the included weights"
    if layer.depthwise:
        return "depthwise: one input channel a filter"
    named = name in options.include
    if name in planned_dense and not named:
        return f"the plan keeps it dense: {planned_dense[name]}"
    if layer.channels < options.min_channels and not named:
        return f"{layer.channels} input channels are fewer than {options.min_channels}"
    if layer.channels % options.pattern.m:
        return f"{layer.channels} input channels are not a multiple of {options.pattern.m}"
    return None


def holds(rows: Sequence[WeightVerdict]) -> bool:
    """Tell whether every consumer of a weight found the pattern in it already."""
    return bool(rows) and all(row.pattern == "holds" for row in rows)
