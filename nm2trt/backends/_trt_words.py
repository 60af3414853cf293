"""What TensorRT's libraries call things, in our words: element types and error messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nm2trt.errors import BackendError, ModelError

if TYPE_CHECKING:
    import tensorrt

__all__ = ["clean", "dtype_name", "first_error", "parser_failure", "sizes"]

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8_e4m3fn",
    "E8M0": "float8_e8m0fnu",
    "FP4": "float4_e2m1fn",
    "INT4": "int4",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


def dtype_name(dtype: Any) -> str:
    """Return numpy's name of a library's `DataType`."""
    name = str(dtype).rpartition(".")[2]
    return _DTYPES.get(name, name.lower())


def sizes(dims: Any) -> tuple[int, ...]:
    """Return a library's `Dims` as a tuple."""
    return tuple(int(dims[axis]) for axis in range(len(dims)))


def first_error(log: Sequence[str]) -> str:
    """Return the first error in the library's log, else its last warning, without the decoration."""
    lines = [line.partition(": ") for line in log]
    errors = [message for severity, _, message in lines if severity in ("error", "internal_error")]
    warnings = [message for severity, _, message in lines if severity == "warning"]
    return clean((errors[:1] or warnings[-1:] or [""])[0])


def parser_failure(
    product: str, model: Path, parser: tensorrt.OnnxParser, log: Sequence[str]
) -> BackendError | ModelError:
    """Return the error to raise where a parser failed, with the node that it names."""
    if parser.num_errors == 0:
        return BackendError(f"{product} cannot read {model}: {first_error(log)}")
    error = parser.get_error(0)
    code = str(error.code()).rpartition(".")[2]
    if code == "MODEL_DESERIALIZE_FAILED":
        return ModelError(
            f"{model} is not a readable ONNX file: it is damaged, cut short or of another format"
        )
    reason = clean(error.desc())
    if reason in ("", "false") or "Plugin not found" in reason:
        reason = "it has no implementation of this operator; export the model without it"
    # TensorRT 8 says neither the operator nor the node's name.
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    node = error.node_name() if hasattr(error, "node_name") else ""
    if not operator and hasattr(error, "node_operator"):
        # Not of one node, e.g. external data that is missing: the log's first error names the cause.
        return ModelError(f"{product} cannot read {model}: {first_error(log)}")
    where = f"node {node!r}" if node else f"node number {error.node()}"
    what = f", operator {operator}," if operator else ""
    return BackendError(f"{product} refuses {where}{what} of {model}: {reason}")


def clean(message: str) -> str:
    """Take source positions and error codes off a message."""
    message = " ".join(message.split())
    # The compiler's own errors come as a chain "[file:line: function] text; [...] text ...": the first
    # names the cause.
    chain = re.match(r"Myelin \(\[[^]]*\] (.*?)(; \[|\)?$)", message)
    if chain:
        message = chain[1]
    for noise in (
        r"Assertion failed: (\S+: )?",
        r"(\[?\w+\.(cpp|h)[:\]]\S*\s*)+",
        r"I\w+::\w+: ",
        r"Error Code \d+: ",
    ):
        message = re.sub(f"^{noise}", "", message)
    return message.strip().rstrip(".") or "the library gave no reason"
