"""What a session is fed: samples checked against its inputs, converted, and cut to its batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nm2trt.backends.protocol import Session, TensorSpec, numpy_dtype
from nm2trt.compare import is_floating
from nm2trt.errors import DataError
from nm2trt.validation.samples.samples import Samples

__all__ = ["Feeder", "common_batch", "first_batch", "require_numbers"]

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
_FREE_BATCH = 64
_MOST_COMMON = 4096


class Feeder:
    """Feeds one session.

    Args:
        session: An open session whose inputs all have the batch first.
        samples: What it will be fed.
        what: The session's name in messages, e.g. "candidate".

    Attributes:
        conversions: Sentences such as "x: float32 -> float16", for the report.
        fixed: The only batch size that the session takes; None where it is free.
        most: Largest batch that it takes; None where it does not say.

    Raises:
        DataError: Names, shapes or dtypes do not fit.
    """

    def __init__(self, session: Session, samples: Samples, *, what: str) -> None:
        self._session, self._what = session, what
        names = [spec.name for spec in session.inputs]
        given = {spec.name: spec for spec in samples.inputs}
        if set(given) != set(names):
            raise DataError(f"the {what}'s inputs are {names}, the data has {sorted(given)}")
        self.fixed = _fixed_batch(session.inputs, what)
        self.most: int | None = getattr(session, "max_batch", None) or None
        for spec in session.inputs:
            _check_sample_shape(spec, given[spec.name], len(samples))
            _check_dtype(spec, given[spec.name].dtype)
        self.conversions = tuple(
            f"{spec.name}: {given[spec.name].dtype} -> {spec.dtype}"
            for spec in session.inputs
            if given[spec.name].dtype != spec.dtype
        )

    def feeds(self, inputs: Arrays) -> dict[str, Array]:
        """Return the inputs in the session's dtypes, contiguous.

        Raises:
            DataError: A value is too large for the session's dtype.
        """
        return {spec.name: _converted(spec, inputs[spec.name]) for spec in self._session.inputs}

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Run some samples and return their outputs by name; a fixed batch is filled up with the last sample.

        Raises:
            DataError: A value or an output does not fit.
            BackendError: The session fails.
            ServerError: Its server is gone.
        """
        feeds = self.feeds(inputs)
        count = len(next(iter(feeds.values())))
        if self.fixed is None or self.fixed == count:
            return self._run(feeds, count)
        parts = []
        for start in range(0, count, self.fixed):
            stop = min(start + self.fixed, count)
            picked = np.arange(start, start + self.fixed).clip(max=count - 1)
            outputs = self._run({name: array[picked] for name, array in feeds.items()}, self.fixed)
            parts.append({name: array[: stop - start] for name, array in outputs.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run(self, feeds: Arrays, size: int) -> dict[str, Array]:
        outputs = self._session.run(feeds)
        require_numbers(outputs, self._what)
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != size:
                raise DataError(
                    f"output {name!r} of the {self._what} has shape {array.shape} for a batch of {size}; "
                    "its first dimension should be the batch"
                )
        return outputs


def require_numbers(outputs: Arrays, what: str) -> None:
    """Raise when an output holds something but numbers, such as texts or a sequence of maps.

    Raises:
        DataError: One does.
    """
    for name, array in outputs.items():
        if array.dtype.kind not in "biuf" and not is_floating(array.dtype):
            raise DataError(
                f"output {name!r} of the {what} holds values of type {array.dtype}, not numbers; take it out "
                "of the model's outputs"
            )


def common_batch(feeders: Sequence[Feeder], asked: int | None, length: int) -> int:
    """Return a batch size that every feeder can cut: what was asked, the sessions' own, or 64.

    Raises:
        DataError: What was asked is less than 1, or not the one size that a session takes.
    """
    fixed = [feeder.fixed for feeder in feeders if feeder.fixed is not None]
    if asked is not None:
        if asked < 1:
            raise DataError(f"a batch of {asked} cannot be run; give 1 or more")
        for size in fixed:
            if size != asked:
                raise DataError(f"the model's batch is fixed to {size}; it cannot run a batch of {asked}")
        return asked
    if not fixed:
        return min(_FREE_BATCH, length, *(feeder.most for feeder in feeders if feeder.most is not None))
    common = math.lcm(*fixed)
    return common if common <= _MOST_COMMON else max(fixed)


def _fixed_batch(inputs: tuple[TensorSpec, ...], what: str) -> int | None:
    fixed = {spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)}
    if any(not spec.shape for spec in inputs) or len(fixed) > 1:
        raise DataError(f"not every input of the {what} has the batch as its first dimension")
    return next((size for size in fixed if isinstance(size, int)), None)


def _check_sample_shape(spec: TensorSpec, given: TensorSpec, length: int) -> None:
    fits = len(given.shape) == len(spec.shape) and all(
        not isinstance(want, int) or want == have
        for want, have in zip(spec.shape[1:], given.shape[1:], strict=True)
    )
    if not fits:
        wanted = "x".join(
            ["n", *("?" if not isinstance(size, int) else str(size) for size in spec.shape[1:])]
        )
        have = (length, *given.shape[1:])
        raise DataError(f"input {spec.name!r} takes samples of shape {wanted}, the data has {have}")


def _check_dtype(spec: TensorSpec, given: str) -> None:
    try:
        have, wanted = numpy_dtype(given), numpy_dtype(spec.dtype)
    except DataError as error:
        raise DataError(f"input {spec.name!r} takes {spec.dtype}, which no array here holds") from error
    if have == wanted or (is_floating(have) and is_floating(wanted)):
        return
    if have.kind in "iu" and is_floating(wanted):
        # Whether 0..255 should become 0..1 only the model's author knows.
        raise DataError(f"input {spec.name!r} takes {spec.dtype}, the data has {given}; scale and convert it")
    if have.kind in "iu" and wanted.kind in "iu":
        return  # narrower integers hold the same ids; values that do not fit are refused when they are fed
    if not np.can_cast(have, wanted, "safe"):
        raise DataError(f"input {spec.name!r} takes {spec.dtype}, the data has {given}; convert the data")


def _converted(spec: TensorSpec, given: Array) -> Array:
    wanted = numpy_dtype(spec.dtype)
    if given.dtype == wanted:
        return np.ascontiguousarray(given)
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(given, dtype=wanted)
    if wanted.kind in "iu" and not np.array_equal(converted, given):
        raise DataError(f"input {spec.name!r} holds values too large for {spec.dtype}; convert the data")
    if is_floating(wanted) and not np.isfinite(converted).all():
        raise DataError(f"input {spec.name!r} holds values too large for {spec.dtype}; scale the data")
    return converted


def first_batch(session: Session, samples: Samples, size: int) -> dict[str, Array]:
    """Return the first samples as a session is fed them, repeated where there are fewer than `size`.

    A session whose batch is fixed gets its own.

    Raises:
        DataError: The samples do not fit the session.
    """
    feeder = Feeder(session, samples, what="model")
    batch = next(samples.batches(min(feeder.fixed or size, len(samples))))
    picked = np.arange(feeder.fixed or size) % len(batch)
    return feeder.feeds({name: array[picked] for name, array in batch.inputs.items()})
