"""Run the notebook's cells in order, without Jupyter, and keep what they show.

    python samples/08_notebook/execute.py            # runs it in a temporary folder; the file stays as it is
    python samples/08_notebook/execute.py --write    # and writes the outputs into the notebook

A cell shows what it prints and the value of its last expression, as in Jupyter: text, and HTML if the value
has it.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).with_name("from_model_to_report.ipynb")


def shown(source: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    """Run one cell; return its outputs as a notebook file has them."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": lines(text)})
    if value is not None:
        data = {"text/plain": lines(repr(value))}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = lines(value._repr_html_())
        outputs.append({"data": data, "metadata": {}, "output_type": "display_data"})
    return outputs


def lines(text: str) -> list[str]:
    """Return a text as notebooks store it."""
    return text.splitlines(keepends=True)


def execute(notebook: dict[str, Any], folder: Path) -> None:
    """Run every cell in a folder and put the outputs into the notebook."""
    names: dict[str, Any] = {"__name__": "__main__"}
    before = Path.cwd()
    os.chdir(folder)
    try:
        count = 0
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                count += 1
                cell["outputs"], cell["execution_count"] = shown("".join(cell["source"]), names), count
    finally:
        os.chdir(before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the outputs into the notebook")
    options = parser.parse_args()
    notebook = json.loads(NOTEBOOK.read_text())
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, Path(folder))
    if options.write:
        NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            print("".join(output.get("text") or output["data"]["text/plain"]))


if __name__ == "__main__":
    main()
