"""ONNX Runtime on the CPU: the reference that every other backend is compared with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from nm2trt.backends.protocol import TensorSpec, check_feeds
from nm2trt.errors import BackendError, BackendMissingError, ModelError

__all__ = ["OrtSession", "open_onnx"]

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(uint16)": "uint16",
    "tensor(int32)": "int32",
    "tensor(uint32)": "uint32",
    "tensor(int64)": "int64",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}


class OrtSession:
    """An ONNX model open in ONNX Runtime; a `Session`."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs = tuple(_spec(value) for value in session.get_inputs())
        self.outputs = tuple(_spec(value) for value in session.get_outputs())

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Run one batch; see `Session.run`."""
        check_feeds(self.inputs, feeds)
        try:
            results = self._session.run(None, dict(feeds))
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed: {_first_line(error)}") from error
        return {spec.name: np.asarray(result) for spec, result in zip(self.outputs, results, strict=True)}

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def __enter__(self) -> OrtSession:  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_onnx(
    model: str | os.PathLike[str] | bytes, *, threads: int = 0, optimize: bool = True
) -> OrtSession:
    """Open an ONNX model, by path or as bytes, on the CPU.

    Args:
        model: The model.
        threads: Threads within an operator; 0 leaves it to ONNX Runtime.
        optimize: Let ONNX Runtime rewrite the graph first; False runs it node by node as it stands.

    Raises:
        BackendMissingError: onnxruntime is not installed.
        ModelError: ONNX Runtime cannot load the model.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendMissingError("ONNX Runtime is not installed: pip install nm2trt[ort]") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    name = "the model" if isinstance(model, bytes) else str(Path(model))
    source = model if isinstance(model, bytes) else name
    try:
        return OrtSession(onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"]))
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot load {name}: {_first_line(error)}") from error


def _spec(value: Any) -> TensorSpec:
    return TensorSpec(value.name, _DTYPES.get(value.type, value.type), tuple(value.shape))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
