"""Optimisation profiles: the shapes that an engine is built for, checked and completed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nm2trt.backends.options import Profile, ShapeRange, StaticShape, format_shape
from nm2trt.backends.protocol import TensorSpec
from nm2trt.errors import InputError

# Smallest, optimal and largest size of a free dimension.
Range = tuple[int, int, int]
# The batch of a model of which only the first dimension is free.
DEFAULT_BATCH: Range = (1, 8, 32)
# What is guessed of any other free dimension.
_OTHER_SIZES: Range = (64, 128, 256)


def resolve_profiles(
    inputs: tuple[TensorSpec, ...], profiles: tuple[Profile, ...], fixed: Mapping[str, int] | None = None
) -> tuple[tuple[Profile, ...], tuple[str, ...]]:
    """Return complete profiles for a model's dynamic inputs, and what the user should be told.

    Args:
        inputs: The model's inputs.
        profiles: What was asked for; () gives a dynamic batch `DEFAULT_BATCH`.
        fixed: Sizes by their name in the model, of inputs that were fixed to one shape.

    Returns:
        The profiles, each with one full-rank range for every dynamic input, () for a static model; and
        one sentence for every choice that was made for the user.

    Raises:
        InputError: A profile names no input, has the wrong rank or sizes, gives sizes of one name two
            ranges, or leaves a dynamic dimension other than the batch open.
    """
    for profile in profiles:
        for shapes in profile:
            _require_input(inputs, shapes.input, "profile")
    notes: list[str] = []
    known = {name: (size, size, size) for name, size in (fixed or {}).items()}
    complete = tuple(_complete(inputs, profile, dict(known), notes) for profile in profiles or ((),))
    return tuple(profile for profile in complete if profile), tuple(dict.fromkeys(notes))


def resolve_static(
    inputs: tuple[TensorSpec, ...], shapes: tuple[StaticShape, ...]
) -> tuple[StaticShape, ...]:
    """Return the shapes to fix inputs to, each in its input's full rank.

    Raises:
        InputError: A shape names no input, has the wrong rank, or changes a static dimension; or an input
            with free sizes has one of 0.
    """
    by_name = {spec.name: spec for spec in inputs}
    _require_values(inputs)
    complete = []
    for given in shapes:
        _require_input(inputs, given.input, "shape")
        shape = ShapeRange(given.input, given.shape, given.shape, given.shape)
        complete.append(StaticShape(given.input, _fit(by_name[given.input], shape, "shape").opt))
    return tuple(complete)


def _require_values(inputs: tuple[TensorSpec, ...]) -> None:
    empty = next((spec for spec in inputs if 0 in spec.shape and _free(spec)), None)
    if empty is not None:
        raise InputError(
            f"input {empty.name!r} of shape {format_shape(empty.shape)} holds no values, and neither a "
            "profile nor a shape can say so: their sizes start at 1; export the model with the size 0 free, "
            "or without this input"
        )


def _require_input(inputs: tuple[TensorSpec, ...], name: str, what: str) -> None:
    if name not in [spec.name for spec in inputs]:
        names = ", ".join(repr(spec.name) for spec in inputs)
        raise InputError(f"the {what} names input {name!r}; the model's inputs are {names}")


def _complete(
    inputs: tuple[TensorSpec, ...], profile: Profile, known: dict[str, Range], notes: list[str]
) -> Profile:
    """Complete one profile.

    Args:
        inputs: The model's inputs.
        profile: The ranges that were given.
        known: Ranges of free sizes by their name in the model; those of `profile` are added.
        notes: Takes a sentence for every choice made for the user.
    """
    _require_values(inputs)
    given = {shapes.input: shapes for shapes in profile}
    complete: dict[str, ShapeRange] = {}
    for spec in inputs:
        if spec.name in given:
            complete[spec.name] = _fit(spec, given[spec.name])
            _remember(spec, complete[spec.name], known)
    # Those of which only the batch is free first: the others may share its name.
    for spec in sorted(inputs, key=lambda spec: _free(spec) != [0]):
        if spec.name not in given and _free(spec):
            complete[spec.name] = _default(spec, known, bool(given), notes)
            _remember(spec, complete[spec.name], known)
    return tuple(complete[spec.name] for spec in inputs if spec.name in complete and _free(spec))


def _remember(spec: TensorSpec, shapes: ShapeRange, known: dict[str, Range]) -> None:
    """Note the ranges of an input's named sizes.

    Raises:
        InputError: A size of this name has another range already: TensorRT takes the two as equal, builds
            what both allow, and refuses all other shapes when the engine runs.
    """
    for axis, name in enumerate(spec.shape):
        if not isinstance(name, str):
            continue
        own = (shapes.min[axis], shapes.opt[axis], shapes.max[axis])
        if known.setdefault(name, own) != own:
            raise InputError(
                f"dimension {axis} of input {spec.name!r} is given as {_slashes(own)}, and another size that "
                f"the model names {name!r} as {_slashes(known[name])}: TensorRT takes sizes of one name as "
                "equal; give both one range, or export the model with other names"
            )


def _default(spec: TensorSpec, known: dict[str, Range], others_given: bool, notes: list[str]) -> ShapeRange:
    """Return the range of an input that no profile names: its batch may be free, and sizes that are known."""
    names = [spec.shape[axis] for axis in _free(spec)]
    if all(isinstance(name, str) and name in known for name in names):
        ranges = [(size, size, size) if isinstance(size, int) else known[str(size)] for size in spec.shape]
        first = str(names[0])
        notes.append(
            f"input {spec.name!r} takes the batch {_slashes(known[first])} of the input that shares its "
            f"{first!r}"
            if _free(spec) == [0]
            else f"input {spec.name!r} takes its free sizes from the inputs that share their names: "
            + ", ".join(f"{name} {_slashes(known[str(name)])}" for name in names)
        )
        low, best, high = (tuple(size[place] for size in ranges) for place in range(3))
        return ShapeRange(spec.name, low, best, high)
    if _free(spec) != [0]:
        open_axes = ", ".join(f"{axis} ({spec.shape[axis] or 'unnamed'})" for axis in _free(spec))
        raise InputError(
            f"input {spec.name!r} of shape {format_shape(spec.shape)} has dynamic dimensions {open_axes}; "
            f"say what they may be, as in --profile {example_profile(spec.name, spec.shape, known)}"
        )
    if others_given:
        raise InputError(
            f"input {spec.name!r} of shape {format_shape(spec.shape)} is dynamic too; add a profile for it, "
            f"as in --profile {spec.name}:1,8,32"
        )
    notes.append(
        f"input {spec.name!r} has a dynamic batch and no profile: built for batches "
        f"{_slashes(DEFAULT_BATCH)} (smallest/optimal/largest); --profile {spec.name}:MIN,OPT,MAX changes it"
    )
    low, best, high = ((size, *_fixed(spec)) for size in DEFAULT_BATCH)
    return ShapeRange(spec.name, low, best, high)


def _fit(spec: TensorSpec, shapes: ShapeRange, what: str = "profile") -> ShapeRange:
    """Return a given range in the input's rank; its static dimensions must be the model's."""
    given = shapes if what == "profile" else format_shape(shapes.opt)
    if len(shapes.opt) == 1 and len(spec.shape) > 1 and _free(spec) == [0]:
        low, best, high = ((size[0], *_fixed(spec)) for size in (shapes.min, shapes.opt, shapes.max))
        shapes = ShapeRange(spec.name, low, best, high)
    if len(shapes.opt) != len(spec.shape):
        raise InputError(
            f"the {what} of input {spec.name!r} has rank {len(shapes.opt)} ({given}), the input has rank "
            f"{len(spec.shape)} ({format_shape(spec.shape)})"
        )
    for axis, size in enumerate(spec.shape):
        if isinstance(size, int) and {shapes.min[axis], shapes.opt[axis], shapes.max[axis]} != {size}:
            raise InputError(
                f"the {what} of input {spec.name!r} ({given}) changes dimension {axis}, which the model "
                f"fixes at {size}: {format_shape(spec.shape)}"
            )
    return shapes


def _free(spec: TensorSpec) -> list[int]:
    return [axis for axis, size in enumerate(spec.shape) if not isinstance(size, int)]


def _fixed(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(size for size in spec.shape[1:] if isinstance(size, int))


def example_profile(
    name: str, shape: Sequence[int | str | None], known: Mapping[str, Range], most: int | None = None
) -> str:
    """Return a profile of an input that leaves more than its batch free, its sizes guessed.

    Args:
        name: The input.
        shape: Its shape in the model.
        known: Ranges of free sizes by their name in the model.
        most: Largest size to guess but for the batch; None sets no limit.
    """
    ranges = [
        (size, size, size)
        if isinstance(size, int)
        else known.get(size or "", DEFAULT_BATCH if axis == 0 else _other_sizes(most))
        for axis, size in enumerate(shape)
    ]
    return f"{name}:{','.join(map(format_shape, zip(*ranges, strict=True)))}"


def guessed_profiles(
    inputs: Iterable[tuple[str, Sequence[int | str | None]]], most: int | None = None
) -> list[str]:
    """Return profiles with guessed sizes for a model that `resolve_profiles` would not complete; else [].

    Args:
        inputs: Name and shape of each input of the model.
        most: As for `example_profile`.
    """
    free = [(name, shape) for name, shape in inputs if not all(isinstance(size, int) for size in shape)]
    # Sizes of one name have one range, also where one of them comes first and another does not. In the state
    # of a recurrent network, or a cache, the batch is second.
    other = _other_sizes(most)
    later = {
        size: DEFAULT_BATCH if "batch" in size.lower() else other
        for _, shape in free
        for size in shape[1:]
        if isinstance(size, str)
    }
    if all(isinstance(size, int) for _, shape in free for size in shape[1:]):
        return []
    return [example_profile(name, shape, later, most) for name, shape in free]


def _other_sizes(most: int | None) -> Range:
    high = _OTHER_SIZES[2] if most is None else min(most, _OTHER_SIZES[2])
    return max(1, high // 4), max(1, high // 2), high


def _slashes(batch: tuple[int, int, int]) -> str:
    return "/".join(str(size) for size in batch)
