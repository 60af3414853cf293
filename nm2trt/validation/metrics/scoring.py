"""Scorers of task metrics: one per model, fed batch by batch, and the scores that it ends with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nm2trt.arrays import Array, Arrays
from nm2trt.backends.protocol import TensorSpec
from nm2trt.compare.outputs import is_floating
from nm2trt.errors import DataError, DifferenceError, InputError

Floats = npt.NDArray[np.float64]
Picked = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Judged:
    """One batch of a model's outputs.

    Args:
        outputs: By name, samples along axis 0.
        reference: The reference's outputs for the same samples.
        truth: What is known of the samples.
    """

    outputs: Arrays
    reference: Arrays
    truth: Arrays


# Values, or values and weights, shape (batch,).
ScoreFunction = Callable[[Judged], "Array | tuple[Array, Array]"]


class Scores(Protocol):
    """How one model did on every sample."""

    def __len__(self) -> int: ...

    def value(self, picked: Picked | None = None) -> float:
        """Return the metric over all samples, or over those at the given positions, repeats included."""


@dataclass(frozen=True, slots=True, eq=False)
class SampleScores:
    """A metric that is a (weighted) mean over samples: sum(values) / sum(weights).

    Args:
        values: Shape (n,).
        weights: Shape (n,); None gives every sample the weight 1.
    """

    values: Floats
    weights: Floats | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def binary(self) -> bool:
        """Whether every sample is either right, 1, or wrong, 0."""
        return self.weights is None and bool(np.isin(self.values, (0.0, 1.0)).all())

    def first(self, count: int) -> SampleScores:
        """Return the scores of the first `count` samples."""
        return SampleScores(self.values[:count], None if self.weights is None else self.weights[:count])

    def value(self, picked: Picked | None = None) -> float:
        """See `Scores.value`."""
        values = self.values if picked is None else self.values[picked]
        if self.weights is None:
            return float(values.mean())
        return float(values.sum() / (self.weights if picked is None else self.weights[picked]).sum())


class Scorer(Protocol):
    """Scores one model."""

    def add(self, batch: Judged) -> None:
        """Take one batch.

        Raises:
            DataError: Outputs or truth are not what the metric takes.
            DifferenceError: Outputs hold NaN.
            InputError: A function of the user's failed.
        """

    def finish(self) -> Scores:
        """Return the scores of all samples that were added."""

    def state(self) -> dict[str, Array]:
        """Return all that was kept, as plain arrays."""

    def extend(self, state: Arrays) -> None:
        """Take in the state of a scorer that scored the samples that follow.

        Raises:
            KeyError: An array is missing.
            ValueError: One is of another kind or size.
        """


@dataclass(frozen=True, slots=True)
class Request:
    """What a scorer is made from.

    Args:
        side: "candidate" or "reference", for messages.
        outputs: The model's outputs.
        output: Name of the one to read; None leaves it to the metric.
        options: The metric's options, as texts.
        argument: What stands in the metric's name, such as the 5 of "top-5".
    """

    side: str
    outputs: tuple[TensorSpec, ...]
    output: str | None
    options: Mapping[str, str]
    argument: str = ""


class EachSample:
    """A scorer that scores every sample by itself; a `Scorer`.

    Args:
        score: Called with each batch.
    """

    def __init__(self, score: ScoreFunction) -> None:
        self._score = score
        self._values: list[Floats] = []
        self._weights: list[Floats] = []

    def add(self, batch: Judged) -> None:
        """See `Scorer.add`."""
        scored = self._score(batch)
        values, weights = scored if isinstance(scored, tuple) else (scored, None)
        self._values.append(np.asarray(values, dtype=np.float64))
        if weights is not None:
            self._weights.append(np.asarray(weights, dtype=np.float64))

    def finish(self) -> SampleScores:
        """See `Scorer.finish`."""
        values = np.concatenate(self._values) if self._values else np.zeros(0)
        if not self._weights:
            return SampleScores(values)
        weights = np.concatenate(self._weights)
        if not weights.sum() > 0:
            raise DataError("every label is empty, so the errors cannot be divided by their length")
        return SampleScores(values, weights)

    def state(self) -> dict[str, Array]:
        """See `Scorer.state`."""
        kept = {"values": self._values, "weights": self._weights}
        return {name: np.concatenate(parts) for name, parts in kept.items() if parts}

    def extend(self, state: Arrays) -> None:
        """See `Scorer.extend`."""
        values, weights = state["values"], state.get("weights")
        for array in (values, values if weights is None else weights):
            if array.dtype != np.float64 or array.shape != (values.size,) or not np.isfinite(array).all():
                raise ValueError("these are not scores")
        self._values.append(values)
        if weights is not None:
            self._weights.append(weights)


def choose_output(request: Request, *, ranks: Sequence[int], meaning: str) -> str:
    """Return the output that a metric reads: the one that was named, or the only one of a fitting rank.

    Args:
        request: What was asked.
        ranks: Ranks that fit.
        meaning: What the metric needs, for the message, e.g. "one output of class scores,".

    Raises:
        DataError: The output is missing; or it was not named, and not exactly one fits.
    """
    names = [spec.name for spec in request.outputs]
    if request.output is not None:
        if request.output not in names:
            raise DataError(f"the model has no output {request.output!r}; its outputs are {names}")
        return request.output
    fitting = [spec.name for spec in request.outputs if len(spec.shape) in ranks]
    if len(fitting) != 1:
        found = "none" if not fitting else f"{len(fitting)} ({', '.join(fitting)})"
        raise DataError(f"{meaning} is needed, and {found} of {names} has that rank; name it with --output")
    return fitting[0]


def require_truth(truth: Arrays, name: str, what: str) -> Array:
    """Return an array of what is known of the samples.

    Raises:
        DataError: It is not in the data.
    """
    if name not in truth:
        held = f"it has {sorted(truth)}" if truth else "it has no labels"
        raise DataError(f"{what} needs {name!r} in the data, and {held}; add the array, or another --metric")
    return truth[name]


def require_finite(scores: Array, output: str, side: str) -> None:
    """Raise DifferenceError when an output is NaN for a sample."""
    # The smallest is NaN if any value is, and is found several times faster than each is looked at.
    if not is_floating(scores.dtype) or not scores.size or not np.isnan(scores.min()):
        return
    bad = int(np.isnan(scores).reshape(len(scores), -1).any(axis=1).sum())
    if bad:
        raise DifferenceError(f"output {output!r} of the {side} is NaN for {bad} of {len(scores)} samples")


def option(options: Mapping[str, str], name: str, default: str, allowed: Sequence[str] = ()) -> str:
    """Return an option's text.

    Raises:
        InputError: It is not among those that are allowed.
    """
    value = options.get(name, default)
    if allowed and value not in allowed:
        raise InputError(f"the option {name}={value} is invalid; choose {', '.join(allowed)}")
    return value
