"""Write docs/reference/python.md from signatures and docstrings; run it again when one of them changes.

python docs/make_api_reference.py            # writes the page
python docs/make_api_reference.py --check    # fails if the page is stale
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nm2trt
from nm2trt import errors

PAGE = Path(__file__).with_name("reference") / "python.md"
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises):$", re.MULTILINE)
ENTRY = re.compile(r"^    ([\w, *]+):\s", re.MULTILINE)
HEAD = """# Python

<!-- this page is not run: its code is signatures -->

Made by `docs/make_api_reference.py` from signatures and docstrings. Everything under [Functions](#functions)
is an attribute of `nm2trt`, loaded at first use: `import nm2trt` alone imports no PyTorch, onnx or TensorRT.
The classes that functions take and return are under [Classes](#classes), the exceptions that they raise under
[Exceptions](#exceptions).
"""


def signature(function: Any) -> str:
    """Return a function's signature, one line if it fits, else one parameter a line."""
    found = inspect.signature(function)
    lines: list[str] = []
    for parameter in found.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in lines:
            lines.append("*")
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        lines.append(f"{parameter.name}: {parameter.annotation}{default}")
    head, tail = f"nm2trt.{function.__name__}(", f") -> {found.return_annotation}"
    short = f"{head}{', '.join(lines)}{tail}"
    return short if len(short) <= 100 else "\n".join([head, *(f"    {line}," for line in lines), tail])


def entries(body: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of each entry of a docstring's section."""
    starts = list(ENTRY.finditer(body))
    ends = [*(match.start() for match in starts[1:]), len(body)]
    for match, end in zip(starts, ends if starts else (), strict=True):
        text = body[match.end() : end]
        yield match[1].strip(), " ".join(text.split())


def prose(docstring: str) -> list[str]:
    """Return a Google docstring as Markdown: paragraphs, then a table or list for each section."""
    parts = SECTION.split(docstring)
    lines = [parts[0].strip()]
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        found = list(entries(body))
        if title in ("Args", "Attributes") and found:
            lines += ["", f"| {'argument' if title == 'Args' else 'attribute'} | |", "|---|---|"]
            lines += ["| `{}` | {} |".format(name, text.replace("|", "\\|")) for name, text in found]
        elif title == "Raises":
            lines += ["", "Raises:", "", *(f"- `{name}`: {text}" for name, text in found)]
        else:
            lines += ["", f"{title}: {' '.join(body.split())}"]
    return lines


def function_part(name: str) -> list[str]:
    """Return the part of one public function."""
    function = getattr(nm2trt, name)
    text = prose(inspect.getdoc(function) or "")
    return ["", f"### {name}", "", "```python", signature(function), "```", "", *text]


def parts(hint: Any) -> Iterator[Any]:
    """Yield a type and those that it is made of."""
    yield hint
    for part in typing.get_args(hint):
        yield from parts(part)


def classes() -> list[type]:
    """Return our classes that signatures of public functions name, in alphabetical order."""
    hints = [
        hint for name in nm2trt._FUNCTIONS for hint in typing.get_type_hints(getattr(nm2trt, name)).values()
    ]
    named = {part for hint in hints for part in parts(hint) if inspect.isclass(part)}
    own = [kind for kind in named if kind.__module__.startswith("nm2trt.")]
    return sorted(own, key=lambda kind: kind.__name__)


def class_part(kind: type) -> list[str]:
    """Return the part of one class: its docstring, its properties and methods."""
    lines = ["", f"### {kind.__name__}", "", f"`from {kind.__module__} import {kind.__name__}`", ""]
    lines += prose(inspect.getdoc(kind) or "")
    for base in kind.__mro__[1:]:
        if dataclasses.is_dataclass(base) and lines[-1].startswith("| "):
            rows = [line for line in prose(inspect.getdoc(base) or "") if line.startswith("| `")]
            lines += [row for row in rows if row.split(" | ")[0] not in {x.split(" | ")[0] for x in lines}]
    members = [(name, value) for name, value in vars(kind).items() if not name.startswith("_")]
    told = []
    for name, value in members:
        text = inspect.getdoc(value) if isinstance(value, property) or inspect.isfunction(value) else None
        if text:
            call = "" if isinstance(value, property) else "()"
            told.append(f"- `{name}{call}`: {' '.join(text.split(chr(10) * 2)[0].split())}")
    return [*lines, *(["", *told] if told else [])]


def exceptions() -> list[str]:
    """Return a table of the exceptions, each with its parent."""
    rows = ["", "| exception | is a | when |", "|---|---|---|"]
    for name in sorted(errors.__all__):
        kind = getattr(errors, name)
        if inspect.isclass(kind):
            text = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
            rows.append(f"| `{name}` | `{kind.__base__.__name__}` | {text} |")
    return rows


def page() -> str:
    """Return the page."""
    names = [name for name in sorted(nm2trt._FUNCTIONS) if name != "__version__"]
    parts = [HEAD.rstrip(), "", "## Functions"]
    for name in names:
        parts += function_part(name)
    parts += ["", "## Classes"]
    for kind in classes():
        parts += class_part(kind)
    parts += [
        "",
        "## Exceptions",
        "",
        "All are in `nm2trt.errors`; `nm2trt.errors.Nm2trtError` catches every one.",
    ]
    return "\n".join([*parts, *exceptions()]) + "\n"


def main() -> int:
    """Write the page, or check it."""
    if "--check" in sys.argv:
        return int(PAGE.read_text() != page())
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
