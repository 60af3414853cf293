"""What could not be matched between a model's weights and an engine's layers."""

from __future__ import annotations

from collections.abc import Sequence

from nm2trt.engine.evidence.evidence import Evidence
from nm2trt.engine.ladder.ladder import shared_names
from nm2trt.engine.ladder.ladder_row import LadderRow


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
    if len(lost) == len(named):
        sentence = (
            f"no layer of the engine names one of the model's {len(named)} weights: all were fused away, "
            f"into {len(evidence.layers)} layers without their names, so nothing is known about any of them"
        )
        return (sentence,)
    if lost:
        return (f"{len(lost)} weights have no layer of their own in the engine: {_some(lost)}",)
    return ()


def foreign_layers(ladder: Sequence[LadderRow], evidence: Evidence) -> tuple[str, ...]:
    """Say which matrix products of the engine belong to no weight; one sentence, or none."""
    known = {row.node for row in ladder}
    foreign = [x.name for x in evidence.layers if x.multiplies and not known.intersection(x.nodes)]
    if not foreign:
        return ()
    return (f"{len(foreign)} matrix products of the engine belong to no weight: {_some(foreign)}",)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
