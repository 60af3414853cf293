"""What ONNX Runtime's optimisers break, and what keeps them from it, whatever the model."""

from __future__ import annotations

# What version 1.31.1 says of a sound model that it broke itself -> the optimiser without which it loads.
# One gives a QuantizeLinear that it adds after a Reshape, Transpose and the like two types, which contradict
# each other, from opset 21 on; one takes away a Cast that changes nothing, though a Mul by 1/x reads it.
BREAKING = {
    "output_dtype": "QDQPropagationTransformer",
    "output of a previous node": "CastElimination",
}

# Before the second round of optimisations, which only weights in fp16 bring about, ONNX Runtime puts Casts
# around what it computes in float32; from 1.24 on it may then end the process as `turned_products` says, e.g.
# at a MultiheadAttention with batch_first in fp16.
ONE_ROUND = ("session.graph_optimizations_loop_level", "0")
