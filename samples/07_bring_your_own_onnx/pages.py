"""Pages of text in four rotations, drawn here, so that the labels are certain."""

from __future__ import annotations

from importlib.metadata import files
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE, CROP = 256, 224
# English text that every checkout has, and every installation.
LICENSE = Path(__file__).parents[2] / "LICENSE"
if not LICENSE.is_file():
    LICENSE = next(Path(str(p.locate())) for p in files("nm2trt") or () if p.name == "LICENSE")


def pages(count: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return images (n, 3, 224, 224) as the model wants them, and turns: 0, 1, 2, 3 quarters clockwise."""
    random = np.random.default_rng(seed)
    words = [word for word in LICENSE.read_text().split() if word.isalpha()]
    images = []
    for index in range(count):
        page = drawn(words, random).rotate(-90 * (index % 4), expand=True)
        pixels = np.asarray(page, np.float32)
        pixels = np.clip(pixels + random.normal(0, random.uniform(0, 60), pixels.shape), 0, 255)
        images.append(prepared(Image.fromarray(pixels.astype(np.uint8)).convert("RGB")))
    return np.stack(images), np.arange(count) % 4


def drawn(words: list[str], random: np.random.Generator) -> Image.Image:
    """Draw a page of lines of random words."""
    size = int(random.integers(14, 26))
    font = ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
    page = Image.new("L", (600, 800), 255)
    pen = ImageDraw.Draw(page)
    for top in range(30, 760, int(size * 1.6)):
        pen.text((30, top), " ".join(random.choice(words, 9))[: 840 // size], font=font, fill=0)
    return page


def prepared(image: Image.Image) -> npt.NDArray[np.float32]:
    """Scale the shorter side, cut the middle, normalise as for ImageNet; channels first."""
    ratio = SIDE / min(image.size)
    image = image.resize((round(image.width * ratio), round(image.height * ratio)))
    left, top = (image.width - CROP) // 2, (image.height - CROP) // 2
    pixels = np.asarray(image.crop((left, top, left + CROP, top + CROP)), np.float32) / 255
    scaled = (pixels - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))
