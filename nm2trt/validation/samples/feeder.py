"""Feeder of a session: samples checked against its inputs, converted, and cut to its batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.backends.batch_axes import (
    as_feed,
    batch_name,
    data_dependent,
    feed_axis,
    fits,
    fixed_batch,
    output_axis,
)
from nm2trt.backends.feeds import check_names, numpy_dtype, require_room
from nm2trt.backends.protocol import Session, TensorSpec
from nm2trt.compare.outputs import is_floating
from nm2trt.errors import DataError
from nm2trt.validation.samples.samples import Samples

_FREE_BATCH = 64
_MOST_COMMON = 4096


class Feeder:
    """Feeds one session: each sample goes on the batch axis of its input, wherever that is.

    Args:
        session: An open session. An input may have its batch on any axis, or none if all samples share its
            value, as a rate or an initial state.
        samples: What it will be fed.
        what: The session's name in messages, e.g. "candidate".

    Attributes:
        conversions: Sentences such as "x: float32 -> float16", for the report.
        fixed: The only batch size that the session takes; None if it is free.
        most: Largest batch that it takes; None if it does not say.

    Raises:
        DataError: Names, shapes or dtypes do not fit.
    """

    def __init__(self, session: Session, samples: Samples, *, what: str) -> None:
        self._session, self._what = session, what
        given = {spec.name: spec for spec in samples.inputs}
        check_names(f"the {what}", session.inputs, given)
        rows = {
            spec.name: tuple(size for size in given[spec.name].shape[1:] if isinstance(size, int))
            for spec in session.inputs
        }
        self._batch = batch_name(session.inputs)
        self._axes = {spec.name: feed_axis(spec, rows[spec.name], self._batch) for spec in session.inputs}
        self._free = data_dependent(session.inputs, session.outputs)
        self._output_axes: dict[str, int | None] = {}
        self.fixed = fixed_batch(session.inputs, rows)
        self.most: int | None = getattr(session, "max_batch", None) or None
        for spec in session.inputs:
            _check_sample_shape(spec, rows[spec.name], self._axes[spec.name], len(samples))
            _check_dtype(spec, given[spec.name].dtype)
        self.conversions = tuple(
            f"{spec.name}: {given[spec.name].dtype} -> {spec.dtype}"
            for spec in session.inputs
            if given[spec.name].dtype != spec.dtype
        )

    def feeds(self, inputs: Arrays) -> dict[str, Array]:
        """Return samples, first in each array, as the session takes them: its layout and dtypes, contiguous.

        Raises:
            DataError: A value is too large for the session's dtype, or the samples differ in an input that
                has no batch.
        """
        specs = self._session.inputs
        return {spec.name: _converted(spec, as_feed(spec, inputs[spec.name], specs)) for spec in specs}

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Run some samples and return their outputs by name; a fixed batch is filled up with the last sample.

        Each output has its samples first; one that has no batch is returned as it is.

        Raises:
            DataError: A value or an output does not fit.
            BackendError: The session fails.
            ServerError: Its server is gone.
        """
        count = len(next(iter(inputs.values())))
        if self.fixed is None or self.fixed == count:
            return self._run(inputs, count)
        parts = []
        for start in range(0, count, self.fixed):
            stop = min(start + self.fixed, count)
            picked = np.arange(start, start + self.fixed).clip(max=count - 1)
            outputs = self._run({name: array[picked] for name, array in inputs.items()}, self.fixed)
            parts.append({n: a if self._is_whole(n) else a[: stop - start] for n, a in outputs.items()})
        return self.joined(parts)

    def joined(self, parts: Sequence[Arrays]) -> dict[str, Array]:
        """Return the outputs of several runs as those of one.

        Raises:
            DataError: An output has no batch, so that its values belong to one run each.
        """
        whole = next((name for name in parts[0] if self._is_whole(name)), None)
        if len(parts) > 1 and whole is not None:
            raise DataError(
                f"output {whole!r} of the {self._what} has no batch dimension, so the outputs of "
                f"{len(parts)} batches cannot be joined; run all samples in one batch"
            )
        return {
            n: np.concatenate([part[n] for part in parts]) if len(parts) > 1 else a
            for n, a in parts[0].items()
        }

    def as_model(self, name: str, output: Array) -> Array:
        """Return an output, samples first as `run` gives it, in the session's own layout."""
        axis = self._output_axes.get(name)
        return np.moveaxis(output, 0, axis) if axis else output

    def _is_whole(self, name: str) -> bool:
        return self._output_axes.get(name) is None

    def _run(self, inputs: Arrays, size: int) -> dict[str, Array]:
        feeds = self.feeds(inputs)
        outputs = self._session.run(feeds)
        require_numbers(outputs, self._what)
        fed = {feeds[name].shape: axis for name, axis in self._axes.items() if axis is not None}
        for spec in self._session.outputs:
            self._output_axes[spec.name] = output_axis(
                spec,
                outputs[spec.name].shape,
                size,
                batch=self._batch,
                fixed=self.fixed is not None,
                fed=fed,
                free_size=spec.name in self._free,
            )
        return {name: _sample_first(array, self._output_axes.get(name)) for name, array in outputs.items()}


def _sample_first(array: Array, axis: int | None) -> Array:
    return np.moveaxis(array, axis, 0) if axis else array


def require_numbers(outputs: Arrays, what: str) -> None:
    """Raise DataError when an output holds something but numbers, such as texts or a sequence of maps."""
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


def _check_sample_shape(spec: TensorSpec, row: tuple[int, ...], axis: int | None, length: int) -> None:
    rest = spec.shape if axis is None else (*spec.shape[:axis], *spec.shape[axis + 1 :])
    if not fits(row, rest):
        sizes = ["?" if not isinstance(size, int) else str(size) for size in spec.shape]
        if axis is not None and axis < len(sizes):
            sizes[axis] = "n"
        shape = "x".join(sizes) or "()"
        raise DataError(f"input {spec.name!r} takes samples of shape {shape}, the data has {(length, *row)}")


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
        return np.asarray(given, order="C")  # ascontiguousarray gives a scalar an axis
    with np.errstate(over="ignore"):
        converted = np.asarray(given, dtype=wanted, order="C")
    if wanted.kind in "iu" and not np.array_equal(converted, given):
        raise DataError(f"input {spec.name!r} holds values too large for {spec.dtype}; convert the data")
    if is_floating(wanted) and not np.isfinite(converted).all():
        raise DataError(f"input {spec.name!r} holds values too large for {spec.dtype}; scale the data")
    return converted


def first_batch(session: Session, samples: Samples, size: int) -> dict[str, Array]:
    """Return the first samples as a session is fed them, repeated if there are fewer than `size`.

    A session whose batch is fixed gets its own.

    Raises:
        DataError: The samples do not fit the session, or repeated ones take more memory than samples may.
    """
    feeder = Feeder(session, samples, what="model")
    batch = next(samples.batches(min(feeder.fixed or size, len(samples))))
    wanted = feeder.fixed or size
    if wanted > len(batch):
        held = sum(array[:1].nbytes for array in batch.inputs.values())
        require_room(f"a batch of {wanted} samples (--batch)", wanted * held)
    picked = np.arange(wanted) % len(batch)
    return feeder.feeds({name: array[picked] for name, array in batch.inputs.items()})
