"""The reference pages say what the options, the signatures and the docstrings say."""

import importlib.util
import inspect
import sys
from pathlib import Path

import pytest

import nm2trt
from nm2trt import errors

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("script", "page"), [("make_reference", "commands"), ("make_api_reference", "python")]
)
def test_the_reference_is_not_stale(script, page, monkeypatch):
    monkeypatch.setattr(sys, "argv", [f"docs/{script}.py", "--check"])
    assert made_by(script).main() == 0, f"docs/reference/{page}.md is stale: run python docs/{script}.py"


def made_by(script):
    specification = importlib.util.spec_from_file_location(script, ROOT / "docs" / f"{script}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def maker():
    """The module that writes the page of the Python functions."""
    return made_by("make_api_reference")


def test_every_public_function_and_exception_has_its_part():
    lines = (ROOT / "docs/reference/python.md").read_text().splitlines()
    for name in sorted(nm2trt._FUNCTIONS):
        assert name == "__version__" or f"### {name}" in lines
    for name in errors.__all__:
        assert any(line.startswith(f"| `{name}` |") for line in lines)


def test_the_page_changes_with_a_docstring_and_with_a_default(maker, monkeypatch):
    """A planted change of either makes the committed page stale."""
    before = maker.function_part("fuse")
    function = nm2trt.fuse
    monkeypatch.setattr(function, "__doc__", f"{function.__doc__}\n    Another sentence.")
    assert maker.function_part("fuse") != before
    monkeypatch.undo()
    defaults = {"allow_broken": True, "compare": True, "example": None}
    monkeypatch.delattr(function, "__signature__")
    monkeypatch.setattr(inspect.unwrap(function), "__kwdefaults__", defaults)
    assert "allow_broken: bool = True" in "\n".join(maker.function_part("fuse"))


def test_sections_of_a_docstring_become_a_table_and_a_list(maker):
    text = (
        "Do it.\n\nArgs:\n    one: First | of\n        two lines.\n    two: Last.\n\n"
        "Raises:\n    ValueError: Never.\n"
    )
    assert maker.prose(text) == [
        "Do it.",
        "",
        "| argument | |",
        "|---|---|",
        "| `one` | First \\| of two lines. |",
        "| `two` | Last. |",
        "",
        "Raises:",
        "",
        "- `ValueError`: Never.",
    ]
