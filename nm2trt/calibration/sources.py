"""Sources of calibration samples: one reader per kind.

A reader is given which samples are wanted only after it has said how many there are, so that a folder of
many images is listed, and only the chosen ones are opened.
"""

from __future__ import annotations

import gzip
import importlib
import io
import math
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.calibration.array_files import read_archive, require_affordable
from nm2trt.calibration.stream import LABELS
from nm2trt.errors import BackendMissingError, DataError, InputError
from nm2trt.extras import names_the_extra
from nm2trt.files import check_input
from nm2trt.limits.bounds import bounds

_IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
# Pillow goes by the content: it would start Ghostscript for a PostScript file of any name.
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_IDX_DTYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


@dataclass(frozen=True, slots=True)
class Reader:
    """A source that has been opened.

    Args:
        length: Samples in it.
        take: Returns the samples at the given positions, by input name.
        labels: What each sample is, samples along axis 0; None if the source does not say. Calibration
            does not look at them.
    """

    length: int
    take: Callable[[Sequence[int]], Arrays]
    labels: Array | None = None

    @classmethod
    def of(cls, arrays: Arrays, what: str, *, labels: Array | None = None) -> Reader:
        """Read from arrays in memory, or mapped from a file.

        Raises:
            DataError: There are none, or their first dimensions differ.
        """
        lengths = {len(array) if array.ndim else -1 for array in arrays.values()}
        if len(lengths) != 1 or -1 in lengths:
            shapes = {name: array.shape for name, array in arrays.items()}
            raise DataError(
                f"{what}: the arrays {shapes} do not have one sample each on their first dimension"
            )
        length = lengths.pop()
        if labels is not None and (labels.ndim == 0 or len(labels) != length):
            raise DataError(f"{what}: the labels have shape {labels.shape} for {length} samples")
        return cls(length, lambda at: {name: array[list(at)] for name, array in arrays.items()}, labels)


def read_arrays(path: Path, names: Sequence[str] | None, input_name: str) -> Reader:
    """Open an `.npz` (every array but labels, or those named) or an `.npy`; never pickled objects.

    Raises:
        InputError: The file is missing, or no such file.
        DataError: A name is not in it, or it holds objects.
    """
    check_input(path, "an .npz or .npy")
    loaded = read_archive(path)
    if isinstance(loaded, np.ndarray):
        return Reader.of({input_name: loaded}, str(path))
    wanted = [name for name in loaded if name not in LABELS] if names is None else list(names)
    missing = [name for name in wanted if name not in loaded]
    if missing:
        raise DataError(f"{path} has no array {missing[0]!r}; it holds {sorted(loaded)}")
    labels = next((array for name, array in loaded.items() if name in LABELS), None)
    return Reader.of({name: loaded[name] for name in wanted}, str(path), labels=labels)


def read_idx(path: Path, input_name: str, *, labels: Path | None = None) -> Reader:
    """Open an IDX file, plain or gzipped, as MNIST and its relatives come.

    Args:
        path: The file of samples.
        input_name: The input's name.
        labels: The file of labels.

    Raises:
        InputError: A file is missing.
        DataError: One is not an IDX file, or is cut short.
    """
    truth = None if labels is None else _idx_array(labels)
    return Reader.of({input_name: _idx_array(path)}, str(path), labels=truth)


def _idx_array(path: Path) -> Array:
    check_input(path, "an IDX")
    try:
        raw = path.read_bytes()
        data = _unpacked(path, raw) if raw[:2] == b"\x1f\x8b" else raw
        zero, code, rank = struct.unpack(">HBB", data[:4])
        if zero or code not in _IDX_DTYPES or not 1 <= rank <= 8:
            raise DataError(f"{path} is not an IDX file: its first bytes are {data[:4].hex()}")
        shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
        dtype = np.dtype(_IDX_DTYPES[code])
        body = data[4 + 4 * rank :]
        if len(body) != math.prod(shape) * dtype.itemsize:
            raise DataError(f"{path} should hold {'x'.join(map(str, shape))} values, and does not")
        array = np.frombuffer(body, dtype=dtype).reshape(shape)
    except (struct.error, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a sound IDX file") from error
    return array.astype(dtype.newbyteorder("="))


def _unpacked(path: Path, raw: bytes) -> bytes:
    most = bounds().sample_bytes + 4 * len(raw)
    with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
        data = file.read(most + 1)
    require_affordable(path, len(data), "its samples")
    return data


def read_images(
    folder: Path, pattern: str, input_name: str, *, colour: bool, resize: int | None, crop: int | None
) -> Reader:
    """List the images of a folder and its subfolders by path; a chosen one is opened when it is taken.

    Args:
        folder: The folder.
        pattern: Glob below it.
        input_name: The input's name.
        colour: RGB, or one grey channel.
        resize: Length of the shorter side; None leaves the size.
        crop: Side of the square cut from the middle; None leaves the shape.

    Raises:
        InputError: The folder is missing, or holds no image.
        BackendMissingError: Pillow is not installed.
    """
    with names_the_extra("PIL"):
        from PIL import Image
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give one with images")
    root = folder.resolve()
    # A link out of the folder would read what the recipe was not given.
    files = sorted(
        path
        for path in folder.glob(pattern)
        if path.suffix.lower() in _IMAGES and path.is_file() and path.resolve().is_relative_to(root)
    )
    if not files:
        raise InputError(f"{folder} holds no image that matches {pattern!r}")

    def one(path: Path) -> Array:
        try:
            with warnings.catch_warnings(), Image.open(path, formats=_FORMATS) as opened:
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = opened.convert("RGB" if colour else "L")
        except Exception as error:  # its decoders raise anything, e.g. SyntaxError and struct.error
            raise DataError(f"{path} cannot be read as an image of {', '.join(_FORMATS)}") from error
        if resize is not None:
            ratio = resize / min(image.size)
            size = (max(resize, round(image.width * ratio)), max(resize, round(image.height * ratio)))
            require_affordable(path, math.prod(size) * (3 if colour else 1), "its pixels after resize")
            image = image.resize(size, Image.Resampling.BILINEAR)
        if crop is not None:
            if min(image.size) < crop:
                raise DataError(
                    f"{path} is {image.width}x{image.height}, too small for crop: {crop}; give resize"
                )
            left, top = (image.width - crop) // 2, (image.height - crop) // 2
            image = image.crop((left, top, left + crop, top + crop))
        return np.asarray(image)

    def take(at: Sequence[int]) -> Arrays:
        images = [one(files[index]) for index in at]
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            raise DataError(f"{folder}: the images have {len(shapes)} different sizes; give resize and crop")
        return {input_name: np.stack(images)}

    return Reader(len(files), take, _folder_labels(files, folder))


def _folder_labels(files: Sequence[Path], folder: Path) -> Array | None:
    """Number the subfolders by name, as ImageNet's are, if every image lies in one."""
    parents = [path.relative_to(folder).parts[:-1] for path in files]
    if not all(parents):
        return None
    classes = {name: index for index, name in enumerate(sorted({parts[0] for parts in parents}))}
    return np.asarray([classes[parts[0]] for parts in parents], dtype=np.int64)


def read_digits(input_name: str) -> Reader:
    """Open scikit-learn's 1,797 handwritten digits, (n, 8, 8), 0..16.

    Raises:
        BackendMissingError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise BackendMissingError("scikit-learn is not installed: pip install scikit-learn") from error
    digits = load_digits()
    return Reader.of({input_name: digits.images}, "scikit-learn digits", labels=digits.target)


def call_function(name: str, arguments: Mapping[str, Any], input_name: str) -> Reader:
    """Call `module:function(**arguments)`, which returns an array or arrays by input name.

    Raises:
        InputError: The function is missing or fails.
        DataError: It returned something else.
    """
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{name!r} names no function that can be imported ({error})") from error
    try:
        result = function(**arguments)
    except Exception as error:
        raise InputError(f"{name} failed: {type(error).__name__}: {error}") from error
    if isinstance(result, np.ndarray):
        result = {input_name: result}
    if not isinstance(result, Mapping) or not all(isinstance(a, np.ndarray) for a in result.values()):
        raise DataError(
            f"{name} returned a {type(result).__name__}; it should return an array, or a dict of them"
        )
    labels = next((array for key, array in result.items() if key in LABELS), None)
    return Reader.of({str(k): a for k, a in result.items() if k not in LABELS}, name, labels=labels)
