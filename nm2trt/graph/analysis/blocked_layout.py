"""Nodes in ONNX Runtime's blocked layout, NCHWc, whose weights are stored in an order of its own."""

from __future__ import annotations

from nm2trt.graph.analysis.scopes import first_node
from nm2trt.graph.storage.model import Model

BLOCKED = "com.microsoft.nchwc"


def blocked_node(model: Model) -> str:
    """Return the first node in the blocked layout, or "".

    The parser of TensorRT for RTX 1.7 looks at a node's type and not at its domain: it reads such a Conv as
    ONNX's own, with weights in another order, and builds an engine that computes something else.
    """
    return first_node(model, (), BLOCKED)
