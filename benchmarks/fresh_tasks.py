"""Two more published networks, which nothing here was tuned on.

    pip download --no-deps -d ARCHIVES magika==1.0.3 rapidocr==3.10.0

File types are those of the files that this Python and its packages consist of, by their endings: a machine
has its own, so figures differ between machines by a little. Text pages are drawn; a line counts as found if
a box of the network and the drawn one overlap in more than half of what both cover.
"""

from __future__ import annotations

import hashlib
import json
import site
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from accuracy_tasks import font, member
from PIL import Image, ImageDraw
from reconstruct_tasks import Array, Run, Task, vocabulary
from scipy import ndimage

__all__ = ["FRESH"]

# Endings whose files are of one type; the right-hand side is Magika's label.
ENDINGS = {
    ".c": "c", ".cpp": "cpp", ".css": "css", ".csv": "csv", ".cu": "cpp", ".gz": "gzip", ".html": "html",
    ".ini": "ini", ".js": "javascript", ".json": "json", ".md": "markdown", ".npy": "npy", ".npz": "npz",
    ".onnx": "onnx", ".pdf": "pdf", ".png": "png", ".py": "python", ".pyc": "pythonbytecode", ".rst": "rst",
    ".sh": "shell", ".so": "elf", ".svg": "svg", ".toml": "toml", ".ttf": "ttf", ".xml": "xml",
    ".yaml": "yaml", ".yml": "yaml", ".zip": "zip", ".whl": "zip", ".pl": "perl", ".pm": "perl",
    ".po": "po", ".s": "asm", ".tcl": "tcl", ".awk": "awk", ".cmake": "cmake",
}  # fmt: skip
PER_TYPE, WINDOW, BLOCK, NOTHING = 24, 1024, 4096, 256
SIDE = 320


def ending_files() -> Iterator[tuple[Path, str]]:
    """Yield files of this Python, its packages and /usr/share, in order, with their labels."""
    roots = [sysconfig.get_path("stdlib"), *site.getsitepackages(), "/usr/include", "/usr/share", "/usr/lib"]
    roots += [entry for entry in sys.path if entry.endswith("site-packages")]
    for root in dict.fromkeys(roots):
        for path in sorted(Path(root).rglob("*")):
            label = ENDINGS.get(path.suffix)
            if label and not path.is_symlink() and path.is_file():
                yield path, label


def windows(content: bytes) -> list[int]:
    """Return what Magika looks at: 1,024 bytes from the first and from the last text, padded."""
    first, last = content[:BLOCK].lstrip(), content[-BLOCK:].rstrip()
    if len(content) <= BLOCK:
        first, last = first.rstrip(), last.lstrip()
    begin, end = list(first[:WINDOW]), list(last[-WINDOW:])
    return [
        *begin, *[NOTHING] * (WINDOW - len(begin)),
        *[NOTHING] * (WINDOW - len(end)), *end,
    ]  # fmt: skip


def file_types() -> dict[int, tuple[Array, list[str]]]:
    """Return inputs and labels of two halves of files; the hash of a file's content says which half."""
    found: dict[int, dict[str, list[list[int]]]] = {0: defaultdict(list), 1: defaultdict(list)}
    seen = set()
    for path, label in ending_files():
        if all(len(half[label]) >= PER_TYPE for half in found.values()):
            continue
        content = path.read_bytes()
        digest = hashlib.sha256(content).digest()
        half = found[digest[0] % 2][label]
        if len(content.strip()) < 64 or digest in seen or len(half) >= PER_TYPE:
            continue
        seen.add(digest)
        half.append(windows(content))
    return {
        half: (
            np.array([row for rows in by_label.values() for row in rows], np.int32),
            [label for label, rows in by_label.items() for _ in rows],
        )
        for half, by_label in found.items()
    }


def magika(archives: Path, folder: Path) -> Task:
    path = folder / "magika.onnx"
    path.write_bytes(member(archives, "magika", "magika/models/standard_v3_3/model.onnx"))
    settings = json.loads(member(archives, "magika", "magika/models/standard_v3_3/config.min.json"))
    space = settings["target_labels_space"]
    halves = file_types()
    inputs, labels = halves[1]
    wanted = np.array([space.index(label) for label in labels])

    def calibration(count: int, draw: int) -> dict[str, Array]:
        rows = halves[0][0]
        picked = np.random.default_rng(draw).choice(len(rows), min(count, len(rows)), replace=False)
        return {"bytes": rows[picked]}

    def score(run: Run, dense: Run) -> dict[str, float]:
        mine, theirs = run({"bytes": inputs}).argmax(1), dense({"bytes": inputs}).argmax(1)
        return {
            "top-1 %": 100 * float((mine == wanted).mean()),
            "agreement %": 100 * float((mine == theirs).mean()),
        }

    return Task("Magika file types", path, 256, calibration, score, {}, 300)


def text_page(random: np.random.Generator, words: list[str]) -> tuple[Array, list[tuple[float, ...]]]:
    """Draw a noisy page of some text lines, (3, side, side), and the lines' boxes."""
    page = Image.new("RGB", (SIDE, SIDE), tuple(int(v) for v in random.integers(170, 256, 3)))
    draw, boxes, top = ImageDraw.Draw(page), [], int(random.integers(8, 40))
    while True:
        size = int(random.integers(12, 30))
        if top + 2 * size > SIDE:
            break
        kind = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral")[int(random.integers(4))]
        text = " ".join(words[i] for i in random.integers(0, len(words), int(random.integers(1, 4))))
        left = int(random.integers(8, 90))
        box = draw.textbbox((left, top), text, font=font(size, kind))
        if box[2] < SIDE - 8:
            ink = tuple(int(v) for v in random.integers(0, 100, 3))
            draw.text((left, top), text, font=font(size, kind), fill=ink)
            boxes.append(box)
        top += int(size * random.uniform(1.7, 3.0))
    pixels = np.asarray(page, np.float32) + random.normal(0, random.uniform(0, 30), (SIDE, SIDE, 3))
    return (np.clip(pixels, 0, 255).transpose(2, 0, 1) / 255 - 0.5) / 0.5, boxes


def text_pages(count: int, seed: int, half: int) -> tuple[Array, list[list[tuple[float, ...]]]]:
    random, words = np.random.default_rng(seed), vocabulary(half)
    drawn = [text_page(random, words) for _ in range(count)]
    return np.stack([page for page, _ in drawn]).astype(np.float32), [boxes for _, boxes in drawn]


def found_boxes(chances: Array) -> list[tuple[float, ...]]:
    """Return boxes of a page's map of text, widened as the network's own post-processing does."""
    labels, _ = ndimage.label(chances > 0.3)
    boxes = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        inside = chances[rows, columns][labels[rows, columns] == number]
        wide, high = columns.stop - columns.start, rows.stop - rows.start
        if min(wide, high) < 3 or inside.mean() < 0.5:
            continue
        by = 1.6 * wide * high / (2 * (wide + high))
        boxes.append((columns.start - by, rows.start - by, columns.stop + by, rows.stop + by))
    return boxes


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0) * max(high, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def lines_f1(maps: Array, wanted: list[list[tuple[float, ...]]]) -> float:
    right = found = 0
    for chances, boxes in zip(maps[:, 0], wanted, strict=True):
        mine = found_boxes(chances)
        found += len(mine)
        right += sum(any(overlap(box, other) > 0.5 for other in mine) for box in boxes)
    return 2 * right / max(found + sum(map(len, wanted)), 1)


def detection(archives: Path, folder: Path) -> Task:
    path = folder / "detection.onnx"
    path.write_bytes(member(archives, "rapidocr", "rapidocr/models/PP-OCRv6_det_small.onnx"))
    pages, boxes = text_pages(100, 1, half=1)

    def score(run: Run, dense: Run) -> dict[str, float]:
        mine, theirs = run({"x": pages}), dense({"x": pages})
        return {
            "lines F1 %": 100 * lines_f1(mine, boxes),
            "text pixels, IoU with dense %": 100
            * float(((mine > 0.3) & (theirs > 0.3)).sum() / ((mine > 0.3) | (theirs > 0.3)).sum()),
        }

    return Task(
        "PP-OCRv6 detection",
        path,
        96,
        lambda count, draw: {"x": text_pages(count, 100 + draw, half=0)[0]},
        score,
        {},
        300,
    )


FRESH: dict[str, Callable[[Path, Path], Task]] = {
    "magika": magika,
    "detection": detection,
}
