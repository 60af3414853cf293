"""The sample's images: handwritten digits from scikit-learn, or Fashion-MNIST from its four IDX files."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"


@dataclass(frozen=True)
class Images:
    """Float32 images (n, 1, height, width), standardised, and their classes (n,), split once and for all."""

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def digits() -> Images:
    """1,797 digits of 8 x 8 pixels; 1,400 train and 397 test, every class in proportion."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=397, random_state=0, stratify=labels
    )
    return _standardised("digits", train_x, train_y, test_x, test_y)


def fashion_mnist(folder: Path) -> Images:
    """60,000 training and 10,000 test images of 28 x 28 pixels."""
    arrays = [
        read_idx(folder, f"{part}-{kind}")
        for part in ("train", "t10k")
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    ]
    train_x, train_y, test_x, test_y = arrays
    return _standardised("fashion-mnist", train_x[:, None], train_y, test_x[:, None], test_y)


def read_idx(folder: Path, name: str) -> np.ndarray:
    """Read one IDX file, plain or gzipped: 0, 0, 8 for bytes, rank, big-endian sizes, elements."""
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise SystemExit(
            f"{folder / name}[.gz] does not exist; install the Debian package dataset-fashion-mnist, "
            f"which puts it into {DEBIAN_FOLDER}, or name the folder of the four IDX files with --data-dir"
        )
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zero, kind, rank = struct.unpack_from(">HBB", content)
        if (zero, kind) != (0, 8):
            raise ValueError("its first bytes are not those of an IDX file of bytes")
        sizes = struct.unpack_from(f">{rank}I", content, 4)
        elements = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
        return elements.reshape(sizes)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise SystemExit(f"{path} is not a sound IDX file: {error}") from error


def _standardised(name: str, *arrays: np.ndarray) -> Images:
    train_x, train_y, test_x, test_y = arrays
    mean, deviation = float(train_x.mean()), float(train_x.std())
    x = [torch.from_numpy(((a - mean) / deviation).astype(np.float32)) for a in (train_x, test_x)]
    y = [torch.from_numpy(a.astype(np.int64)) for a in (train_y, test_y)]
    return Images(name, x[0], y[0], x[1], y[1])
