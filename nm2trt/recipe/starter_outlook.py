"""The outlook of a first recipe: the type that it lowers a model to, and what will then run sparse."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.nm.advice import is_lowered, prunable_weights, rebuilt_weights
from nm2trt.nm.outlook import any_can_run_sparse, assumed_sparse, outlook
from nm2trt.nm.verdict import WeightVerdict
from nm2trt.terminal_text import shell_path

if TYPE_CHECKING:
    from nm2trt.graph.storage.model import Model
    from nm2trt.graph.verify.report import VerifyReport


def recipe_precision(report: VerifyReport, model: Model, *, calib: str | None) -> str:
    """Return the type that the recipe lowers to: int8 with samples, else fp16; "" if it can lower nothing.

    A model that is not float32, or quantised somewhere, keeps the types that it has, and so does one whose
    layers all stand where no pass lowers them.
    """
    computed = {v.facts.dtype if v.facts is not None else v.dtype for v in report.weights}
    if "float32" not in computed or report.quantised:
        return ""
    if calib is None:
        from nm2trt.graph.cast.cast_rules import LOW, can_lower

        return "fp16" if can_lower(model, {v.operator for v in report.weights}, LOW["fp16"]) else ""
    return "int8" if any(map(is_lowered, report.weights)) else ""


def recipe_outlook(report: VerifyReport, model: Path, precision: str, *, rebuilds: bool) -> str:
    """Say what the recipe's result can run sparse, and if nothing, what would."""
    dtype = {"int8": "int8", "fp16": "float16"}.get(precision)
    pruned = frozenset((rebuilt_weights if rebuilds else prunable_weights)(report.weights))
    assumed = [_once_run(v, dtype, pruned) for v in report.weights]
    sentence = outlook(assumed, report.place)
    if any_can_run_sparse(assumed, report.place):
        return f"once the recipe has run, up to {sentence}" if precision else sentence
    in_int8 = [_once_run(v, "int8", pruned) for v in report.weights]
    if precision == "fp16" and any_can_run_sparse(in_int8, report.place):
        start = sentence.partition(":")[0]
        return (
            f"{start} in fp16: int8 is needed; nm2trt init {shell_path(model)} --calib SAMPLES.npz --force "
            "writes a recipe that quantises"
        )
    return sentence


def _once_run(verdict: WeightVerdict, dtype: str | None, pruned: Collection[WeightVerdict]) -> WeightVerdict:
    """Return what becomes of a weight that the recipe prunes, and lowers to a type."""
    if verdict.pattern != "holds" and verdict not in pruned:
        return verdict
    lowered = dtype if is_lowered(verdict) else None
    return assumed_sparse([verdict], dtype=lowered)[0]
