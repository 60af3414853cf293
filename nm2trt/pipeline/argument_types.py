"""Argument types of the public functions: each argument must fit its annotation before any work begins."""

from __future__ import annotations

import ast
import inspect
import numbers
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, wraps
from importlib import import_module
from typing import Any, get_type_hints

from nm2trt.errors import InputError

# What an annotation may name, as a message says it. A parameter whose annotation names anything else, such as
# Any, is left to its function.
_WORDS = {
    "None": "None",
    "str": "a str",
    "os.PathLike[str]": "a path",
    "int": "an int",
    "float": "a number",
    "bool": "True or False",
    "Mapping[str, Any]": "a dict by name",
    "Mapping[str, str]": "a dict of str",
    "Sequence[str]": "a list of str",
    "Sequence[int]": "a list of int",
    "Sequence[str | os.PathLike[str]]": "a list of paths",
    "Sequence[Any]": "a tuple",
    "Sequence[str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module]": "a list of models",
    "npt.ArrayLike": "an array",
    "onnx.ModelProto": "an onnx.ModelProto",
    "torch.nn.Module": "a torch.nn.Module",
    "torch.Tensor": "a tensor",
    "torch.dtype": "a torch.dtype",
    "Method": "a str",
    "Precision": "a str",
    "ReportFormat": "a str",
    "Sparsity": "a str",
    "Artefact": "an Artefact",
    "BuildOptions": "BuildOptions",
    "DeployOptions": "DeployOptions",
    "KubernetesOptions": "KubernetesOptions",
    "Lowering": "a Lowering",
    "NMPattern": "an NMPattern",
    "Plan": "a Plan",
    "ProbeOptions": "ProbeOptions",
    "ServerOptions": "ServerOptions",
}
_TYPES: dict[str, type] = {
    **dict.fromkeys(("str", "Method", "Precision", "ReportFormat", "Sparsity"), str),
    "os.PathLike[str]": os.PathLike,
    "int": numbers.Integral,
    "float": numbers.Real,
    "bool": numbers.Integral,
    "Mapping[str, Any]": Mapping,
    "Mapping[str, str]": Mapping,
}


@cache
def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that refuses an argument of a type that its annotation does not name.

    The function gets a scalar of numpy as the Python value that it stands for, and a set, an array or an
    iterator as a list where a sequence is asked for.

    Raises:
        InputError: The returned function got such an argument; the message says which types it takes.
    """
    signature = inspect.signature(function)
    allowed = {name: _parts(parameter.annotation) for name, parameter in signature.parameters.items()}

    @wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        try:
            bound = signature.bind(*given, **named)
        except TypeError:
            return function(*given, **named)  # Python's own message names the function
        for name, found in bound.arguments.items():
            parts = allowed[name]
            value = bound.arguments[name] = _plain(found, parts)
            if "os.PathLike[str]" in parts and isinstance(value, (str, os.PathLike)) and "\0" in str(value):
                raise InputError(f"{name} holds a NUL character, which no path can; give another path")
            if all(part in _WORDS for part in parts) and not any(_fits(value, part) for part in parts):
                raise InputError(_refusal(name, value, parts))
        return function(*bound.args, **bound.kwargs)

    call.__module__ = "nm2trt"  # where pickle finds it
    call.__annotations__ = _Types(function)
    call.__signature__ = signature  # type: ignore[attr-defined] # with texts: typer asks for types apart
    return call


class _Types(dict[str, Any]):
    """A function's annotations, which become types when typing.get_type_hints, pydantic or typer reads them.

    Only then is imported what the function's module imports for type checkers.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function.__annotations__)
        self._function: Callable[..., Any] | None = function

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def keys(self) -> Any:
        self._resolve()
        return super().keys()

    def items(self) -> Any:
        self._resolve()
        return super().items()

    def _resolve(self) -> None:
        if self._function is not None:
            self.update(_type_hints(self._function))
            self._function = None


def _type_hints(function: Callable[..., Any]) -> dict[str, Any]:
    module = sys.modules[function.__module__]
    names = dict(vars(module))
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            continue
        for imported in node.body:
            if isinstance(imported, (ast.Import, ast.ImportFrom)):
                names |= {alias.asname or alias.name: _named(imported, alias) for alias in imported.names}
    return get_type_hints(function, names)


def _named(imported: ast.Import | ast.ImportFrom, alias: ast.alias) -> Any:
    try:
        if isinstance(imported, ast.Import):
            return import_module(alias.name)
        return getattr(import_module(str(imported.module)), alias.name)
    except ImportError:  # of an extra that is not installed
        return _NotInstalled


class _AnyName(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):  # as typing asks for, to tell kinds of types apart
            raise AttributeError(name)
        return cls


class _NotInstalled(metaclass=_AnyName):
    """Stands for a type, or a module with types, of a package that is not installed."""


@cache
def _parts(annotation: str) -> tuple[str, ...]:
    """Return the types that an annotation joins by |; the choices of a Literal are left to its function."""
    node = ast.parse(annotation, mode="eval").body
    parts: list[str] = []
    while isinstance(node, ast.BinOp):
        parts.append(ast.unparse(node.right))
        node = node.left
    parts.append(ast.unparse(node))
    return tuple("str" if part.startswith("Literal[") else part for part in reversed(parts))


def _fits(value: Any, part: str) -> bool:
    if part == "None":
        return value is None
    if part.startswith("Sequence["):
        return _is_sequence(value) and _misfit(value, part) is None
    if part == "npt.ArrayLike":
        return hasattr(value, "__array__") or (isinstance(value, Sequence) and not isinstance(value, bytes))
    if part in _TYPES and isinstance(value, _TYPES[part]):
        return not (isinstance(value, bool) and part in ("int", "float"))
    return _is_a(value, part.rpartition(".")[2])


def _is_a(value: Any, name: str) -> bool:
    """Tell whether a value is of a class of this name: numpy, torch and onnx are not imported for it."""
    return any(kind.__name__ == name for kind in type(value).__mro__)


def _plain(value: Any, parts: tuple[str, ...]) -> Any:
    if _is_a(value, "generic"):
        return value.item()
    held = any(part.startswith("Sequence[") and part != "Sequence[Any]" for part in parts)
    if not held or isinstance(value, Sequence) or not _is_sequence(value):
        return value
    if any(_fits(value, part) for part in parts if not part.startswith("Sequence[")):
        return value  # as an nn.Sequential is one model
    return value.tolist() if hasattr(value, "tolist") else list(value)


def _is_sequence(value: Any) -> bool:
    """Tell whether a value holds others in some order; a str counts as a single value."""
    alone = isinstance(value, (str, bytes, Mapping)) or getattr(value, "shape", None) == ()
    return isinstance(value, Iterable) and not alone


def _misfit(value: Iterable[Any], part: str) -> tuple[int, Any] | None:
    """Return the first item that is not of the sequence's type, and its index."""
    inner = _inner(part)
    if inner == ("Any",):
        return None
    return next(
        ((i, item) for i, item in enumerate(value) if not any(_fits(item, one) for one in inner)), None
    )


def _inner(part: str) -> tuple[str, ...]:
    return _parts(part.removeprefix("Sequence[").removesuffix("]"))


def _refusal(name: str, value: Any, parts: tuple[str, ...]) -> str:
    held = next((part for part in parts if part.startswith("Sequence[")), "")
    if held and _is_sequence(value) and (found := _misfit(value, held)) is not None:
        return _refusal(f"{name}[{found[0]}]", found[1], _inner(held))
    words = [_WORDS[part] for part in parts if not (part == "str" and "os.PathLike[str]" in parts)]
    choices = " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
    listed = f", as in [{value!r}]" if isinstance(value, (str, int)) and held and _fits([value], held) else ""
    return f"{name} is of type {type(value).__name__}; give {choices}{listed}"
