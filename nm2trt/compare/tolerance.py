"""Tolerance of outputs by dtype, for a pass that should not change a function."""

from __future__ import annotations

from collections.abc import Mapping

# Largest allowed max|a - b| / max|b| when a pass should not change a model's function: a few hundred
# roundings of the dtype's epsilon, as deep networks accumulate.
TOLERANCE: Mapping[str, float] = {
    "float64": 1e-9,
    "float32": 1e-4,
    "float16": 2e-2,
    "bfloat16": 1e-1,
}
# Largest difference of an output that is small itself, as a saturated probability: a few roundings of 1.
NOISE: Mapping[str, float] = {"float64": 2e-15, "float32": 1e-6, "float16": 8e-3, "bfloat16": 6e-2}
