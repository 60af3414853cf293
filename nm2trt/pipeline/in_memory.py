"""Models and samples in memory: functions that read files take protobufs, modules and arrays too."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from nm2trt.errors import DataError, InputError, Nm2trtError

_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")
_Value = TypeVar("_Value")


def takes_values(
    *,
    models: tuple[str, ...] = ("model",),
    samples: tuple[str, ...] = (),
    output: str = "",
    several: bool = False,
) -> Callable[[Callable[_Arguments, _Answer]], Callable[_Arguments, _Answer]]:
    """Let a function that takes paths take values in memory, which are written to a temporary folder first.

    Args:
        models: Parameters that may be an `onnx.ModelProto`, or a `torch.nn.Module` if samples, or the
            parameter `example`, say what its inputs are.
        samples: Parameters that may be arrays by input name, or one array for a model with one input.
        output: Parameter that a model in memory needs, as it has no folder for the result; "" for none.
        several: Whether each of `models` is a sequence of models.
    """

    def decorate(function: Callable[_Arguments, _Answer]) -> Callable[_Arguments, _Answer]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapped(*arguments: _Arguments.args, **keywords: _Arguments.kwargs) -> _Answer:
            try:
                bound = signature.bind(*arguments, **keywords)
            except TypeError:
                return function(*arguments, **keywords)  # Python's own words name the function
            given = bound.arguments
            if several:
                given.update({name: _listed(given[name]) for name in models})
            with contextlib.ExitStack() as stack:
                folder = _Folder(stack)
                labels = given.pop("labels", None) if samples else None  # others have labels of their own
                example = given.pop("example", None)
                _check_example(example, given, models)
                arrays = {name: _arrays(given[name], given, models) for name in samples if _held(given, name)}
                inputs = next(iter(arrays.values()), None)
                for name in models:
                    if several:
                        given[name] = [
                            folder.model(f"{name}_{i}", one, inputs, example) if _in_memory(one) else one
                            for i, one in enumerate(given[name], start=1)
                        ]
                    elif _held(given, name):
                        if output and given.get(output) is None and not given.get("dry_run"):
                            raise InputError(f"the model is in memory and has no folder; give {output}=PATH")
                        given[name] = folder.model(name, given[name], inputs, example)
                for name, value in arrays.items():
                    given[name] = folder.samples(name, value, labels)
                if labels is not None and not arrays:
                    raise InputError("labels go with arrays; a file of samples holds its own under 'labels'")
                try:
                    return folder.named(function(*bound.args, **bound.kwargs))
                except Nm2trtError as error:
                    error.args, error.partial = folder.named(error.args), folder.named(error.partial)
                    raise

        return wrapped

    return decorate


def as_path(value: Any) -> Path:
    """Return a path that `takes_values` left, whatever the parameter may be otherwise."""
    return Path(value)


def _held(given: Mapping[str, Any], name: str) -> bool:
    """Tell whether a parameter was given as a value in memory."""
    return _in_memory(given.get(name))


def _listed(value: Any) -> list[Any]:
    """Return a sequence of models as a list; one model is a sequence of its own."""
    alone = isinstance(value, str) or not hasattr(value, "__iter__") or hasattr(value, "state_dict")
    return [value] if alone else list(value)


def _in_memory(value: Any) -> bool:
    return value is not None and not isinstance(value, str) and not hasattr(value, "__fspath__")


def _check_example(example: Any, given: Mapping[str, Any], models: tuple[str, ...]) -> None:
    """Refuse an example that nothing is exported with.

    Raises:
        InputError: No model is a module.
    """
    if example is not None and not any(hasattr(given.get(name), "state_dict") for name in models):
        raise InputError(
            f"example says what a torch module takes, and {models[0]} is not a module; leave it out"
        )


class _Folder:
    """A temporary folder, made when it is first needed."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._path: Path | None = None
        self._names: dict[str, str] = {}

    def _file(self, name: str) -> Path:
        if self._path is None:
            import tempfile  # only here: it takes time to import

            self._path = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="nm2trt-")))
        path = self._path / name
        self._names[str(path)] = f"{path.stem} (in memory)"
        return path

    def named(self, value: _Value) -> _Value:
        """Return a result that says "model (in memory)" instead of the name of a file of this folder."""
        return value if self._path is None else cast("_Value", _with_names(value, self._name, set()))

    def _name(self, text: str) -> str:
        for path, name in self._names.items():
            text = text.replace(path, name)
        return text.replace(f"{self._path}/", "")

    def model(self, name: str, model: Any, inputs: Mapping[str, Any] | None, example: Any) -> Path:
        path = self._file(f"{name}.onnx")
        if hasattr(model, "SerializeToString"):
            from nm2trt.graph.pass_frame import write_model
            from nm2trt.graph.storage.model import load

            own = type(model)()
            own.CopyFrom(model)  # writing spends a model
            write_model(load(own), path)
            return path
        if not hasattr(model, "state_dict"):
            raise InputError(
                f"{name} is of type {type(model).__name__}; give a path, an onnx.ModelProto or a "
                "torch.nn.Module"
            )
        if inputs is None and example is None:
            raise InputError(
                f"{name} is a module, and nothing says what its inputs are; give arrays, example=x where the "
                "function takes it, or export it with nm2trt.export(module, example, 'model.onnx')"
            )
        from nm2trt.exporter.example import example_of, with_tensors
        from nm2trt.pipeline.export import export

        if example is not None or inputs is None:
            export(model, with_tensors(example), path)
            return path
        arrays = {key: _array(key, value)[:2] for key, value in inputs.items() if key != "labels"}
        export(model, example_of(arrays), path, input_names=list(arrays))
        return path

    def samples(self, name: str, arrays: Mapping[str, Any], labels: Any) -> Path:
        from nm2trt.validation.inference import save_arrays

        if labels is not None and "labels" in arrays:
            raise InputError("labels are given twice; give them among the arrays or as labels")
        path = self._file(f"{name}.npz")
        known = arrays if labels is None else {**arrays, "labels": labels}
        save_arrays(path, {key: _array(key, value) for key, value in known.items()})
        return path


def _with_names(value: Any, name: Callable[[str], str], seen: set[int]) -> Any:
    """Return a value whose texts and paths went through `name`; what does not change stays the same."""
    if isinstance(value, str | Path):
        text = name(str(value))
        return value if text == str(value) else type(value)(text)
    if type(value) in {tuple, list}:
        items = [_with_names(item, name, seen) for item in value]
        return value if all(map(operator.is_, items, value)) else type(value)(items)
    if type(value) is dict:
        pairs = [*value.items()]
        told = _with_names(pairs, name, seen)
        return value if told is pairs else dict(told)
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and id(value) not in seen:
        seen.add(id(value))
        for one in dataclasses.fields(value):
            held = getattr(value, one.name, None)
            if (changed := _with_names(held, name, seen)) is not held:
                # Results are frozen for those who hold them; nobody holds this one yet.
                object.__setattr__(value, one.name, changed)
    return value


def _arrays(value: Any, given: Mapping[str, Any], models: tuple[str, ...]) -> Mapping[str, Any]:
    """Return arrays by input name; one array belongs to the only input of the model."""
    if isinstance(value, Mapping):
        return value
    from nm2trt.graph.storage.model_info import describe_model

    model = given.get(models[0])
    if isinstance(model, list):  # of a sequence of models, the first
        model = next(iter(model), None)
    if model is not None and hasattr(model, "state_dict"):
        from nm2trt.exporter.torch_onnx import unwrapped

        return {next(iter(inspect.signature(unwrapped(model).forward).parameters)): value}
    inputs = describe_model(model).inputs if model is not None else ()
    if len(inputs) != 1:
        names = ", ".join(tensor.name for tensor in inputs)
        raise InputError(f"the model has {len(inputs)} inputs ({names}); give a dict with an array per input")
    return {inputs[0].name: value}


def _array(name: str, value: Any) -> Any:
    """Return what numpy makes of a value; a type of torch that numpy lacks becomes float32.

    Raises:
        DataError: It is neither numbers nor text, or its parts are of several shapes.
    """
    import numpy as np

    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"numpy makes no array of {name!r}: {error}") from error
    if array.dtype.hasobject:
        raise DataError(f"{name!r} holds objects of Python; give numbers or text, in arrays of one shape")
    return array
