"""Draw docs/images: the pipeline with what each stage hands on, and the units of the package by level.

PYTHONPATH=. python docs/make_drawings.py            # draws both; run it again when a unit comes or goes
PYTHONPATH=. python docs/make_drawings.py --check    # fails if a drawing is stale

The levels are those that `tests/test_layering.py` holds the imports to.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]
IMAGES = Path(__file__).with_name("images")
INK, FRAME, FILL, SOFT = "#1b3a3a", "#00796b", "#e0f2f1", "#607d7d"

# Stage, its commands, what it hands on.
STAGES = (
    ("PyTorch", ("sparsify", "export"), "ONNX, with its plan"),
    ("ONNX", ("fuse, permute, prune", "cast, quantize"), "ONNX, lineage kept"),
    ("proof of the file", ("verify", "explain, gain"), "a verdict per weight"),
    ("engine", ("build", "prove"), "engine and manifest"),
    ("measurement", ("validate", "bench, infer"), "accuracy, latency"),
    ("Triton", ("deploy, serve", "probe, rollback"), "answers, checked"),
)


def levels() -> list[list[str]]:
    """Return the units by level, the lowest first, as `tests/test_layering.py` lists them."""
    tree = ast.parse((ROOT / "tests" / "test_layering.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "LEVELS":
            return [sorted(units) for units in ast.literal_eval(node.value)]
    raise ValueError("tests/test_layering.py has no LEVELS")


def text(x: float, y: float, words: str, *, size: int = 13, weight: str = "normal", colour: str = INK) -> str:
    """Return centred words."""
    font = f'font-family="sans-serif" font-size="{size}" font-weight="{weight}" fill="{colour}"'
    return f'<text x="{x:g}" y="{y:g}" text-anchor="middle" {font}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str = FILL) -> str:
    """Return a box with round corners."""
    shape = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"'
    return f'{shape} fill="{fill}" stroke="{FRAME}"/>'


def svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """Return a drawing on white, so that it reads on a dark page too."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    ground = f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", ground, *parts, "</svg>"]) + "\n"


def pipeline() -> str:
    """Draw the stages from left to right in two rows, with what each hands on."""
    parts, wide, high = [], 210, 92
    for number, (name, commands, result) in enumerate(STAGES):
        column, row = number % 3, number // 3
        x, y = 30 + column * (wide + 90), 30 + row * (high + 78)
        parts += [box(x, y, wide, high), text(x + wide / 2, y + 24, name, size=15, weight="bold")]
        parts += [text(x + wide / 2, y + 48 + 20 * at, line) for at, line in enumerate(commands)]
        parts.append(text(x + wide / 2, y + high + 19, result, size=12, colour=SOFT))
        if column < 2:
            parts.append(arrow(x + wide + 10, y + high / 2, x + wide + 80))
    turn = f"M {30 + 2 * 300 + 105} {30 + high + 28} v 14 H {30 + 105} v 20"
    parts.append(f'<path d="{turn}" fill="none" stroke="{FRAME}" stroke-width="2"/>')
    parts.append(f'<path d="M 130 {30 + high + 60} l 10 0 l -5 9 z" fill="{FRAME}"/>')
    return svg(870, 330, "The stages of nm2trt and what each hands on", parts)


def arrow(x: float, y: float, end: float) -> str:
    """Return an arrow to the right."""
    line = f'<path d="M {x:g} {y:g} H {end - 8:g}" stroke="{FRAME}" stroke-width="2"/>'
    return f'{line}<path d="M {end - 9:g} {y - 5:g} l 9 5 l -9 5 z" fill="{FRAME}"/>'


def units() -> str:
    """Draw the units by level: each may import what lies below it, and nothing beside it."""
    parts, high, gap, width = [], 38, 16, 870
    rows = [row for row in reversed(levels()) if row != ["__main__"]]
    for number, row in enumerate(rows):
        y, space = 46 + number * (high + gap), 12
        wide = min(180.0, (width - 60 - space * (len(row) - 1)) / len(row))
        x = (width - wide * len(row) - space * (len(row) - 1)) / 2
        for unit in row:
            parts.append(box(x, y, wide, high, FILL if (ROOT / "nm2trt" / unit).is_dir() else "#ffffff"))
            parts.append(text(x + wide / 2, y + 24, unit, size=12 if len(unit) * 7.5 < wide else 10))
            x += wide + space
    parts.insert(
        0, text(width / 2, 26, "imports go down only; filled: a folder, white: one module", colour=SOFT)
    )
    return svg(width, 62 + len(rows) * (high + gap), "The units of nm2trt by level of import", parts)


DRAWINGS = {IMAGES / "pipeline.svg": pipeline, IMAGES / "units.svg": units}


def main() -> int:
    """Draw, or check."""
    if "--check" in sys.argv:
        return int(any(path.read_text() != draw() for path, draw in DRAWINGS.items()))
    IMAGES.mkdir(exist_ok=True)
    for path, draw in DRAWINGS.items():
        path.write_text(draw())
    return 0


if __name__ == "__main__":
    sys.exit(main())
