"""The `onnx` package; its messages and its compiled part load without the rest, which takes far longer.

`onnx.ModelProto` and the other messages come from the module that defines them, and are the classes that the
package offers. Any other attribute, e.g. `onnx.helper`, imports the package.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["TensorProto", "attribute_value", "graphs_of", "infer_shapes", "onnx", "schema_at", "schemas"]

_COMPILED = "onnx.onnx_cpp2py_export"
_LAST_OPSET = 2**31 - 1


class _LightOnnx:
    def __getattr__(self, name: str) -> Any:
        found = getattr(sys.modules.get("onnx") or _messages(), name, None)
        if found is None:
            package = importlib.import_module("onnx")
            found = getattr(package, name, None)
        if found is None:
            found = importlib.import_module(f"onnx.{name}")
        setattr(self, name, found)
        return found


class _Completion:
    """Gives `onnx`, if it is imported after its compiled part, that part as an attribute."""

    def find_spec(self, name: str, *_: Any) -> Any:
        if name != "onnx" or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def complete(module: ModuleType) -> None:
                setattr(module, _COMPILED.rpartition(".")[2], sys.modules[_COMPILED])
                execute(module)

            spec.loader.exec_module = complete  # type: ignore[method-assign]
        return spec


@functools.cache
def _messages() -> ModuleType | None:
    """Load only the module of the messages; None if this release of ONNX keeps it elsewhere.

    It stays out of `sys.modules`: the package loads it again, and protobuf hands out the same classes then.
    """
    return _loaded("onnx.onnx_ml_pb2", (".py",))


@functools.cache
def _compiled() -> ModuleType | None:
    """Load only the compiled part; None if this release of ONNX keeps it elsewhere.

    A process can load it only once, so the package must find it in `sys.modules`.
    """
    module = _loaded(_COMPILED, tuple(importlib.machinery.EXTENSION_SUFFIXES), keep=True)
    if module is not None:
        sys.meta_path.insert(0, _Completion())
    return module


def _loaded(name: str, suffixes: tuple[str, ...], *, keep: bool = False) -> ModuleType | None:
    package = importlib.util.find_spec("onnx")
    folders = (package.submodule_search_locations or ()) if package is not None else ()
    stem = name.rpartition(".")[2]
    files = (Path(folder, stem + suffix) for folder in folders for suffix in suffixes)
    file = next((file for file in files if file.is_file()), None)
    spec = None if file is None else importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    if keep:
        sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    import onnx
    from onnx import TensorProto
else:
    onnx = _LightOnnx()
    TensorProto = onnx.TensorProto

_KIND = onnx.AttributeProto
# Field of an attribute that holds its value.
_FIELDS = {
    _KIND.FLOAT: "f",
    _KIND.INT: "i",
    _KIND.STRING: "s",
    _KIND.TENSOR: "t",
    _KIND.SPARSE_TENSOR: "sparse_tensor",
    _KIND.GRAPH: "g",
    _KIND.TYPE_PROTO: "tp",
}
_LISTS = {
    _KIND.FLOATS: "floats",
    _KIND.INTS: "ints",
    _KIND.STRINGS: "strings",
    _KIND.TENSORS: "tensors",
    _KIND.SPARSE_TENSORS: "sparse_tensors",
    _KIND.GRAPHS: "graphs",
    _KIND.TYPE_PROTOS: "type_protos",
}


def attribute_value(attribute: onnx.AttributeProto) -> Any:
    """Return an attribute's value, as `onnx.helper.get_attribute_value` does; texts are bytes.

    Raises:
        ValueError: Its type is unknown, or it stands for an attribute of the function around it.
    """
    kind = attribute.type
    if attribute.ref_attr_name:
        raise ValueError(f"attribute {attribute.name!r} refers to {attribute.ref_attr_name!r}")
    if kind in _FIELDS:
        return getattr(attribute, _FIELDS[kind])
    if kind in _LISTS:
        return list(getattr(attribute, _LISTS[kind]))
    if kind == _KIND.UNDEFINED:
        return None
    raise ValueError(f"attribute {attribute.name!r} has the unknown type {kind}")


def graphs_of(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs in a node's attributes, whatever types the attributes state, as the library does."""
    return [g for a in node.attribute for g in ([a.g] if a.HasField("g") else list(a.graphs))]


def is_default(node: onnx.NodeProto) -> bool:
    """Tell whether a node is one of ONNX's own operators."""
    return node.domain in ("", "ai.onnx")


def infer_shapes(model: onnx.ModelProto, *, data_prop: bool = False) -> onnx.ModelProto:
    """Return a model with the types and shapes that ONNX infers, as `onnx.shape_inference.infer_shapes` does.

    Args:
        model: The model; under 2 GiB.
        data_prop: Whether the values of small tensors that shapes depend on are followed too.
    """
    found = _part("shape_inference").infer_shapes(model.SerializeToString(), False, False, data_prop)
    inferred: onnx.ModelProto = onnx.ModelProto.FromString(found)
    return inferred


def schemas() -> Any:
    """Return the module of operator schemas: `has_schema`, `get_schema`, `OpSchema`, `SchemaError`."""
    return _part("defs")


def schema_at(operator: str, opset: int | None) -> Any | None:
    """Return the schema of an operator of ONNX's own at an opset (None: the newest), or None."""
    try:
        if opset is None:
            return schemas().get_schema(operator)
        # A file may say any number, and the library takes a C int.
        return schemas().get_schema(operator, max(0, min(opset, _LAST_OPSET)), "")
    except schemas().SchemaError:
        return None


def _part(name: str) -> Any:
    if _COMPILED not in sys.modules and _compiled() is None:
        importlib.import_module("onnx")
    return sys.modules[f"{_COMPILED}.{name}"]
