"""Calibration recipes: a YAML file that says which samples to take, how many, and how to prepare them.

    source: {kind: images, path: pictures}
    count: 256
    seed: 0
    preprocess: {resize: 256, crop: 224, divide: 255, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}

Paths are relative to the recipe and stay below its folder, unless the caller names another `data_root`. A
recipe is data: nothing in it is run, except a `function` source, which the caller must allow.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from nm2trt.arrays import Array
from nm2trt.calibration import sources
from nm2trt.calibration.sample_set import SampleSet
from nm2trt.calibration.sources import Reader
from nm2trt.calibration.strict import Strict, validated
from nm2trt.calibration.yaml_file import read_yaml
from nm2trt.errors import DataError
from nm2trt.figures import counted
from nm2trt.files import within
from nm2trt.named_code import refuse_code

# As floats of Python's own: numpy would round what is compared with them, and warn.
_LARGEST, _SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).smallest_subnormal)
_MOST_STARS = 3  # each `**` multiplies the ways to match a path


class ArraySource(Strict):
    """Arrays in an `.npz` or `.npy`; labels are left out."""

    kind: Literal["npz", "npy"]
    path: str
    arrays: list[str] | None = None


class IdxSource(Strict):
    """An IDX file, plain or gzipped, and the file of its labels, which validation needs."""

    kind: Literal["idx"]
    path: str
    labels: str | None = None


class ImageSource(Strict):
    """A folder of images, subfolders included."""

    kind: Literal["images"]
    path: str
    pattern: str = "**/*"
    colour: bool = True

    @field_validator("pattern")
    @classmethod
    def _stays_below(cls, value: str) -> str:
        if ".." in value.split("/") or value.startswith("/"):
            raise ValueError("the pattern leaves the folder")
        if value.count("**") > _MOST_STARS:
            raise ValueError(f"the pattern has more than {_MOST_STARS} parts `**`")
        return value


class DigitsSource(Strict):
    """scikit-learn's handwritten digits."""

    kind: Literal["digits"]


class FunctionSource(Strict):
    """`module:function`, called with `arguments`; it returns an array or arrays by input name."""

    kind: Literal["function"]
    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    arguments: dict[str, str | int | float | bool | None] = Field(default_factory=dict)


Source = Annotated[
    ArraySource | IdxSource | ImageSource | DigitsSource | FunctionSource, Field(discriminator="kind")
]


class Preprocess(Strict):
    """What is done to each sample, in this order.

    `resize` (shorter side) and `crop` (centre square) are for image folders. Then the values are divided,
    `mean` is taken off and the rest divided by `std`, one number or one per channel (the last dimension);
    `layout: nchw` moves channels to the front, and gives (n, h, w) a channel of one.
    """

    resize: int | None = Field(default=None, ge=1)
    crop: int | None = Field(default=None, ge=1)
    divide: float | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    layout: Literal["nchw", "as-is"] = "as-is"
    dtype: Literal["float32", "float16", "int64", "int32", "uint8"] | None = None

    @field_validator("mean", "std", "divide")
    @classmethod
    def _fits(cls, value: list[float] | float | None, info: ValidationInfo) -> list[float] | float | None:
        numbers = value if isinstance(value, list) else [] if value is None else [value]
        if not all(abs(number) <= _LARGEST for number in numbers):
            raise ValueError("a number is too large for float32")
        if info.field_name != "mean" and not all(number >= _SMALLEST for number in numbers):
            what = "every standard deviation" if isinstance(value, list) else "the divisor"
            raise ValueError(f"{what} must be positive, and not too small for float32")
        return value


class CalibrationRecipe(Strict):
    """One recipe.

    `range` bounds the samples to choose from by position, which keeps calibration and evaluation apart.
    `sha256` is the hash that the chosen samples must have.
    """

    source: Source
    count: int = Field(ge=1)
    seed: int = Field(default=0, ge=0)
    batch: int = Field(default=32, ge=1)
    input: str = "input"
    range: list[int] | None = Field(default=None, min_length=2, max_length=2)
    preprocess: Preprocess = Preprocess()
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


def read_recipe(path: str | os.PathLike[str]) -> CalibrationRecipe:
    """Read a recipe without opening its source.

    Raises:
        InputError: It is missing, no YAML, or has a wrong key or value.
    """
    return validated(CalibrationRecipe, read_yaml(path), path)


@dataclass(frozen=True, slots=True)
class OpenRecipe:
    """A recipe whose samples are chosen and not yet read.

    Args:
        path: The YAML file.
        recipe: What it says.
        reader: Its source.
        at: Positions of the chosen samples in the source.
    """

    path: Path
    recipe: CalibrationRecipe
    reader: Reader
    at: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.at)

    def read(self, start: int, stop: int) -> dict[str, Array]:
        """Return the prepared samples from `start` up to `stop`, by input name."""
        taken = self.reader.take(self.at[start:stop])
        return {name: _prepared(array, self.recipe.preprocess, self.path) for name, array in taken.items()}

    def labels(self, start: int, stop: int) -> Array | None:
        """Return their labels, or None if the source has none."""
        return None if self.reader.labels is None else self.reader.labels[list(self.at[start:stop])]

    def check_hash(self, sha256: str) -> None:
        """Raise DataError when the samples have another hash than the recipe says."""
        if self.recipe.sha256 is not None and sha256 != self.recipe.sha256:
            raise DataError(
                f"{self.path}: the samples have the hash {sha256}, not the {self.recipe.sha256} that the "
                "recipe names; the source, or a library that decodes it, has changed"
            )


def load_recipe(
    path: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
) -> SampleSet:
    """Choose, read and prepare the samples of a recipe.

    Args:
        path: The YAML file.
        data_root: Folder that the recipe's paths are relative to and may not leave; its own by default.
        allow_functions: Run a `function` source, which is code.

    Raises:
        InputError: The recipe or its source is missing or wrong, or a path leaves its folder.
        DataError: The samples are too few, do not fit together, or have another hash than the recipe says.
    """
    opened = open_recipe(path, data_root=data_root, allow_functions=allow_functions)
    source = f"{opened.path} ({opened.recipe.source.kind})"
    samples = SampleSet(opened.read(0, len(opened)), opened.at, source, opened.recipe.batch)
    opened.check_hash(samples.sha256)
    return samples


def open_recipe(
    path: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
) -> OpenRecipe:
    """Choose the samples of a recipe, to be read in pieces; see `load_recipe`. Their hash is not checked.

    Raises:
        InputError: As `load_recipe`.
        DataError: The samples are too few, or do not fit together.
    """
    path = Path(path)
    recipe = read_recipe(path)
    root = path.resolve().parent if data_root is None else Path(data_root)
    reader = _open(recipe, root, allow_functions=allow_functions)
    return OpenRecipe(path, recipe, reader, tuple(_chosen(recipe, reader.length, path)))


def _open(recipe: CalibrationRecipe, root: Path, *, allow_functions: bool) -> Reader:
    source = recipe.source
    if isinstance(source, DigitsSource):
        return sources.read_digits(recipe.input)
    if isinstance(source, FunctionSource):
        refuse_code(source.function, allowed=allow_functions)
        return sources.call_function(source.function, source.arguments, recipe.input)
    path = within(root, source.path)
    if isinstance(source, IdxSource):
        labels = None if source.labels is None else within(root, source.labels)
        return sources.read_idx(path, recipe.input, labels=labels)
    if isinstance(source, ImageSource):
        prepare = recipe.preprocess
        return sources.read_images(
            path,
            source.pattern,
            recipe.input,
            colour=source.colour,
            resize=prepare.resize,
            crop=prepare.crop,
        )
    return sources.read_arrays(path, source.arrays, recipe.input)


def _chosen(recipe: CalibrationRecipe, length: int, path: Path) -> list[int]:
    """Draw positions without replacement; in ascending order, so that reading is sequential."""
    start, stop = recipe.range or (0, length)
    if not 0 <= start < stop <= length:
        raise DataError(
            f"{path}: range: {[start, stop]} does not lie in the {counted(length, 'sample')} of the source"
        )
    if recipe.count > stop - start:
        raise DataError(
            f"{path}: count: {recipe.count} is more than the {counted(stop - start, 'sample')} of the source"
        )
    picked = np.random.default_rng(recipe.seed).choice(stop - start, size=recipe.count, replace=False)
    return [int(index) + start for index in np.sort(picked)]


def _prepared(array: Array, prepare: Preprocess, path: Path) -> Array:
    arithmetic = prepare.divide is not None or prepare.mean is not None or prepare.std is not None
    if arithmetic:
        array = array.astype(np.float32)
    if prepare.layout == "nchw" and array.ndim == 3:
        array = array[..., None]
    if prepare.divide is not None:
        array = array / np.float32(prepare.divide)
    for what, values in (("mean", prepare.mean), ("std", prepare.std)):
        if values is None:
            continue
        if len(values) not in (1, array.shape[-1]):
            raise DataError(
                f"{path}: {what} has {counted(len(values), 'value')}, the samples "
                f"{counted(array.shape[-1], 'channel')} on the "
                "last axis"
            )
        numbers = np.asarray(values, dtype=np.float32)
        array = array - numbers if what == "mean" else array / numbers
    if prepare.layout == "nchw":
        if array.ndim != 4:
            raise DataError(f"{path}: layout: nchw needs images, the samples have shape {array.shape[1:]}")
        array = np.moveaxis(array, -1, 1)
    if prepare.dtype is not None:
        array = array.astype(prepare.dtype)
    return np.ascontiguousarray(array)
