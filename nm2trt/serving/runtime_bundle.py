"""The modules of nm2trt that run an `.rtx` plan, to be copied beside it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_ENTRY = "nm2trt.backends.trt_rtx"


def runtime_modules() -> Mapping[str, Path]:
    """Return `nm2trt.backends.trt_rtx` and what it imports of nm2trt: source file by place in a copy."""
    found: dict[str, Path] = {}
    waiting = [_ENTRY]
    while waiting:
        path = _file(waiting.pop())
        if path is None or (target := path.relative_to(_PACKAGE.parent).as_posix()) in found:
            continue
        found[target] = path
        waiting += _imports(path)
        waiting += [".".join(target.split("/")[:depth]) for depth in range(1, target.count("/") + 1)]
    return found


def _file(module: str) -> Path | None:
    base = _PACKAGE.parent.joinpath(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def _imports(path: Path) -> Iterator[str]:
    if path == _PACKAGE / "__init__.py":
        return  # the front door, which names everything and loads it on use
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nm2trt":
            yield str(node.module)
            if path.name != "__init__.py":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "nm2trt")
