"""Advice: what to do so that a weight can run sparse, in words that hold for this file, builder and target.

A command is named only if it works on the very file that the advice is about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nm2trt.figures import counted
from nm2trt.nm.eligibility_tables import DTYPE_ROWS, FIRST_SPARSE, Where
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.verdict import WeightFacts, WeightVerdict

# Fewest input channels that `nm2trt prune` takes without being asked for the weight by name.
LEAST_CHANNELS = 16
# What `nm2trt quantize` lowers.
_LOWERED = ("Conv", "Gemm", "MatMul")
_TYPES = ("float16", "int8")
_TWO_OF_FOUR = NMPattern(2, 4)
_QUANTISED = ("int8", "uint8", "float8")
_NAMES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64"}


def sparse_dtypes(where: Where) -> tuple[str, ...]:
    """Return the types, of float16 and int8, that have sparse kernels there."""
    if where.builder == "ort" or (where.target and int(where.target[2:]) < FIRST_SPARSE):
        return ()
    rows = {dtype: next((row for row in DTYPE_ROWS if row.fits(dtype, where)), None) for dtype in _TYPES}
    return tuple(dtype for dtype, row in rows.items() if row is not None and row.answer == "yes")


def dtype_advice(facts: WeightFacts, where: Where) -> str:
    """Return what to do about a type without sparse kernels there."""
    found = sparse_dtypes(where)
    if not found:
        return "build for a target with known sparse kernels, e.g. sm80 or sm86 with trt-rtx in int8"
    if facts.nested:
        return "export it outside the loop or branch, in whose body nothing is lowered"
    if facts.operator not in _LOWERED or facts.constant_input_index != 1:
        return "rewrite it as a Conv, Gemm or MatMul with the weight on the right, and lower that"
    if facts.dtype == "float64":
        return f"export the model in float32, then lower it to {' or '.join(map(_name, found))}"
    if facts.dtype != "float32":
        first = f"{_name(found[-1])} is needed" if len(found) == 1 else "fp16 or int8 is needed"
        return f"{first}: start again from the float32 model"
    whole = "quantise it to int8 (nm2trt quantize --calib SAMPLES)"
    return whole if "float16" not in found else f"cast it to fp16 (nm2trt cast), or {whole}"


def holds_two_of_four(verdict: WeightVerdict) -> bool:
    """Tell whether a weight holds its pattern, and with it 2:4."""
    return verdict.pattern == "holds" and _TWO_OF_FOUR.admits(NMPattern.parse(verdict.wanted))


def shape_is_prunable(verdict: WeightVerdict) -> bool:
    """Tell whether the shape of a weight that is not 2:4 lets `nm2trt prune` without options make it so.

    A weight that holds another pattern, such as 4:8, is not 2:4 either.
    """
    facts = verdict.facts
    judged = verdict.pattern in ("broken", "holds") and not holds_two_of_four(verdict)
    if facts is None or not judged or verdict.nonfinite or facts.inputs % _TWO_OF_FOUR.m:
        return False
    channels = facts.inputs * (facts.conv_groups if facts.operator != "ConvTranspose" else 1)
    return channels >= LEAST_CHANNELS and facts.operator not in ("LSTM", "GRU", "RNN")


def is_prunable(verdict: WeightVerdict) -> bool:
    """Tell whether `nm2trt prune` without options makes a weight 2:4, as far as shape and readers tell."""
    return shape_is_prunable(verdict) and verdict.facts is not None and not verdict.facts.fixed


def prunable_weights(verdicts: Sequence[WeightVerdict]) -> list[WeightVerdict]:
    """Return the prunable ones of a model's weights."""
    return [verdict for verdict in verdicts if is_prunable(verdict)]


def is_lowered(verdict: WeightVerdict) -> bool:
    """Tell whether `nm2trt quantize` lowers such a weight."""
    facts = verdict.facts
    return (
        facts is not None
        and not facts.nested
        and facts.operator in _LOWERED
        and facts.constant_input_index == 1
    )


def rebuilt_weights(verdicts: Sequence[WeightVerdict]) -> list[WeightVerdict]:
    """Return those of a model's weights that `nm2trt prune --calib` makes 2:4."""
    reads = Counter(verdict.weight for verdict in verdicts)
    return [v for v in verdicts if shape_is_prunable(v) and _is_rebuilt(v) and reads[v.weight] == 1]


def _is_rebuilt(verdict: WeightVerdict) -> bool:
    facts = verdict.facts
    if facts is None or not facts.rebuilt or not is_lowered(verdict):
        return False
    return facts.conv_groups == 1 if facts.convolution else len(facts.shape) == 2


def is_quantised(verdict: WeightVerdict) -> bool:
    """Tell whether a weight is stored in INT8 or FP8, of which samples rebuild nothing."""
    return verdict.facts is not None and verdict.facts.dtype.startswith(_QUANTISED)


def pattern_advice(verdict: WeightVerdict) -> str:
    """Return what to do about a weight that does not hold 2:4."""
    if verdict.pattern == "broken" and is_quantised(verdict):
        return "prune the float model (nm2trt prune --calib SAMPLES), and quantise the result"
    if verdict.pattern == "broken":
        return f"train it sparse (nm2trt.sparsify), {_pruning(verdict)}or export it again, finalised"
    return {
        "dense-by-plan": _kept_dense_advice(verdict),
        "not-groupable": "pad its input channels to a multiple of four, or leave it dense",
        "untraceable": "export it as a constant that a Conv, Gemm or MatMul of ONNX's own reads",
    }.get(verdict.pattern, "train or prune it to 2:4: no other pattern runs on sparse tensor cores")


def _pruning(verdict: WeightVerdict) -> str:
    if is_prunable(verdict):
        return "prune it (nm2trt prune), "
    if shape_is_prunable(verdict) and _is_rebuilt(verdict):
        return "prune it from samples (nm2trt prune --calib SAMPLES), "
    fixed = verdict.facts is not None and verdict.facts.fixed
    return "" if fixed else "prune it by name (--include of prune), "


def _kept_dense_advice(verdict: WeightVerdict) -> str:
    inputs = 0 if verdict.facts is None else verdict.facts.inputs
    if inputs % 4:
        return f"nothing: {counted(inputs, 'input channel')} cannot be cut into groups of four"
    return (
        "nothing, if it is dense on purpose; else name it (include= of sparsify, --include of prune) "
        "and train or prune again"
    )


def _name(dtype: str) -> str:
    return _NAMES.get(dtype, dtype)
