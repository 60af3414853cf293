"""What each kind of stage does: which function of the pipeline it calls, and what it says of the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nm2trt.recipe.actions import checks, engines, models, reports, serving
from nm2trt.recipe.actions.job import Job, Outcome

__all__ = ["ACTIONS", "Job", "Outcome"]

ACTIONS: Mapping[str, Callable[[Job], Outcome]] = {
    "sparsify": models.sparsify,
    "export": models.export,
    "fuse": models.fuse,
    "permute": models.permute,
    "prune": models.prune,
    "cast": models.cast,
    "quantize": models.quantize,
    "verify": checks.verify,
    "build": engines.build,
    "prove": engines.prove,
    "explain": engines.explain,
    "validate": checks.validate,
    "bench": checks.bench,
    "gain": checks.gain,
    "deploy": serving.deploy,
    "probe": serving.probe,
    "report": reports.report,
}
