"""Collectors of a calibration: the extremes of every value over all batches, or its histogram."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.errors import DataError
from nm2trt.extras import names_the_extra

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy")
# A method and its percentile, which only "percentile" reads.
Choice = tuple[Method, float]

_BINS = {"percentile": 2048, "entropy": 512}
# A histogram is not refined beyond this: values that grow a millionfold would exhaust memory.
_MOST_BINS = 1 << 16
_ENTROPY_LEVELS = 128
# The range of a value that never held a number.
_EMPTY = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Observed:
    """What one output of the running model says of a value.

    Args:
        value: The value.
        kind: "min" or "max" over the batch, or "all" of it.
    """

    value: str
    kind: Literal["min", "max", "all"]


def not_finite(value: str) -> DataError:
    """Return the error of a value that has no range."""
    return DataError(
        f"{value!r} is NaN or infinite in the model on these samples; give samples for which it is finite"
    )


class Collector(Protocol):
    """What one calibration keeps of a batch."""

    def update(self, outputs: Arrays) -> None:
        """Take in what the model gave for a batch."""

    def arrays(self) -> dict[str, Array]:
        """Return all that was kept, for a cache."""

    def restore(self, arrays: Arrays) -> None:
        """Go on from what `arrays` returned.

        Raises:
            KeyError: An array is missing.
            ValueError: One is of another kind or size.
        """

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Return the range of each value."""


class Extremes:
    """Smallest and largest value; a value whose smallest is not observed is never negative.

    Args:
        observed: The outputs that give them.
        infinite: Take infinity for a value as any other, as masks hold it; NaN is refused all the same.
    """

    def __init__(self, observed: Mapping[str, Observed], *, infinite: bool = False) -> None:
        self._observed, self._infinite = observed, infinite
        self._names = list(dict.fromkeys(item.value for item in observed.values()))
        self._at = {name: index for index, name in enumerate(self._names)}
        with_low = {item.value for item in observed.values() if item.kind != "max"}
        self._low = np.array([np.inf if name in with_low else 0.0 for name in self._names])
        self._high = np.full(len(self._names), -np.inf)

    def update(self, outputs: Arrays) -> None:
        """Take in what the model gave for a batch."""
        unsound = ""
        for name, item in self._observed.items():
            at, whole = self._at[item.value], outputs[name]
            ends = (whole.min(), whole.max()) if item.kind == "all" and whole.size else (whole,)
            for end in ends if whole.size else ():
                found = float(end)
                if found == {"min": np.inf, "max": -np.inf}.get(item.kind):
                    continue  # the value is empty: if all of it were infinite, its other end would tell
                if np.isnan(found) or not (self._infinite or np.isfinite(found)):
                    # Values are observed from the end, and the first of them is at fault.
                    unsound = item.value
                if item.kind != "max":
                    self._low[at] = min(self._low[at], found)
                if item.kind != "min":
                    self._high[at] = max(self._high[at], found)
        if unsound:
            raise not_finite(unsound)

    def arrays(self) -> dict[str, Array]:
        """Return all that was kept."""
        return {"low": self._low, "high": self._high}

    def restore(self, arrays: Arrays) -> None:
        """Go on from what `arrays` returned."""
        for end in (arrays["low"], arrays["high"]):
            if end.dtype != np.float64 or end.shape != self._low.shape or np.isnan(end).any():
                raise ValueError("these are not the extremes of the values that are observed")
        self._low, self._high = arrays["low"].copy(), arrays["high"].copy()

    def merge(self, arrays: Arrays) -> None:
        """Take in what another collector kept; raises as `restore`."""
        low, high = self._low, self._high
        self.restore(arrays)
        self._low, self._high = np.minimum(low, self._low), np.maximum(high, self._high)

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Return the smallest and the largest of each value."""
        ends = {n: (float(self._low[i]), float(self._high[i])) for n, i in self._at.items()}
        return {n: (low, high) if low <= high else _EMPTY for n, (low, high) in ends.items()}


class _Histograms:
    """onnxruntime.quantization's histograms, and its threshold from them."""

    def __init__(self, observed: Mapping[str, Observed], method: Method, percentile: float) -> None:
        with names_the_extra("onnxruntime"):
            from onnxruntime.quantization.calibrate import HistogramCollector
        self._observed = observed
        self._bins = _BINS[method]
        # Percentiles are of magnitudes; entropy is lost on both sides of zero.
        symmetric = method == "percentile"
        self._library = HistogramCollector(
            method, symmetric, self._bins, _ENTROPY_LEVELS, percentile, scenario="same"
        )
        self._absolute = symmetric

    def update(self, outputs: Arrays) -> None:
        values = {item.value: np.asarray(outputs[name]) for name, item in self._observed.items()}
        unsound = [name for name, array in values.items() if not np.isfinite(array).all()]
        if unsound:
            raise not_finite(unsound[-1])  # as above
        for name, array in values.items():
            self._coarsen(name, float(np.abs(array).max(initial=0.0)))
        numbers = {name: self._spread(array.astype(np.float32, copy=False)) for name, array in values.items()}
        if self._absolute:
            self._library.collect_absolute_value({name: [array] for name, array in numbers.items()})
        else:
            self._library.collect_value(numbers)

    def _spread(self, array: Array) -> Array:
        """Return the numbers with a 0 beside them if they lie too close together for the library's bins.

        An empty array becomes a 0 too, since the library takes none.
        """
        if not array.size:
            return np.zeros(1, np.float32)
        magnitudes = np.abs(array)
        low, high = magnitudes.min(), magnitudes.max()
        if high < self._bins * np.finfo(np.float32).tiny:
            return np.zeros_like(array)  # the bins themselves would have no width
        narrow = high - low <= self._bins * np.spacing(high)
        return np.append(array, np.float32(0)) if narrow else array

    def _coarsen(self, name: str, largest: float) -> None:
        """Give a histogram wider bins if the library would add too many of the old width."""
        entry = self._library.histogram_dict.get(name)
        if entry is None:
            return
        counts, edges = entry[0], entry[1]
        width = float(edges[1] - edges[0])
        if width > 0 and largest / width <= _MOST_BINS:
            return
        low = 0.0 if self._absolute else -largest
        wide = np.linspace(low, largest, self._bins + 1, dtype=edges.dtype)
        centres = (edges[:-1].astype(np.float64) + edges[1:]) / 2
        moved, _ = np.histogram(centres, bins=wide, weights=counts)
        tail = (np.asarray(largest, edges.dtype),) if len(entry) == 5 else ()
        self._library.histogram_dict[name] = (moved.astype(counts.dtype), wide, *entry[2:4], *tail)

    def arrays(self) -> dict[str, Array]:
        found = {}
        for index, entry in enumerate(self._library.histogram_dict.values()):
            for part, array in enumerate(entry):
                found[f"{index}.{part}"] = np.asarray(array)
        return found

    def restore(self, arrays: Arrays) -> None:
        names = list(dict.fromkeys(item.value for item in self._observed.values()))
        count = 4 if self._absolute else 5
        # Scalars come back as such, since the library compares and joins them with numpy's own.
        kept = {
            name: [np.asarray(arrays[f"{index}.{part}"]) for part in range(count)]
            for index, name in enumerate(names)
        }
        for counts, edges, *scalars in kept.values():
            parts = (counts, edges, *scalars)
            bins = counts.size
            if not (
                all(np.issubdtype(part.dtype, np.number) and np.isfinite(part).all() for part in parts)
                and 0 < bins <= 4 * _MOST_BINS
                and (counts.shape, edges.shape) == ((bins,), (bins + 1,))
                and not any(scalar.ndim for scalar in scalars)
                and (np.diff(edges) >= 0).all()
            ):
                raise ValueError("these are not histograms")
        self._library.histogram_dict = {
            name: tuple(part[()] for part in entry) for name, entry in kept.items()
        }

    def ranges(self) -> dict[str, tuple[float, float]]:
        # The library prints what it does; stdout is ours.
        with contextlib.redirect_stdout(io.StringIO()):
            found = self._library.compute_collection_result()
        return {name: (float(result[0]), float(result[1])) for name, result in found.items()}


class EachChoice:
    """Keeps what several methods need of each batch, so that the model runs once for all of them.

    Args:
        observed: The outputs that give whole values.
        choices: Method and percentile of each.
    """

    def __init__(self, observed: Mapping[str, Observed], choices: Sequence[Choice]) -> None:
        self._observed = observed
        self._parts = {
            method: collector_for(observed, method, percentile) for method, percentile in reversed(choices)
        }

    def update(self, outputs: Arrays) -> None:
        """Take in what the model gave for a batch."""
        for part in self._parts.values():
            part.update(outputs)

    def arrays(self) -> dict[str, Array]:
        """Return all that was kept, for a cache."""
        return {
            f"{m}/{name}": array for m, part in self._parts.items() for name, array in part.arrays().items()
        }

    def restore(self, arrays: Arrays) -> None:
        """Go on from what `arrays` returned."""
        for method, part in self._parts.items():
            start = f"{method}/"
            part.restore({name[len(start) :]: a for name, a in arrays.items() if name.startswith(start)})

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Return the ranges of the first choice."""
        return next(reversed(self._parts.values())).ranges()

    def ranges_of(self, choice: Choice) -> dict[str, tuple[float, float]]:
        """Return the range of each value by one of the choices."""
        method, percentile = choice
        part = self._parts[method]
        if method == "percentile":
            # A histogram serves every percentile.
            kept, part = part.arrays(), collector_for(self._observed, method, percentile)
            part.restore(kept)
        return part.ranges()


def collector_for(
    observed: Mapping[str, Observed], method: Method, percentile: float, *, infinite: bool = False
) -> Collector:
    """Return an empty collector of a method; `infinite` lets extremes be so."""
    if method == "minmax":
        return Extremes(observed, infinite=infinite)
    return _Histograms(observed, method, percentile)
