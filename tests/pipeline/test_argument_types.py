"""Arguments of the wrong type: every public function refuses them in one sentence that names the argument."""

import inspect
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import nm2trt
from nm2trt.errors import InputError
from nm2trt.pipeline.argument_types import checked

OF_MODULES = ("export", "keep_zeros", "load_sparse", "sparsify", "to_semi_structured")
# Of any type, of a protocol, or of types that the function tells apart by itself.
ANY = {(name, "example") for name in nm2trt._FUNCTIONS - {"export"}} | {
    ("permute", "output"),
    ("run", "view"),
    ("sparsify", "options"),
    ("sparsify", "pattern"),
    ("validate", "labels"),
    ("validate_shard", "labels"),
}
PARAMETERS = [
    (function, name)
    for function in sorted(nm2trt._FUNCTIONS)
    for name in inspect.signature(getattr(nm2trt, function)).parameters
    if (function, name) not in ANY
]


class Module:
    """Stands for a torch.nn.Module, which is known by its name."""


def stub(function, work=lambda *given, **named: "done"):
    """Return a public function that checks its arguments and does something else, and what it requires."""

    def done(*given, **named):
        return work(*given, **named)

    done.__signature__ = inspect.signature(getattr(nm2trt, function))
    parameters = [p for p in done.__signature__.parameters.values() if p.kind is not p.VAR_KEYWORD]
    required = {p.name: "x" for p in parameters if p.default is p.empty}
    special = {
        "artefacts": ["m.onnx"],
        "state": {},
        "model": Module() if function in OF_MODULES else "m.onnx",
    }
    if function == "export":
        special["example"] = {}
    return checked(done), {name: special.get(name, value) for name, value in required.items()}


def test_an_object_is_no_argument_of_any_public_function():
    assert len(PARAMETERS) > 200
    for function, name in PARAMETERS:
        call, required = stub(function)
        assert call(**required) == "done", function
        with pytest.raises(InputError, match=rf"^{name} is of type object; give "):
            call(**{**required, name: object()})


def test_defaults_are_arguments_of_every_public_function():
    for function in sorted(nm2trt._FUNCTIONS):
        call, required = stub(function)
        parameters = inspect.signature(call).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        assert call(**required, **defaults) == "done", function


@pytest.mark.parametrize(
    ("function", "arguments", "sentence"),
    [
        (
            "prune",
            {"exclude": "head*"},
            r"exclude is of type str; give a list of str, as in \['head\*'\]",
        ),
        ("bench", {"batches": 8}, r"batches is of type int; give a list of int, as in \[8\]"),
        ("bench", {"batches": ["8"]}, r"batches\[0\] is of type str; give an int"),
        (
            "bench",
            {"artefacts": 3},
            r"artefacts is of type int; give a path, an onnx.ModelProto, a torch.nn.Module or a list of models",
        ),
        (
            "bench",
            {"artefacts": ["m.onnx", 3]},
            r"artefacts\[1\] is of type int; give a path, an onnx.ModelProto or",
        ),
        ("build", {"dry_run": "no"}, "dry_run is of type str; give True or False"),
        ("build", {"options": {"effort": 3}}, "options is of type dict; give BuildOptions or None"),
        ("build", {"profiles": np.zeros((2, 3))}, r"profiles\[0\] is of type list; give a str"),
        ("bench", {"batches": iter(["8"])}, r"batches\[0\] is of type str; give an int"),
        ("prune", {"include": {"a": 1}}, "include is of type dict; give a list of str"),
        ("prune", {"include": {1}}, r"include\[0\] is of type int; give a str"),
        ("fuse", {"output": "a\0b"}, "output holds a NUL character"),
        ("cast", {"to": 16}, "to is of type int; give a str"),
        ("quantize", {"calib": True}, "calib is of type bool; give a path, a dict by name or an array"),
        ("sparsify", {"model": "m.onnx"}, "model is of type str; give a torch.nn.Module"),
        ("validate", {"runs": True}, "runs is of type bool; give an int"),
    ],
)
def test_the_sentence(function, arguments, sentence):
    call, required = stub(function)
    with pytest.raises(InputError, match=f"^{sentence}"):
        call(**{**required, **arguments})


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("bench", {"batches": range(1, 3), "runs": np.int64(5)}),
        ("build", {"dry_run": np.bool_(True), "require_sparse": np.float32(0.5), "precision": "int8"}),
        ("deploy", {"labels": [Path("a.txt"), "b.txt"], "load_timeout_s": 5}),
        ("prune", {"include": (name for name in ["a"]), "share": 1}),
        ("quantize", {"calib": {"x": np.zeros(3)}, "exclude": {"a"}}),
        ("quantize", {"calib": np.zeros(3)}),
        ("quantize", {"calib": [[0.0, 1.0]]}),
        ("bench", {"artefacts": "m.onnx"}),
    ],
)
def test_what_stands_for_a_type_is_taken(function, arguments):
    call, required = stub(function)
    assert call(**{**required, **arguments}) == "done"


@pytest.mark.parametrize(
    ("function", "name", "given", "got"),
    [
        ("bench", "runs", np.int64(5), 5),
        ("prune", "share", np.float64(0.5), 0.5),
        ("prune", "pattern", np.str_("2:4"), "2:4"),
        ("export", "dynamic_batch", np.bool_(False), False),
        ("bench", "batches", np.array([1, 8]), [1, 8]),
        ("bench", "batches", (n for n in (1, 8)), [1, 8]),
        ("prune", "include", {1: "a", 2: "b"}.values(), ["a", "b"]),
        ("prune", "include", np.array(["a", "b"]), ["a", "b"]),
        ("sparsify", "include", np.array(["a"]), ["a"]),
        ("bench", "batches", (1, 8), (1, 8)),
    ],
)
def test_functions_get_plain_values(function, name, given, got):
    call, required = stub(function, lambda *args, **named: (args, named))
    args, named = call(**{**required, name: given})
    value = inspect.signature(call).bind(*args, **named).arguments[name]
    assert value == got
    assert type(value) is type(got)


def test_a_module_that_holds_modules_is_one_model():
    model = torch.nn.Sequential(torch.nn.ReLU())
    call, _ = stub("bench", lambda artefacts: artefacts)
    assert call(model) is model


def test_a_wrong_call_is_python_s_own_error_and_functions_can_be_sent_to_processes():
    with pytest.raises(TypeError, match=r"info\(\) missing 1 required positional argument: 'path'"):
        nm2trt.info()
    for name in sorted(nm2trt._FUNCTIONS):
        function = getattr(nm2trt, name)
        assert pickle.loads(pickle.dumps(function)) is function, name
