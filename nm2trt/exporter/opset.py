"""Opset 17 from opset 18: TensorRT 8.6 reads no later one, and PyTorch's exporter writes no earlier one.

Only what operators say changes, never what they compute: an operator whose opset 18 form has no opset 17
equal is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir

from nm2trt.errors import InputError

OLDEST_NATIVE = 18
_TARGET = 17
# The IR version that was current with opset 17.
_IR_VERSION = 8


def lower_to_17(model: ir.Model) -> None:
    """Rewrite an opset 18 model as opset 17, in place.

    Raises:
        InputError: An operator has no opset 17 form.
    """
    for node in list(model.graph.all_nodes()):
        if node.domain not in ("", "ai.onnx") or not _changed(node.op_type):
            continue
        lower = _LOWER.get(node.op_type, _keep_if_plain)
        try:
            lower(node)
        except _NoFormError as error:
            raise InputError(
                f"opset {_TARGET} has no form of node {node.name!r} ({node.op_type}): {error}; "
                f"export with opset={OLDEST_NATIVE}, or change that layer"
            ) from error
    model.graph.opset_imports[""] = _TARGET
    model.ir_version = _IR_VERSION


class _NoFormError(Exception):
    """Why a node cannot be written in the older opset."""


def _changed(operator: str) -> bool:
    try:
        older = onnx.defs.get_schema(operator, _TARGET)
    except onnx.defs.SchemaError:
        return True
    return bool(older.since_version != onnx.defs.get_schema(operator, OLDEST_NATIVE).since_version)


def _constants(node: ir.Node, index: int, what: str) -> list[int]:
    value = node.inputs[index]
    constant = None if value is None else ir.convenience.get_const_tensor(value)
    if constant is None:
        raise _NoFormError(f"its {what} are computed at run time")
    return [int(item) for item in constant.numpy().ravel()]


def _axes_to_attribute(node: ir.Node) -> None:
    if len(node.inputs) < 2 or node.inputs[1] is None:
        if _integer(node, "noop_with_empty_axes"):
            raise _NoFormError("it reduces nothing when no axes are given")
    else:
        node.attributes.add(ir.AttrInt64s("axes", _constants(node, 1, "axes")))
        node.resize_inputs(1)
    node.attributes.pop("noop_with_empty_axes", None)


def _equal_split(node: ir.Node) -> None:
    parts = node.attributes.pop("num_outputs", None)
    if parts is None or (len(node.inputs) > 1 and node.inputs[1] is not None):
        return
    axis, shape = _integer(node, "axis"), node.inputs[0].shape if node.inputs[0] is not None else None
    length = None if shape is None else shape[axis]
    if not isinstance(length, int) or length % parts.as_int():
        raise _NoFormError(f"its axis of {length} does not divide into {parts.as_int()} equal parts")


def _pad_all_axes(node: ir.Node) -> None:
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        raise _NoFormError("it pads only some axes")


def _resize_all_axes(node: ir.Node) -> None:
    if _integer(node, "antialias") or "axes" in node.attributes:
        raise _NoFormError("it uses antialias or axes")
    policy = node.attributes.get("keep_aspect_ratio_policy")
    if policy is not None and policy.as_string() != "stretch":
        raise _NoFormError("it keeps the aspect ratio")
    for name in ("antialias", "keep_aspect_ratio_policy"):
        node.attributes.pop(name, None)


def _plain_scatter(node: ir.Node) -> None:
    reduction = node.attributes.get("reduction")
    if reduction is not None and reduction.as_string() in ("max", "min"):
        raise _NoFormError(f"its reduction {reduction.as_string()!r} is newer")


def _keep_if_plain(node: ir.Node) -> None:
    try:
        older = onnx.defs.get_schema(node.op_type, _TARGET)
    except onnx.defs.SchemaError as error:
        raise _NoFormError("the operator is newer") from error
    added = sorted(set(node.attributes) - set(older.attributes))
    if added or len(node.inputs) > len(older.inputs):
        raise _NoFormError(f"it uses what is newer ({', '.join(added) or 'another input'})")


def _integer(node: ir.Node, name: str) -> int:
    attribute = node.attributes.get(name)
    return 0 if attribute is None else int(attribute.as_int())


# ReduceSum took its axes as an input already in opset 13.
_REDUCTIONS = [f"Reduce{kind}" for kind in "L1 L2 LogSum LogSumExp Max Mean Min Prod SumSquare".split()]
_LOWER: dict[str, Callable[[ir.Node], None]] = {
    **dict.fromkeys(_REDUCTIONS, _axes_to_attribute),
    **dict.fromkeys(("ScatterElements", "ScatterND"), _plain_scatter),
    "Pad": _pad_all_axes,
    "Resize": _resize_all_axes,
    "Split": _equal_split,
}
