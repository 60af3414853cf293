"""Casts between a Transpose and a MatMul of an ONNX file, at which ONNX Runtime may end the process.

Its MatmulTransposeFusion moves such a Cast, and forgets to say so if it then fuses nothing, e.g. because the
two sides of the product differ in rank. Versions 1.21 to 1.32 end the process in the pass that comes next.

The file is read field by field, without `onnx` and without its weights.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from nm2trt.onnx_bytes.fields import fields

_OPTIMISER = "MatmulTransposeFusion"

# Field numbers of onnx.proto, which its versions never change.
_GRAPH, _FUNCTION, _GRAPH_NODE, _FUNCTION_NODE = 7, 25, 1, 7
_INPUT, _OUTPUT, _OPERATOR, _ATTRIBUTE, _BODY, _BODIES = 1, 2, 4, 5, 6, 11

_PRODUCTS = (b"MatMul", b"FusedMatMul")
_NESTING = (b"If", b"Loop", b"Scan")
# What may stand between the three and is moved or removed before they meet.
_MOVING = (
    *(b"Identity", b"Dropout", b"Cast", b"Transpose", b"Reshape", b"Flatten", b"Squeeze", b"Unsqueeze"),
    *(b"Gather", b"Slice", b"Split", b"Expand"),
)


def crashing_optimisers(model: str | bytes) -> list[str]:
    """Return the optimisers that ONNX Runtime has to leave out lest it end the process, for a path or bytes.

    A file that cannot be read, or holds no ONNX model, has none: ONNX Runtime says what is wrong with it.
    """
    try:
        if not isinstance(model, bytes):
            with Path(model).open("rb") as file:
                # Not closed by hand: what reads it holds views of it if it fails.
                return _crashing(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        return _crashing(memoryview(model))
    except (OSError, ValueError, LookupError, RecursionError):
        return []


def _crashing(model: memoryview) -> list[str]:
    # Values that a Transpose makes, and those of them that a Cast made thereafter.
    turned: set[bytes] = set()
    cast: set[bytes] = set()
    for number, _, part in fields(model):
        if number not in (_GRAPH, _FUNCTION):
            continue
        for operator, inputs, outputs in _nodes(part, _GRAPH_NODE if number == _GRAPH else _FUNCTION_NODE):
            if operator in _PRODUCTS and not cast.isdisjoint(inputs):
                return [_OPTIMISER]
            first = inputs[0] if inputs else b""
            if operator in _MOVING and (operator == b"Transpose" or first in turned):
                turned.update(outputs)
                if first in cast or (operator == b"Cast" and first in turned):
                    cast.update(outputs)
    return []


def _nodes(graph: memoryview, number: int) -> Iterator[tuple[bytes, list[bytes], list[bytes]]]:
    """Yield operator, inputs and outputs of each node in the order of the file, bodies after their node."""
    for field, _, node in fields(graph):
        if field != number:
            continue
        parts: dict[int, list[memoryview]] = {}
        for one, _, value in fields(node):
            parts.setdefault(one, []).append(value)
        inputs, outputs = (list(map(bytes, parts.get(side, []))) for side in (_INPUT, _OUTPUT))
        operator = b"".join(parts.get(_OPERATOR, []))
        yield operator, inputs, outputs
        for attribute in parts.get(_ATTRIBUTE, []) if operator in _NESTING else []:
            for inner, _, body in fields(attribute):
                if inner in (_BODY, _BODIES):
                    yield from _nodes(body, _GRAPH_NODE)
