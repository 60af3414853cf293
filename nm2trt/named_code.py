"""Python code that a file names: one permission for all of it, and the source files that it comes from."""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from nm2trt.errors import InputError

_LARGEST_BYTES = 1 << 22
_MOST_FILES = 2000
_PACKAGES = {"site-packages", "dist-packages"}


def refuse_code(what: str, *, allowed: bool) -> None:
    """Raise unless the user allowed the code that a file names; every such place calls this first.

    Args:
        what: The code, as the file names it.
        allowed: Whether the user gave `--allow-functions`, or `allow_functions=True`.

    Raises:
        InputError: The user did not.
    """
    if not allowed:
        raise InputError(
            f"it would run Python code, {what}; allow it with --allow-functions, or allow_functions=True, if "
            "you trust it"
        )


def code_files(module: str, folder: Path) -> tuple[Path, ...]:
    """Return the source files of a module and of what it imports from the same place; nothing is run.

    Modules of Python itself and of installed packages are left out. Imports are read from the source, so a
    module that the code picks at run time is not found, nor a file that it opens.

    Args:
        module: `file.py`, below `folder`, or `package.module`, found as Python would find it.
        folder: Folder of `file.py`.
    """
    if module.endswith(".py"):
        entry = folder / module
        roots, waiting = (entry.parent, *_roots()), [entry] if entry.is_file() else []
    else:
        roots = _roots()
        waiting = list(_found(module, roots))
    found: dict[Path, None] = {}
    while waiting and len(found) < _MOST_FILES:
        path = waiting.pop().resolve()
        if path not in found:
            found[path] = None
            waiting += [
                file
                for name in _imports(path, roots)
                for file in _found(name, roots)
                if file.resolve() not in found
            ]
    return tuple(sorted(found))


def _roots() -> tuple[Path, ...]:
    """Return where Python looks for modules, without its own folders and those of installed packages."""
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    folders = dict.fromkeys(Path(entry or ".").resolve() for entry in sys.path)
    return tuple(
        folder
        for folder in folders
        if folder.is_dir() and standard not in (folder, *folder.parents) and not _PACKAGES & {*folder.parts}
    )


def _found(module: str, roots: Iterable[Path]) -> Iterator[Path]:
    """Yield a module's file and those of the packages around it, from the first root that has it."""
    parts = module.split(".")
    if parts[0] == "nm2trt" or not all(part.isidentifier() for part in parts):
        return
    for root in roots:
        files = []
        for depth in range(1, len(parts) + 1):
            base = root.joinpath(*parts[:depth])
            files += [p for p in (base.with_name(f"{base.name}.py"), base / "__init__.py") if p.is_file()]
        if files:
            yield from files
            return


def _imports(path: Path, roots: Iterable[Path]) -> Iterator[str]:
    """Yield the modules that a source file imports, by their full names."""
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            return
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return  # whoever runs it will say so
    root = next((root for root in roots if path.is_relative_to(root)), path.parent)
    package = path.relative_to(root).parent.parts if path.is_relative_to(root) else ()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *filter(None, [node.module])])
            if base:
                yield base
            yield from (".".join(filter(None, [base, alias.name])) for alias in node.names)
