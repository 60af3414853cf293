"""The outlook of a first recipe: the type that it lowers a model to, and what will then run sparse."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.nm.advice import is_lowered, is_prunable, prunable_weights
from nm2trt.nm.eligibility import Place, can_run_sparse
from nm2trt.nm.outlook import assumed_sparse, outlook
from nm2trt.nm.verdict import WeightVerdict
from nm2trt.pipeline.next_command import rebuilt_weights

if TYPE_CHECKING:
    from nm2trt.graph.verify.report import VerifyReport


def recipe_precision(report: VerifyReport, *, calib: str | None) -> str:
    """Return the type that the recipe lowers to: int8 with samples, else fp16; "" if it can lower nothing.

    A model that is not float32, or quantised somewhere, keeps the types that it has, and so does one whose
    layers all stand where no pass lowers them.
    """
    computed = {v.facts.dtype if v.facts is not None else v.dtype for v in report.weights}
    if "float32" not in computed or report.quantised:
        return ""
    if calib is None:
        return "fp16"
    return "int8" if any(is_lowered(v) and v.consumer not in report.nested for v in report.weights) else ""


def recipe_outlook(report: VerifyReport, model: Path, precision: str, *, rebuilds: bool) -> str:
    """Say what the recipe's result can run sparse, and if nothing, what would."""
    dtype = {"int8": "int8", "fp16": "float16"}.get(precision)
    pruned = (
        rebuilt_weights(report) if rebuilds else frozenset(v.weight for v in prunable_weights(report.weights))
    )
    assumed = [_once_run(v, report, dtype, pruned) for v in report.weights]
    sentence = outlook(assumed, report.place)
    if _can_any(assumed, report.place):
        return f"once the recipe has run, up to {sentence}" if precision else sentence
    in_int8 = [_once_run(v, report, "int8", pruned) for v in report.weights]
    if precision == "fp16" and _can_any(in_int8, report.place):
        start = sentence.partition(":")[0]
        return (
            f"{start} in fp16: int8 is needed; nm2trt init {model} --calib SAMPLES.npz --force writes a "
            "recipe that quantises"
        )
    return sentence


def _once_run(
    verdict: WeightVerdict, report: VerifyReport, dtype: str | None, pruned: Collection[str]
) -> WeightVerdict:
    """Return what becomes of a weight that the recipe prunes, and lowers to a type."""
    outside = verdict.consumer not in report.nested
    if verdict.pattern != "holds" and not (verdict.weight in pruned and is_prunable(verdict)):
        return verdict
    lowered = dtype if outside and is_lowered(verdict) else None
    return assumed_sparse([verdict], dtype=lowered)[0]


def _can_any(weights: Sequence[WeightVerdict], place: Place) -> bool:
    return any(v.facts is not None and can_run_sparse(v.facts, place).answer == "yes" for v in weights)
