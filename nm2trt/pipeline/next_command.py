"""The next command: what to type after a command, in words that work on the very file that it speaks of."""

from __future__ import annotations

from collections.abc import Sequence

from nm2trt.nm.advice import holds_two_of_four, is_prunable, is_quantised
from nm2trt.nm.eligibility import Place, can_run_sparse
from nm2trt.nm.outlook import assumed_sparse, type_forbids
from nm2trt.nm.verdict import WeightVerdict

# Stands for a file that only the user has: about a hundred unlabelled inputs.
SAMPLES = "SAMPLES.npz"


def next_command(model: str, weights: Sequence[WeightVerdict], place: Place, *, planned: bool = False) -> str:
    """Return the command that brings an ONNX file closer to running sparse; "" if none is known.

    Args:
        model: The file, as a word of a shell.
        weights: What `verify` found out of every weight.
        place: Builder, version and targets.
        planned: Whether the file carries a plan, which a broken weight then breaks.
    """
    broken = [verdict for verdict in weights if verdict.pattern == "broken"]
    holding = [verdict for verdict in weights if holds_two_of_four(verdict)]
    if not holding or (planned and broken):
        # What is quantised, or of a type without sparse kernels, has to start again from the float32 model,
        # whose name is not known here.
        lost = any(map(is_quantised, weights)) or (broken and all(type_forbids(v, place) for v in broken))
        prunable = any(map(is_prunable, weights)) and not lost
        return f"nm2trt prune {model} --calib {SAMPLES}" if prunable else ""
    build = f"nm2trt build {model} --sparsity"
    dtype = sparse_dtype(holding, place)
    if dtype is None:
        return f"nm2trt explain {model}"
    return {
        "float16": f"{build} --precision fp16",
        "int8": f"{build} --precision int8 --calib {SAMPLES}",
    }.get(dtype, build)


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
        if any(v.facts is not None and can_run_sparse(v.facts, place).answer == "yes" for v in assumed):
            return dtype
    return None
