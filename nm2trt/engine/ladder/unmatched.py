"""Weights and layers of an engine that could not be matched."""

from __future__ import annotations

from collections.abc import Sequence

from nm2trt.engine.evidence.evidence import Evidence
from nm2trt.engine.evidence.layer_names import is_region, onnx_nodes
from nm2trt.engine.ladder.ladder import shared_names
from nm2trt.engine.ladder.ladder_row import LadderRow
from nm2trt.figures import counted


def lost_weights(ladder: Sequence[LadderRow], evidence: Evidence) -> tuple[str, ...]:
    """Say which weights cannot be told apart, and which have no layer of their own; a sentence each."""
    named = [row for row in ladder if row.node]
    if not (evidence.layers or evidence.chosen or evidence.kernels) or not named:
        return ()
    return (*_alike(named), *_without_a_layer(named, evidence))


def _alike(named: Sequence[LadderRow]) -> tuple[str, ...]:
    shared = shared_names(named)
    weights = [row.weight for row in named if row.node in shared]
    if not weights:
        return ()
    sentence = (
        f"the nodes of {len(weights)} weights share their names, so no evidence is assigned to any of them: "
        f"{_some(weights)}; give every node a name of its own"
    )
    return (sentence,)


def _without_a_layer(named: Sequence[LadderRow], evidence: Evidence) -> tuple[str, ...]:
    if not evidence.layers:
        return ()
    nodes = {node for layer in evidence.layers for node in layer.nodes}
    lost = [row.weight for row in named if row.node not in nodes]
    layers = {layer.name for layer in evidence.layers}
    if len(lost) == len(named):
        regions = sum(map(is_region, layers))
        into = counted(regions, "foreign node")
        unnamed = counted(len(layers), "layer without its name", "layers without their names")
        fused = into if regions else unnamed
        sentence = (
            "no layer of the engine names one of the model's weights: all were fused away, "
            f"into {fused}, so no kernel can be assigned to any of them"
        )
        return (sentence,)
    if lost:
        have = counted(len(lost), "weight has no layer of its", "weights have no layer of their")
        return (f"{have} own in the engine: {_some(lost)}",)
    return ()


def listed_anyway(ladder: Sequence[LadderRow], evidence: Evidence) -> tuple[str, ...]:
    """Say which weights the builder lists as eligible against a rule, and whether it timed sparse kernels."""
    if evidence.eligible is None or not evidence.eligible.layers:
        return ()
    listed = {node for layer in evidence.eligible.layers for node in onnx_nodes(layer)}
    rows = [row for row in ladder if row.stopped and row.pattern.answer == "yes" and row.node in listed]
    if not rows:
        return ()
    nodes = {row.node for row in rows}
    timed = [item for item in evidence.autotuned if nodes.intersection(item.nodes)]
    sentence = (
        f"the builder lists {_some([row.weight for row in rows])} as eligible against a rule: "
        f"{rows[0].sentence}"
    )
    if any(item.sparse_ms is not None for item in timed):
        return (f"{sentence}; it timed sparse kernels for it, so the rule does not hold in this version",)
    if timed and all(item.dense_only for item in timed):
        return (f"{sentence}; it timed dense kernels only, as the rule says",)
    return (f"{sentence}; the log has no timings of it",)


def foreign_layers(ladder: Sequence[LadderRow], evidence: Evidence) -> tuple[str, ...]:
    """Say which matrix products of the engine belong to no weight; one sentence, or none."""
    known = {row.node for row in ladder}
    foreign = [x.name for x in evidence.layers if x.multiplies and not known.intersection(x.nodes)]
    if not foreign:
        return ()
    products = counted(
        len(foreign), "matrix product of the engine belongs", "matrix products of the engine belong"
    )
    return (f"{products} to no weight: {_some(foreign)}",)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
