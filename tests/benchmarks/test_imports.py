"""Benchmarks run seldom: what they take from the package, also in code that they pass to a process, is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
IMPORT = re.compile(r"from (nm2trt[\w.]*) import (\([^)]*\)|[\w, ]+)")


def names_in(module):
    """Return the names that a module defines or imports at its top, by its source."""
    path = ROOT.joinpath(*module.split("."))
    source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    names = {child.stem for child in path.glob("*")} if path.is_dir() else set()
    tree = ast.parse(source.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(script):
    missing = []
    for module, listed in IMPORT.findall(script.read_text(encoding="utf-8")):
        wanted = {word.split(" as ")[0].strip() for word in listed.strip("()").split(",") if word.strip()}
        missing += [f"{module}.{name}" for name in sorted(wanted - names_in(module))]
    assert not missing
