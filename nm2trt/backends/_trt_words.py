"""What TensorRT's libraries call things, in our words: element types and error messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

__all__ = ["clean", "dtype_name", "first_error"]

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


def first_error(log: Sequence[str]) -> str:
    """Return the first error in the library's log, else its last warning, without the decoration."""
    lines = [line.partition(": ") for line in log]
    errors = [message for severity, _, message in lines if severity in ("error", "internal_error")]
    warnings = [message for severity, _, message in lines if severity == "warning"]
    return clean((errors[:1] or warnings[-1:] or [""])[0])


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
