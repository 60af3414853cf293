"""Information on an ONNX file without a look at its weights: opset, inputs, outputs, plan."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nm2trt.figures import size
from nm2trt.graph.storage.element_types import DTYPE_NAMES
from nm2trt.graph.storage.light_onnx import onnx
from nm2trt.graph.storage.model import Model, load, metadata, opset
from nm2trt.graph.storage.model_hash import model_bytes
from nm2trt.graph.storage.stage_metadata import plan_of
from nm2trt.json_value import JsonValue, named
from nm2trt.nm.lineage import METADATA_KEY as MASK_KEY
from nm2trt.nm.plan import Plan
from nm2trt.tables.result import Result
from nm2trt.tables.table import Table, small_table


def stores_fp8(source: str | os.PathLike[str] | Model) -> bool:
    """Tell whether a model stores numbers of an eight-bit float type, as zero points of FP8 pairs are.

    Raises:
        ModelError: The file is not a sound ONNX model.
    """
    graph = load(source, leave_weights=True).proto.graph
    return any(DTYPE_NAMES.get(tensor.data_type, "").startswith("float8") for tensor in graph.initializer)


@dataclass(frozen=True, slots=True)
class OnnxTensor(JsonValue):
    """One input or output.

    Args:
        name: Its name.
        dtype: Its element type, e.g. "float16"; "" if it is not a tensor.
        shape: Its dimensions; a name or None if the size is free. None if the rank is unknown.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True, repr=False)
class OnnxInfo(Result):
    """What an ONNX file says of itself.

    Args:
        path: The file.
        file_bytes: Its size, with external data.
        opset: Version of the standard operators, or None.
        producer: Who wrote it.
        nodes: Nodes of the main graph.
        inputs: Inputs that are not initializers.
        outputs: Outputs.
        plan: The sparsity plan, or None.
        mask_sha256: The recorded hash of the masks, or "".
        family: Tells it apart from `nm2trt.engine.inspection.EngineInfo`.
    """

    kind = "ONNX model"

    path: Path
    file_bytes: int
    opset: int | None
    producer: str
    nodes: int
    inputs: tuple[OnnxTensor, ...]
    outputs: tuple[OnnxTensor, ...]
    plan: Plan | None
    mask_sha256: str
    family: Literal["onnx"] = "onnx"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        plan = self.plan
        return {
            **named(self, "path kind file_bytes opset producer nodes inputs outputs"),
            "planned_sparse": None if plan is None else len(plan.sparse),
            "planned_dense": None if plan is None else len(plan) - len(plan.sparse),
            "method": None if plan is None else plan.method,
            "mask_sha256": self.mask_sha256,
        }

    def tables(self) -> tuple[Table, ...]:
        """Return size, inputs, outputs and the plan."""
        rows = [("size", size(self.file_bytes)), ("nodes", f"{self.nodes:,}")]
        if self.producer:
            rows.append(("written by", self.producer))
        for title, tensors in (("input", self.inputs), ("output", self.outputs)):
            for tensor in tensors:
                shape = "?" if tensor.shape is None else "x".join(str(size or "?") for size in tensor.shape)
                rows.append((title, f"{tensor.name}: {tensor.dtype or 'no tensor'} {shape}"))
        if self.plan is None:
            rows.append(("plan", "missing; nm2trt verify judges every weight against 2:4"))
        else:
            method = self.plan.method or "unknown method"
            rows.append(("plan", f"{self.plan.counts()} ({method})"))
            rows.append(("masks", self.mask_sha256 or "not recorded"))
        return (small_table(("", ""), rows, f"{self.path}: ONNX model, opset {self.opset}"),)


def describe_model(source: str | os.PathLike[str] | Model) -> OnnxInfo:
    """Read what an ONNX file says of itself; its weights are not read.

    Args:
        source: The file, or the model if it is open already.

    Raises:
        InputError: The path is missing, a folder, empty, or may not be read.
        ModelError: The content is no ONNX model, or its plan is damaged.
    """
    model = load(source, leave_weights=True)
    proto = model.proto
    graph = proto.graph
    stored = {tensor.name for tensor in graph.initializer}
    return OnnxInfo(
        path=model.path or Path(),
        file_bytes=model_bytes(model),
        opset=opset(proto),
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        nodes=len(graph.node),
        inputs=tuple(_tensor(value) for value in graph.input if value.name not in stored),
        outputs=tuple(_tensor(value) for value in graph.output),
        plan=plan_of(model),
        mask_sha256=metadata(proto).get(MASK_KEY, ""),
    )


def _tensor(value: onnx.ValueInfoProto) -> OnnxTensor:
    if not value.type.HasField("tensor_type"):
        return OnnxTensor(value.name, "", None)
    kind = value.type.tensor_type
    dtype = DTYPE_NAMES.get(kind.elem_type, "")
    if not kind.HasField("shape"):
        return OnnxTensor(value.name, dtype, None)
    sizes = ((fixed_size(size), size.dim_param or None) for size in kind.shape.dim)
    return OnnxTensor(value.name, dtype, tuple(name if size is None else size for size, name in sizes))


def fixed_size(size: onnx.TensorShapeProto.Dimension) -> int | None:
    """Return a size of a shape, or None if it is free: converters of PaddlePaddle write -1 then."""
    return size.dim_value if size.HasField("dim_value") and size.dim_value >= 0 else None
