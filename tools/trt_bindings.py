"""Check the TensorRT backend against the Python bindings of several TensorRT releases, without any of them.

    git clone https://github.com/NVIDIA/TensorRT
    python tools/trt_bindings.py TensorRT [v8.6.0 v10.0.0 v10.13.0 v11.1]

NVIDIA publishes the bindings' source (python/src, C++). Their classes, methods and enumerators are read from
it at each tag and written as stubs of names into a temporary folder; mypy then says which name the backend
uses that a release lacks. Arguments and return types are checked by `trt_typecheck.py` against 10.13 alone.
What is guarded in the code, because a release is known to lack it, stands in `GUARDED`.
"""

from __future__ import annotations

import argparse
import keyword
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import trt_typecheck

TAGS = ("v8.6.0", "v10.0.0", "v10.13.0", "v11.1")
# Last major version of which a release lacks them -> names that the backend asks for only if they are there,
# and the guard's place.
GUARDED = {
    10: {"STRICT_NANS": "_trt_shared.check"},
    8: {
        "IProgressMonitor": "VersionRow.progress",
        "progress_monitor": "VersionRow.progress",
        "node_operator": "parser_failure",
        "node_name": "parser_failure",
    },
}
_BEGIN = re.compile(
    r"py::(?P<kind>class_|enum_)<(?P<arguments>[^;]{1,300}?)>\s*(?:\w+\s*)?[({]\s*m\s*,\s*\"(?P<name>\w+)\"",
    re.DOTALL,
)
_MEMBER = re.compile(r"\.(?:def\w*|value)\(\s*\"(?P<name>\w+)\"")


def main() -> int:
    """Check every release; return 1 if one lacks a name that is not guarded."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clone", type=Path, help="a clone of NVIDIA/TensorRT, with its tags")
    parser.add_argument("tags", nargs="*", default=TAGS)
    arguments = parser.parse_args()
    missing = {tag: check(arguments.clone, tag) for tag in arguments.tags}
    for tag, lines in missing.items():
        print(f"{tag}: {'every name is there' if not lines else f'{len(lines)} names are not there'}")
        print("".join(f"  {line}\n" for line in lines), end="")
    return int(any(missing.values()))


def check(clone: Path, tag: str) -> list[str]:
    """Return mypy's sentences on names that a release lacks."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "typings").mkdir()
        (folder / "typings" / "tensorrt.pyi").write_text(stub(read(sources(clone, tag))))
        trt_typecheck.make_sources(folder)
        _, report = trt_typecheck.check(folder)
    major = re.match(r"v?(\d+)", tag)
    return unguarded(report, int(major[1]) if major else 0)


def sources(clone: Path, tag: str) -> list[str]:
    """Return the texts of the bindings' C++ files at a tag."""
    names = _git(clone, "ls-tree", "-r", "--name-only", tag, "python/src").split()
    return [_git(clone, "show", f"{tag}:{name}") for name in names if name.endswith(".cpp")]


def read(texts: list[str]) -> dict[str, tuple[list[str], set[str]]]:
    """Return by class or enumeration its bases and its members' names."""
    found: dict[str, tuple[list[str], set[str]]] = {}
    python_name: dict[str, str] = {}
    members: defaultdict[str, set[str]] = defaultdict(set)
    bases: dict[str, list[str]] = {}
    for text in texts:
        begins = list(_BEGIN.finditer(text))
        ends = [*(begin.start() for begin in begins), len(text)][1:]
        for begin, end in zip(begins, ends, strict=False):
            body = text[begin.end() : end]
            own, *above = re.split(r"\s*,\s*", begin["arguments"].strip())
            python_name[own] = begin["name"]
            bases[begin["name"]] = above
            members[begin["name"]] |= {member["name"] for member in _MEMBER.finditer(body)}
    for name, names in members.items():
        above = [python_name[base] for base in bases[name] if python_name.get(base, name) != name]
        found[name] = (above, names)
    return found


def stub(classes: dict[str, tuple[list[str], set[str]]]) -> str:
    """Return a stub in which every known name is anything, and every other one is an error."""
    lines = ["from typing import Any", "__version__: str"]
    for name, (bases, members) in classes.items():
        lines.append(f"class {name}({', '.join(bases)}):")
        lines.append("    def __init__(self, *given: Any, **more: Any) -> None: ...")
        lines.append("    def __int__(self) -> int: ...")
        lines.append("    def __getitem__(self, index: Any) -> Any: ...")
        lines.append("    def __len__(self) -> int: ...")
        lines.append("    __members__: dict[str, Any]")
        usable = (m for m in sorted(members) if not keyword.iskeyword(m) and not m.startswith("__"))
        lines += [f"    {member}: Any" for member in usable]
    return "\n".join(lines) + "\n"


def unguarded(report: str, major: int) -> list[str]:
    """Return the lines of mypy's report on names that are not there, without those that the code guards."""
    absent = [line for line in report.splitlines() if "[attr-defined]" in line or "[name-defined]" in line]
    known = {name for least, names in GUARDED.items() if major <= least for name in names}
    return [line for line in absent if not any(f'"{name}"' in line or f".{name}" in line for name in known)]


def _git(clone: Path, *words: str) -> str:
    command = ["git", "-C", str(clone), *words]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
