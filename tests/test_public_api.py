"""What is public: names are there on purpose, load lazily, and collide with no module."""

import os
import pkgutil
import subprocess
import sys
from importlib import import_module
from typing import get_type_hints

import pytest

import nm2trt
from nm2trt import errors
from nm2trt.cli import COMMANDS
from nm2trt.graph.verify.report import VerifyReport

HEAVY = ("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "numpy", "rich", "matplotlib")
# Engine libraries that are optional: their modules import them only when used, but say so here if not.
MODULES = [m.name for m in pkgutil.walk_packages(nm2trt.__path__, "nm2trt.") if m.name != "nm2trt.__main__"]


def loaded_after(statement):
    code = f"import sys; {statement}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()


def test_importing_nm2trt_loads_nothing_heavy():
    assert loaded_after("import nm2trt") == []


def test_a_signature_loads_nothing_heavy():
    assert loaded_after("import nm2trt, inspect; inspect.signature(nm2trt.verify)") == []


def test_help_loads_nothing_heavy():
    """All commands in one process: what one loads stands behind its name, and behind those after it."""
    code = (
        "import sys, io, contextlib\nfrom nm2trt.cli import main\n"
        f"for command in {['', *COMMANDS]!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as said: main([*command.split(), '--help'])\n"
        f"    print(repr(command), 'usage' in said.getvalue(), [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{command!r} True []" for command in ["", *COMMANDS]]


def test_all_is_sorted_and_complete():
    assert errors.__all__ == sorted(errors.__all__)
    assert nm2trt.__all__ == ["__version__", *sorted(nm2trt._FUNCTIONS), *errors.__all__]
    assert all(getattr(nm2trt, name) is getattr(errors, name) for name in errors.__all__)


def test_public_functions_survive_the_import_of_every_module():
    for module in MODULES:
        import_module(module)
    for name in [*sorted(nm2trt._FUNCTIONS)] * 2:
        function = getattr(nm2trt, name)
        assert callable(function), f"nm2trt.{name} is hidden by a module of that name"
        assert function.__doc__, name


def test_type_hints_of_public_names_are_types():
    """As typer and pydantic read them: names that modules import for type checkers are found too."""
    onnx, torch = pytest.importorskip("onnx"), pytest.importorskip("torch")
    for name in sorted(set(nm2trt.__all__) - {"__version__"}):
        hints = get_type_hints(getattr(nm2trt, name))
        assert hints, name
        assert not [hint for hint in hints.values() if isinstance(hint, str)], name
    found = nm2trt.verify.__annotations__.items()
    assert dict(found) == get_type_hints(nm2trt.verify)
    assert dict(found)["model"] == str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module
    assert dict(found)["return"] is VerifyReport


def test_type_hints_do_not_need_the_packages_that_they_name():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'onnx')))\n"
        "import nm2trt, typing; print([typing.get_type_hints(getattr(nm2trt, n)) for n in nm2trt._FUNCTIONS])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "str | os.PathLike[str]" in found


def test_every_module_says_what_it_is_for():
    assert not [name for name in MODULES if not import_module(name).__doc__], "have no docstring"


def test_an_underscore_and_no_list_says_what_a_module_keeps_to_itself():
    listing = {name for name in MODULES if hasattr(import_module(name), "__all__")}
    assert listing == {"nm2trt.errors", "nm2trt.graph.storage.light_onnx"}, "leave `__all__` out of others"


def test_unknown_name():
    with pytest.raises(AttributeError, match="has no attribute 'prove_it'"):
        _ = nm2trt.prove_it


def test_public_functions_are_those_of_the_pipeline_that_bear_the_name_of_their_module():
    assert nm2trt.run.__wrapped__ is import_module("nm2trt.recipe.runner").run
    for name in sorted(nm2trt._FUNCTIONS - {"run"}):
        assert getattr(nm2trt, name).__wrapped__ is getattr(import_module(f"nm2trt.pipeline.{name}"), name)
