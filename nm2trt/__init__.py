"""nm2trt: a PyTorch model to a 2:4-sparse TensorRT engine, every step proved.

The public functions, in the order of the pipeline:

    sparsify -> export -> verify -> build -> prove -> validate -> deploy -> probe

They are loaded on first use: importing nm2trt imports no torch, onnx or TensorRT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nm2trt.pipeline import (
        bench,
        build,
        cast,
        deploy,
        export,
        fuse,
        infer,
        probe,
        prove,
        prune,
        quantize,
        report,
        sparsify,
        validate,
        verify,
    )

__all__ = [
    "__version__",
    "bench",
    "build",
    "cast",
    "deploy",
    "export",
    "fuse",
    "infer",
    "probe",
    "prove",
    "prune",
    "quantize",
    "report",
    "sparsify",
    "validate",
    "verify",
]

__version__ = "0.1.0"

_FUNCTIONS = frozenset(__all__) - {"__version__"}


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        from nm2trt import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'nm2trt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
