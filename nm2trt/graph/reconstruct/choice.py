"""Choice of the layers that are pruned and of those that are only refitted, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nm2trt.graph.reconstruct.layers import Layer
from nm2trt.graph.reconstruct.report import ReconstructOptions
from nm2trt.graph.storage.model import Model
from nm2trt.graph.storage.stage_metadata import plan_of
from nm2trt.graph.verify.report import VerifyReport
from nm2trt.nm.plan import check_globs, dense_by_name, dense_by_size
from nm2trt.nm.verdict import WeightVerdict

# What this pass writes as the method of its plan.
METHOD = "reconstruct-onnx"
_OWN_METHODS = (METHOD, "magnitude-onnx")


def dense_reason(layer: Layer, options: ReconstructOptions, planned_dense: Mapping[str, str]) -> str | None:
    """Say why a layer stays dense, or None when it is pruned.

    Args:
        layer: The layer.
        options: Pattern and globs.
        planned_dense: Weights that an earlier plan keeps dense, with its reasons.
    """
    name = layer.weight
    if name in options.dense:
        return options.dense[name]
    reason = dense_by_name([name], options.include, options.exclude)
    if reason is not None:
        return reason
    if layer.depthwise:
        return "depthwise: one input channel per filter"
    named = name in options.include
    if name in planned_dense and not named:
        return f"the plan keeps it dense: {planned_dense[name]}"
    return dense_by_size(layer.channels, 1, options.pattern, least=0 if named else options.min_channels)


def holds(rows: Sequence[WeightVerdict]) -> bool:
    """Tell whether every consumer of a weight found the pattern in it already."""
    return bool(rows) and all(row.pattern == "holds" for row in rows)


def sort_layers(
    layers: Sequence[Layer], parent: VerifyReport, options: ReconstructOptions, model: Model
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the reasons of the layers that stay dense, and of those that are left as they are, by weight.

    Args:
        layers: All layers.
        parent: What verify says about the model.
        options: Pattern, globs and layers that stay dense.
        model: The model; a plan in it that another tool made is followed.

    Raises:
        InputError: A glob matches no weight.
    """
    names = [row.weight for row in parent.weights]
    check_globs({"include": options.include, "exclude": options.exclude}, names)
    plan = plan_of(model)
    if plan is not None and plan.method in _OWN_METHODS:
        plan = None  # a plan of prune itself is made anew
    planned = {entry.weight: entry.reason for entry in plan or () if entry.pattern is None}
    judged: dict[str, list[WeightVerdict]] = {}
    for row in parent.weights:
        judged.setdefault(row.weight, []).append(row)
    dense: dict[str, str] = {}
    kept: dict[str, str] = {}
    for layer in layers:
        reason = dense_reason(layer, options, planned)
        if holds(judged.get(layer.weight, [])):
            kept[layer.weight] = f"it held {options.pattern} already"
        elif reason is not None:
            dense[layer.weight] = reason
    return dense, kept
