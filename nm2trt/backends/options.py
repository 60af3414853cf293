"""Build options as a value, and the parsers of their command-line texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from nm2trt.errors import InputError

Sparsity = Literal["disable", "enable", "force"]

_SPARSITIES = ("disable", "enable", "force")
_SHAPE_FORM = "NAME:SHAPE, as in x:8x3x224x224"
_MOST_EFFORT = 5
_PROFILE_FORM = "NAME:MIN,OPT,MAX, as in x:1x3x224x224,8x3x224x224,32x3x224x224"
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_MAX_BYTES = 1 << 62
_MAX_DIMENSION = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """The shapes that one input may take in one optimisation profile.

    Args:
        input: The input's name.
        min: Smallest shape. A single number stands for the batch of an input whose only dynamic
            dimension is the first.
        opt: Shape that the kernels are chosen for.
        max: Largest shape.

    Raises:
        InputError: The three differ in rank, a size is not positive, or min <= opt <= max does not hold.
    """

    input: str
    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.input:
            raise InputError(f"a profile names no input; write {_PROFILE_FORM}")
        for shape in (self.min, self.opt, self.max):
            if any(not isinstance(size, int) or not 1 <= size <= _MAX_DIMENSION for size in shape):
                raise InputError(
                    f"profile of input {self.input!r}: {format_shape(shape)} has a size that is not positive"
                )
        if not len(self.min) == len(self.opt) == len(self.max):
            raise InputError(
                f"profile of input {self.input!r}: {self} mixes ranks {len(self.min)}, {len(self.opt)} and "
                f"{len(self.max)}; give three shapes of one rank"
            )
        if any(not low <= best <= high for low, best, high in zip(self.min, self.opt, self.max, strict=True)):
            raise InputError(f"profile of input {self.input!r}: {self} is not in the order MIN <= OPT <= MAX")

    def __str__(self) -> str:
        return ",".join(format_shape(shape) for shape in (self.min, self.opt, self.max))

    @classmethod
    def parse(cls, text: str) -> ShapeRange:
        """Read NAME:MIN,OPT,MAX, each a shape such as 1x3x224x224 or a bare batch such as 8.

        The last colon separates, because names such as `input:0` hold one.

        Raises:
            InputError: The text has another form.
        """
        name, colon, shapes = text.rpartition(":")
        parts = shapes.split(",")
        if not colon or not name or len(parts) != 3:
            raise InputError(
                f"{text!r} is not a profile; write {_PROFILE_FORM} or, for a dynamic batch, x:1,8,32"
            )
        low, best, high = (_parse_shape(part, text) for part in parts)
        return cls(name, low, best, high)


# One profile: a range for every input that it fixes.
Profile = tuple[ShapeRange, ...]


@dataclass(frozen=True, slots=True)
class StaticShape:
    """The one shape that an input is fixed to before the build.

    Args:
        input: The input's name.
        shape: Its shape. A single number stands for the batch of an input whose only dynamic dimension is
            the first.

    Raises:
        InputError: The name is missing, or a size is not positive.
    """

    input: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.input:
            raise InputError(f"a shape names no input; write {_SHAPE_FORM}")
        if any(not isinstance(size, int) or not 1 <= size <= _MAX_DIMENSION for size in self.shape):
            raise InputError(f"shape of input {self.input!r}: {format_shape(self.shape)} is not positive")

    @classmethod
    def parse(cls, text: str) -> StaticShape:
        """Read NAME:SHAPE, as in x:8x3x224x224, or x:8 for only the batch.

        Raises:
            InputError: The text has another form.
        """
        name, colon, shape = text.rpartition(":")
        if not colon or not name:
            raise InputError(f"{text!r} is not a shape; write {_SHAPE_FORM} or, for only the batch, x:8")
        return cls(name, _parse_shape(shape, text))


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What to build. A backend refuses what it cannot do (`Backend.check`), it never ignores it.

    Args:
        sparsity: "disable" builds dense; "enable" allows sparse kernels if weights hold 2:4;
            "force" makes the weights 2:4 by magnitude first.
        targets: Compute capabilities, e.g. ("sm80", "sm86"); () leaves the choice to the backend.
        profiles: Optimisation profiles; () gives a dynamic batch 1/8/32.
        workspace_bytes: Most scratch memory that a kernel may use on the device; None leaves it to the
            builder.
        static_shapes: Inputs to fix to one shape; these then need no profile.
        effort: How long the builder searches, 0 to 5; None leaves it to the builder.
        timing_cache: File of kernel timings, read if it is there, and merged with the new ones afterwards.
        tf32: Whether fp32 products may be rounded to TF32.
        strict_nans: Whether NaNs must pass through every layer; it limits sparse kernels.
        plugins: Shared libraries of operators, which are loaded and so run their code.
        library_tactics: Whether TensorRT may use cuBLAS and cuDNN beside its own kernels.

    Raises:
        InputError: A value is out of its range.
    """

    sparsity: Sparsity = "disable"
    targets: tuple[str, ...] = ()
    profiles: tuple[Profile, ...] = ()
    workspace_bytes: int | None = None
    static_shapes: tuple[StaticShape, ...] = ()
    effort: int | None = None
    timing_cache: Path | None = None
    tf32: bool = True
    strict_nans: bool = False
    plugins: tuple[Path, ...] = ()
    library_tactics: bool = True

    def __post_init__(self) -> None:
        if self.sparsity not in _SPARSITIES:
            raise InputError(f"sparsity {self.sparsity!r} is unknown; choose disable, enable or force")
        for target in self.targets:
            if not isinstance(target, str) or not re.fullmatch(r"sm[0-9]{2,3}", target):
                raise InputError(f"{target!r} is not a target; write compute capabilities, as in sm80,sm86")
        if len(set(self.targets)) != len(self.targets):
            raise InputError(f"the targets {','.join(self.targets)} name one twice")
        for profile in self.profiles:
            names = [shapes.input for shapes in profile]
            if len(set(names)) != len(names):
                raise InputError(f"one profile names an input twice: {', '.join(names)}")
        if self.workspace_bytes is not None and not 0 < self.workspace_bytes <= _MAX_BYTES:
            raise InputError(f"a workspace of {self.workspace_bytes} bytes is not possible; try 1G")
        if self.effort is not None and self.effort not in range(_MOST_EFFORT + 1):
            raise InputError(f"an effort of {self.effort} is not possible; choose 0 to {_MOST_EFFORT}")
        fixed = [shape.input for shape in self.static_shapes]
        ranged = [shapes.input for profile in self.profiles for shapes in profile]
        twice = next((name for name in fixed if fixed.count(name) > 1 or name in ranged), None)
        if twice is not None:
            raise InputError(f"the shape of input {twice!r} is given twice; give one shape or profiles")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; of paths, only the file's name."""
        values = asdict(self)
        values["timing_cache"] = None if self.timing_cache is None else self.timing_cache.name
        values["plugins"] = [path.name for path in self.plugins]
        return values

    def asked(self) -> tuple[str, ...]:
        """Return the names of the options that differ from their defaults."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) != field.default)


def parse_targets(text: str) -> tuple[str, ...]:
    """Read compute capabilities: "sm80,sm86", or the same as 8.0 or sm_80.

    Raises:
        InputError: A part has another form, or one is named twice.
    """
    targets = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(?:sm_?)?([0-9]{1,2})\.?([0-9])\s*", part, re.IGNORECASE)
        if match is None:
            raise InputError(f"{part.strip()!r} is not a target; write compute capabilities, as in sm80,sm86")
        targets.append(f"sm{match[1]}{match[2]}")
    return BuildOptions(targets=tuple(targets)).targets


def parse_profiles(texts: Sequence[str]) -> tuple[Profile, ...]:
    """Read profiles, one text per input; an input that is named again begins the next profile.

    Raises:
        InputError: A text is not NAME:MIN,OPT,MAX.
    """
    profiles: list[list[ShapeRange]] = []
    for text in texts:
        shapes = ShapeRange.parse(text)
        if not profiles or any(known.input == shapes.input for known in profiles[-1]):
            profiles.append([])
        profiles[-1].append(shapes)
    return tuple(tuple(profile) for profile in profiles)


def parse_static_shapes(texts: Sequence[str]) -> tuple[StaticShape, ...]:
    """Read shapes, one text per input.

    Raises:
        InputError: A text is not NAME:SHAPE, or an input is named twice.
    """
    return BuildOptions(static_shapes=tuple(StaticShape.parse(text) for text in texts)).static_shapes


def parse_size(text: str) -> int:
    """Read a size in bytes: 512M, 2G and 1GiB count in powers of 1024, 500MB in powers of 1000.

    Raises:
        InputError: The text is not a positive size.
    """
    match = re.fullmatch(r"\s*([0-9]{1,19}(?:\.[0-9]{1,6})?)\s*([KMGT]?)(I?B)?\s*", text.upper())
    base = 1000 if match and match[2] and match[3] == "B" else 1024
    size = int(float(match[1]) * base ** _UNITS[match[2]]) if match else 0
    if match is None or (match[3] == "IB" and not match[2]) or not 0 < size <= _MAX_BYTES:
        raise InputError(
            f"{text!r} is not a size; write a number of bytes with a unit, as in 512M, 2G or 1GiB"
        )
    return size


def format_shape(shape: Sequence[int | str | None]) -> str:
    """Write a shape as 1x3x224x224; a free dimension by its name, or as "?"."""
    return "x".join("?" if size is None else str(size) for size in shape)


def _parse_shape(part: str, text: str) -> tuple[int, ...]:
    sizes = part.strip().lower().split("x")
    if not all(re.fullmatch(r"[0-9]{1,10}", size) for size in sizes):
        raise InputError(f"{part.strip()!r} in {text!r} is not a shape; write it as 1x3x224x224")
    return tuple(int(size) for size in sizes)
