"""Check the TensorRT backend's types against TensorRT's own, without TensorRT.

    python tools/trt_typecheck.py [--keep FOLDER]

The stubs come from the package `tensorrt-stubs`, which does not parse as it is published: a parameter is
called `in`, and one without a default follows others with one. They are fetched, put right in a temporary
folder and thrown away. The package's sources are copied there too, with the one change that `trt`, which is
the library's module handed in at run time, becomes the import of it; so mypy knows every call. TensorRT for
RTX shares that code and has no stubs of its own.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STUBS = "tensorrt-stubs==10.13.0.35.1"
CHECKED = ("trt.py", "_trt_shared.py", "_trt_session.py", "_trt_cache.py", "_trt_watch.py", "_trt_words.py")
CONFIG = """[mypy]
strict = True
mypy_path = typings
warn_unused_ignores = False
[mypy-tensorrt,tensorrt.*,tensorrt_bindings,tensorrt_bindings.*,tensorrt_libs]
ignore_errors = True
"""


def main() -> int:
    """Fetch, copy and check; return mypy's status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave stubs and sources there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        make_stubs(folder / "typings")
        make_sources(folder)
        status, report = check(folder)
    print(report, end="")
    return status


def make_stubs(folder: Path) -> None:
    """Fetch the stubs and put right what does not parse."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name, STUBS]
        subprocess.run(command, check=True)
        with zipfile.ZipFile(next(Path(name).glob("*.whl"))) as wheel:
            wheel.extractall(folder)
    path = folder / "tensorrt_bindings" / "tensorrt.pyi"
    text = re.sub(r"\bin: list\[", "in_: list[", path.read_text())
    broken = "power: Weights = None, channel_axis: int"
    text = text.replace(f"{broken})", f"{broken} = ...)")
    path.write_text(text)
    (folder / "tensorrt_libs.pyi").touch()


def make_sources(folder: Path) -> None:
    """Copy the package, `trt` imported where the backend takes it from its library."""
    shutil.copytree(ROOT / "nm2trt", folder / "nm2trt", dirs_exist_ok=True)
    for name in CHECKED:
        path = folder / "nm2trt" / "backends" / name
        path.write_text(imported(path.read_text()))


def imported(source: str) -> str:
    """Return a module's source with every `trt` of a function turned into the import of `tensorrt`."""
    lines = source.splitlines()
    inserted: dict[int, str] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "trt":
            line = node.lineno - 1
            indent = " " * node.col_offset
            lines[line] = f"{indent}import tensorrt as trt"
        elif isinstance(node, ast.FunctionDef) and "trt" in [argument.arg for argument in node.args.args]:
            line = node.lineno - 1
            lines[line] = lines[line].replace("trt: Any", "_trt: Any")
            first = node.body[1] if ast.get_docstring(node) is not None else node.body[0]
            decorators = getattr(first, "decorator_list", [])
            start = min([first.lineno, *(decorator.lineno for decorator in decorators)])
            inserted[start - 1] = " " * first.col_offset + "import tensorrt as trt"
    edited = [
        text for number, line in enumerate(lines) for text in (inserted.get(number), line) if text is not None
    ]
    return "\n".join(edited) + "\n"


def check(folder: Path) -> tuple[int, str]:
    """Run mypy; return its status and report."""
    (folder / "mypy.ini").write_text(CONFIG)
    files = [f"nm2trt/backends/{name}" for name in CHECKED]
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        "mypy.ini",
        "--follow-imports",
        "silent",
        *files,
    ]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout + ran.stderr


if __name__ == "__main__":
    sys.exit(main())
