"""Cast rules: the ONNX operators that stay in float32, and the operands of others that may be cast."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import ml_dtypes
import numpy as np

from nm2trt.graph.analysis.shapes import infer_types
from nm2trt.graph.storage.light_onnx import TensorProto, is_default, onnx, schema_at
from nm2trt.graph.storage.model import Model, opset

Target = Literal["fp16", "bf16"]


@dataclass(frozen=True, slots=True)
class Low:
    """A type with half of float32's bits.

    Args:
        name: "fp16" or "bf16".
        onnx: ONNX's number of it.
        schema: ONNX's name of a tensor of it.
        dtype: numpy's dtype of one element.
        largest: The largest finite number.
        smallest: The smallest normal number.
        epsilon: Relative distance between 1 and the next number.
        floor: Magnitude under which an output may round to zero on the way.
    """

    name: Target
    onnx: int
    schema: str
    dtype: np.dtype[np.generic]
    largest: float
    smallest: float
    epsilon: float
    floor: float


LOW: Mapping[str, Low] = {
    "fp16": Low(
        "fp16",
        TensorProto.FLOAT16,
        "tensor(float16)",
        np.dtype(np.float16),
        65504.0,
        2.0**-14,
        2.0**-10,
        1e-5,
    ),
    "bf16": Low(
        "bf16",
        TensorProto.BFLOAT16,
        "tensor(bfloat16)",
        np.dtype(ml_dtypes.bfloat16),
        2.0**128 - 2.0**120,
        2.0**-126,
        2.0**-7,
        1e-30,
    ),
}

_GROWS = "its result grows past 65504 for ordinary inputs"
_SUMS = "it sums many terms, which overflow fp16 and lose bf16's few digits"
_NORMS = "it sums squares, which overflow fp16 above 255 and lose bf16's few digits"
_REFUSED = "TensorRT for RTX 1.7 refuses it in bf16"
_BOTH: tuple[Target, ...] = ("fp16", "bf16")

# Operator -> why it stays in float32, and for which types.
KEEP: Mapping[str, tuple[str, tuple[Target, ...]]] = {
    **dict.fromkeys(("Exp", "Pow", "Sinh", "Cosh", "Tan", "Reciprocal", "Softplus"), (_GROWS, ("fp16",))),
    "Log": ("small numbers that fp16 rounds to zero have no logarithm", ("fp16",)),
    **dict.fromkeys(("HardSwish", "Mish", "ConvTranspose", "GRU"), (_REFUSED, ("bf16",))),
    "LogSoftmax": ("the logarithm of a small probability loses its digits", _BOTH),
    **dict.fromkeys(
        "ReduceSum ReduceMean ReduceL1 ReduceLogSum ReduceLogSumExp ReduceProd CumSum".split(), (_SUMS, _BOTH)
    ),
    **dict.fromkeys(
        """ReduceL2 ReduceSumSquare LayerNormalization InstanceNormalization GroupNormalization
        RMSNormalization LpNormalization LpPool GlobalLpPool MeanVarianceNormalization LRN""".split(),
        (_NORMS, _BOTH),
    ),
}

# The type of their output is written in an attribute or in a body, or is a sequence.
_TYPED_ELSEWHERE = frozenset(
    """Constant ConstantOfShape RandomNormal RandomUniform RandomNormalLike RandomUniformLike EyeLike
    Multinomial Bernoulli CastLike SequenceEmpty SequenceConstruct SequenceInsert SequenceMap
    SplitToSequence ConcatFromSequence BlackmanWindow HannWindow HammingWindow MelWeightMatrix
    OptionalGetElement Optional If Loop Scan""".split()
)


def keep_reason(operator: str, low: Low) -> str:
    """Return why an operator stays in float32, or ""."""
    reason, types = KEEP.get(operator, ("", ()))
    return reason if low.name in types else ""


def low_slots(node: onnx.NodeProto, opset: int, low: Low) -> tuple[set[int], set[int]] | None:
    """Return which inputs and outputs of a node may be of a type; None if ONNX does not say.

    bfloat16 came to many operators long after builders took it, so for it the newest schema decides.
    """
    if node.op_type in _TYPED_ELSEWHERE or not is_default(node):
        return None
    schema = _schema(node.op_type, opset)
    if schema is None:
        return None
    if low.name == "bf16":
        schema = _schema(node.op_type, None) or schema
    allowed = {
        constraint.type_param_str
        for constraint in schema.type_constraints
        if low.schema in constraint.allowed_type_strs and "tensor(float)" in constraint.allowed_type_strs
    }
    inputs = {slot for slot in range(len(node.input)) if _type_of(schema.inputs, slot) in allowed}
    outputs = {slot for slot in range(len(node.output)) if _type_of(schema.outputs, slot) in allowed}
    return inputs, outputs


def named_for(operator: str, version: int, low: Low) -> bool:
    """Tell whether ONNX lets an operator compute in a type in an opset; see `low_slots`."""
    schema = _schema(operator, version)
    floats = [c.allowed_type_strs for c in schema.type_constraints] if schema is not None else []
    return any(low.schema in allowed and "tensor(float)" in allowed for allowed in floats)


def can_lower(model: Model, operators: Collection[str], low: Low) -> bool:
    """Tell whether a node of these operators can compute in a type in the main graph, if types are known."""
    types, version = infer_types(model), opset(model.proto) or 0

    def lowers(node: onnx.NodeProto) -> bool:
        slots = low_slots(node, version, low)
        if slots is None or node.op_type not in operators or keep_reason(node.op_type, low):
            return False
        kinds = {types.get(node.input[slot]) for slot in slots[0] if node.input[slot]}
        return TensorProto.FLOAT in kinds and None not in kinds

    # What functions call is inlined first.
    return bool(model.proto.functions) or any(map(lowers, model.proto.graph.node))


def _type_of(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], slot: int) -> str:
    """Return the type variable of an operand; the last parameter may stand for any number."""
    return str(parameters[min(slot, len(parameters) - 1)].type_str) if parameters else ""


_schema = lru_cache(maxsize=512)(schema_at)
