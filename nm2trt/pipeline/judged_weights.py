"""A model's weights judged, with their multiply-accumulates at given input shapes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nm2trt.nm.verdict import WeightVerdict


def weights_at(model: Path, texts: Sequence[str]) -> tuple[WeightVerdict, ...]:
    """Judge a model's weights, with their work at these shapes of its inputs."""
    from nm2trt.backends.options import parse_static_shapes
    from nm2trt.engine.profiles import resolve_static
    from nm2trt.graph.analysis.multiply_accumulates import with_macs
    from nm2trt.graph.storage.model import load
    from nm2trt.graph.verify.verify_model import verify_model
    from nm2trt.pipeline.calibration_input import input_specs

    opened = load(model, leave_weights=True)
    report = verify_model(opened)
    if not texts:
        return report.weights
    fixed = resolve_static(input_specs(opened), parse_static_shapes(texts))
    return with_macs(opened, report.weights, {shape.input: shape.shape for shape in fixed})
