"""The next command: what to type after a command, in words that work on the very file that it speaks of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nm2trt.nm.advice import holds_two_of_four, is_lowered, is_quantised, prunable_weights, rebuilt_weights
from nm2trt.nm.eligibility import Place
from nm2trt.nm.outlook import any_can_run_sparse, assumed_sparse, forbidden_at_two_of_four
from nm2trt.nm.verdict import WeightVerdict

if TYPE_CHECKING:
    from nm2trt.graph.verify.report import VerifyReport

# Stands for a file that only the user has: about a hundred unlabelled inputs.
SAMPLES = "SAMPLES.npz"


def next_command(model: str, report: VerifyReport) -> str:
    """Return the command that brings an ONNX file closer to running sparse; "" if none is known.

    Args:
        model: The file, as a word of a shell.
        report: What `verify` found out of it, at the place to build for.
    """
    weights, place = report.weights, report.place
    broken = [verdict for verdict in weights if verdict.pattern == "broken"]
    holding = [verdict for verdict in weights if holds_two_of_four(verdict)]
    if not holding or (report.plan is not None and broken):
        # What is quantised, or of a type without sparse kernels, has to start again from the float32 model,
        # whose name is not known here.
        lost = bool(report.quantised) or any(map(is_quantised, weights)) or _forbids(report)
        return "" if lost else pruning_command(model, report)
    build = f"nm2trt build {model} --sparsity"
    dtype = sparse_dtype(holding, place)
    single = (v for v in holding if v.facts is not None and v.facts.dtype == "float32")
    lowers = not report.quantised and any(map(is_lowered, single))
    if dtype is None or (dtype == "int8" and not lowers):
        return f"nm2trt explain {model}"
    return {
        "float16": f"{build} --precision fp16",
        "int8": f"{build} --precision int8 --calib {SAMPLES}",
    }.get(dtype, build)


def pruning_command(model: str, report: VerifyReport) -> str:
    """Return the command that prunes a float model: from samples if they rebuild a weight, else by magnitude.

    Args:
        model: The file, as a word of a shell.
        report: What `verify` found out of it, or of what was made of it.
    """
    if _forbids(report, "shape"):
        return ""
    if rebuilt_weights(report.weights):
        return f"nm2trt prune {model} --calib {SAMPLES}"
    prunable = prunable_weights(report.weights)
    able = report.quantised or sparse_dtype(prunable, report.place) is not None
    return f"nm2trt prune {model}" if prunable and able else ""


def _forbids(report: VerifyReport, *rungs: str) -> bool:
    """Tell whether 2:4 would help no broken weight, for reasons of these rungs, or of any."""
    broken = [verdict for verdict in report.weights if verdict.pattern == "broken"]
    found = [forbidden_at_two_of_four(verdict, report.place) for verdict in broken]
    return bool(found) and all(one is not None and (not rungs or one.rung in rungs) for one in found)


def sparse_dtype(weights: Sequence[WeightVerdict], place: Place) -> str | None:
    """Return the type in which weights can run sparse: "" for their own, "float16", "int8"; None for no type.

    Args:
        weights: Weights, also ones that are not pruned yet.
        place: Builder, version and targets.
    """
    single = any(v.facts is not None and v.facts.dtype == "float32" for v in weights)
    for dtype in ("", "float16", "int8") if single else ("",):
        # One after the other: the first that can decides.
        assumed = (v for weight in weights for v in assumed_sparse([weight], dtype=dtype or None))
        if any_can_run_sparse(assumed, place):
            return dtype
    return None
