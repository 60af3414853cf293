"""Ranges of activations over calibration samples: by extremes, by a percentile, or by least entropy lost.

The extremes are reduced inside the graph that ONNX Runtime runs. The histograms of the other two methods, and
the choice of a threshold from them, are onnxruntime.quantization's; it is fed one batch at a time, so that
memory does not depend on the number of samples. What was seen so far is kept in a cache file, from which an
interrupted calibration goes on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.backends.batch_axes import fixed_batch, sample_shapes
from nm2trt.backends.protocol import Session
from nm2trt.calibration.collectors import (
    METHODS,
    Choice,
    Collector,
    EachChoice,
    Method,
    Observed,
    collector_for,
)
from nm2trt.calibration.range_cache import RangeCache
from nm2trt.calibration.stream import Batch, SampleHash, SampleStream, filled, fitted, length_of
from nm2trt.errors import DataError, InputError, Interrupted, OutputError
from nm2trt.json_value import named
from nm2trt.progress import bar

_FORMAT = 1
_SAVE_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Ranges:
    """What calibration found.

    Args:
        method: How.
        samples: Over how many samples.
        sha256: Hash of the samples.
        low: Lower end of each value's range.
        high: Upper end.
        reused: Samples whose results came from the cache.
    """

    method: Method
    samples: int
    sha256: str
    low: Mapping[str, float]
    high: Mapping[str, float]
    reused: int

    def largest(self, value: str) -> float:
        """Return the largest magnitude in a value's range."""
        return max(abs(self.low[value]), abs(self.high[value]))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        ranges = {name: [self.low[name], self.high[name]] for name in self.low}
        return {**named(self, "method samples sha256 reused"), "ranges": ranges}


def calibrate(
    open_session: Callable[[], Session],
    observed: Mapping[str, Observed],
    samples: SampleStream,
    *,
    method: Method = "minmax",
    percentile: float = 99.99,
    model_sha256: str,
    cache: Path | None = None,
    first: Callable[[Batch, Arrays], None] | None = None,
    infinite: bool = False,
    part: Mapping[str, Any] | None = None,
) -> Ranges:
    """Run all samples and return the range of every observed value.

    Args:
        open_session: Opens the model that gives what is observed.
        observed: Its outputs that do, by name; "min" and "max" for "minmax", "all" for the other methods.
        samples: The samples.
        method: "minmax", "percentile" (of magnitudes) or "entropy".
        percentile: Share of values inside the range, in percent.
        model_sha256: Hash of the model, for the cache.
        cache: File that keeps what was found; one of another model, method or samples is replaced.
        first: Called with the first batch that runs, and what the model gave.
        infinite: Let a range by "minmax" end in infinity, as that of an attention mask does.
        part: Which part of a larger job the samples are, for the cache.

    Raises:
        InputError: The method or the percentile is invalid.
        DataError: The samples do not fit the model, or are NaN, or make a value so.
        Interrupted: The user stopped it; the cache is up to date.
    """
    if method not in METHODS:
        raise InputError(f"{method!r} is not a calibration method; choose {', '.join(METHODS)}")
    if not 50 < percentile <= 100:
        raise InputError(f"a percentile of {percentile:g} is out of range; give more than 50 and at most 100")

    def collector() -> Collector:
        return collector_for(observed, method, percentile, infinite=infinite)

    key = range_key(observed, method, percentile, model_sha256)
    run = _Run(open_session, samples, collector, RangeCache(cache, {**key, **(part or {})}), first)
    found = run()
    return found.ranges(method, found.collector.ranges())


def range_key(
    observed: Mapping[str, Observed], method: Method, percentile: float, model_sha256: str
) -> dict[str, Any]:
    """Return what tells one calibration from another, apart from the samples."""
    return {
        "format": _FORMAT,
        "model": model_sha256,
        "method": method,
        "percentile": percentile if method == "percentile" else None,
        "values": list(dict.fromkeys(item.value for item in observed.values())),
    }


def calibrate_each(
    open_session: Callable[[], Session],
    observed: Mapping[str, Observed],
    samples: SampleStream,
    choices: Sequence[Choice],
    *,
    model_sha256: str,
    cache: Path | None = None,
) -> dict[Choice, Ranges]:
    """Run all samples once and return the ranges by each of several methods.

    Args:
        open_session: Opens the model that gives what is observed.
        observed: Its outputs that do, by name, each of kind "all".
        samples: The samples.
        choices: Method and percentile of each.
        model_sha256: Hash of the model, for the cache.
        cache: As `calibrate` takes it.

    Raises:
        DataError: As `calibrate`.
        Interrupted: As `calibrate`.
    """
    values = list(dict.fromkeys(item.value for item in observed.values()))
    key = {
        "format": _FORMAT,
        "model": model_sha256,
        "choices": [list(one) for one in choices],
        "values": values,
    }
    run = _Run(open_session, samples, lambda: EachChoice(observed, choices), RangeCache(cache, key), None)
    found = run()
    return {one: found.ranges(one[0], found.collector.ranges_of(one)) for one in choices}


_Kept = TypeVar("_Kept", bound=Collector)


@dataclass(frozen=True, slots=True)
class _Collected(Generic[_Kept]):
    """What a run over the samples left: the collector, samples, their hash, and how many the cache had."""

    collector: _Kept
    done: int
    sha256: str
    reused: int

    def ranges(self, method: Method, found: Mapping[str, tuple[float, float]]) -> Ranges:
        low = {name: ends[0] for name, ends in found.items()}
        high = {name: ends[1] for name, ends in found.items()}
        return Ranges(method, self.done, self.sha256, low, high, self.reused)


@dataclass(slots=True)
class _Run(Generic[_Kept]):
    open_session: Callable[[], Session]
    samples: SampleStream
    collector: Callable[[], _Kept]
    cache: RangeCache
    first: Callable[[Batch, Arrays], None] | None

    def __call__(self) -> _Collected[_Kept]:
        kept = self.cache.load()
        found = None if kept is None else self._collect(kept)
        found = found or self._collect(None)
        if found is None:  # pragma: no cover - only a cache can fail to fit
            raise DataError(f"{self.samples.source} gave other samples when it was read again")
        return found

    def _collect(self, kept: tuple[int, str, dict[str, Array]] | None) -> _Collected[_Kept] | None:
        """Go through the samples; None if the cache is of others."""
        collector, digest = self.collector(), SampleHash()
        skip = 0 if kept is None else kept[0]
        if kept is not None:
            if not 0 < skip <= self.samples.count:
                return None
            try:
                collector.restore(kept[2])
            except (KeyError, ValueError):
                return None
        done, saved = 0, time.monotonic()
        # What was collected up to the last whole batch: an interruption inside one must not count part of it.
        whole = _copied(collector)
        session: Session | None = None
        with contextlib.ExitStack() as stack, bar("calibrate", self.samples.count) as shown:
            try:
                for batch in self.samples.read(self.samples.batch):
                    if done < skip:
                        digest.update(batch)
                        done += length_of(batch)
                        if kept is not None and done >= skip and digest.hexdigest() != kept[1]:
                            return None
                        continue
                    if session is None:
                        session = stack.enter_context(self.open_session())
                    self._run(session, batch, collector)
                    # The three change together: a stop between them would count the batch twice.
                    after = digest.copy()
                    after.update(batch)
                    state = (done + length_of(batch), after, _copied(collector))
                    done, digest, whole = state
                    shown.update(done)
                    if time.monotonic() - saved > _SAVE_EVERY_S:
                        self.cache.save(done, digest.hexdigest(), collector.arrays())
                        saved = time.monotonic()
            except KeyboardInterrupt as stop:
                self._keep(done, skip, digest, whole)
                raise Interrupted(
                    f"calibration was stopped after {done} of {self.samples.count} samples"
                    f"{self.cache.say() if done else ''}; no model was written"
                ) from stop
        if done < skip:
            return None
        self._keep(done, skip, digest, collector.arrays())
        return _Collected(collector, done, digest.hexdigest(), skip)

    def _keep(self, done: int, skip: int, digest: SampleHash, arrays: Arrays) -> None:
        if done > skip:
            with contextlib.suppress(OutputError):
                self.cache.save(done, digest.hexdigest(), arrays)

    def _run(self, session: Session, batch: Batch, collector: Collector) -> None:
        fitted(batch, session.inputs, self.samples.source)
        fixed = fixed_batch(session.inputs, sample_shapes(batch))
        length = length_of(batch)
        step = length if fixed is None else fixed
        for start in range(0, length, step):
            # The pads of a fixed batch are not counted.
            part = fitted(filled(batch, step, start), session.inputs, self.samples.source)
            outputs = session.run(part)
            if self.first is not None:
                self.first(part, outputs)
                self.first = None
            real = min(step, length - start)
            collector.update({n: _without_pads(a, real, step) for n, a in outputs.items()})


def _copied(collector: Collector) -> dict[str, Array]:
    return {name: np.array(array) for name, array in collector.arrays().items()}


def _without_pads(array: Array, real: int, step: int) -> Array:
    """Leave out what the pads of a batch of `step` gave; the axis may also hold several rows per sample.

    The pads repeat the last sample, so the batch lies on the axis along which values repeat. If there is no
    such axis, the array is left whole: a pad that is counted repeats numbers, a wrong axis would lose some.
    """
    if real == step:
        return array
    for axis, size in enumerate(array.shape):
        if not size or size % step:
            continue
        samples = np.moveaxis(array, axis, 0).reshape(step, -1)
        if np.allclose(samples[real:], samples[real - 1], rtol=1e-4, equal_nan=True):
            return array.take(range(size // step * real), axis)
    return array
