"""Actions of the kinds of stages: the function of the pipeline, and what it says of the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nm2trt.recipe.actions import stages
from nm2trt.recipe.actions.job import Outcome, StageJob

ACTIONS: Mapping[str, Callable[[StageJob], Outcome]] = {
    "sparsify": stages.sparsify,
    "export": stages.export,
    "fuse": stages.converter("fuse"),
    "permute": stages.converter("permute"),
    "prune": stages.prune,
    "cast": stages.converter("cast"),
    "quantize": stages.converter("quantize"),
    "verify": stages.verify,
    "build": stages.build,
    "prove": stages.prove,
    "explain": stages.explain,
    "validate": stages.validate,
    "bench": stages.bench,
    "gain": stages.gain,
    "deploy": stages.deploy,
    "probe": stages.probe,
    "report": stages.report,
}
