"""Tally of a run of two models over samples: scores per sample, and sums of output differences."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from nm2trt.arrays import Array, Arrays
from nm2trt.backends.batch_axes import data_dependent
from nm2trt.backends.protocol import Session
from nm2trt.compare.difference_sum import DifferenceSum
from nm2trt.compare.output_difference import OutputDifference
from nm2trt.errors import DataError
from nm2trt.validation.metrics.scoring import Judged, Request, SampleScores, Scorer, Scores
from nm2trt.validation.metrics.table import MetricSpec, find_metric
from nm2trt.validation.samples.samples import SampleBatch

SIDES = ("candidate", "reference")


class _SampleOutputs(dict[str, Array]):
    """Outputs that hold one row per sample; a metric that reads another one is told."""

    def __init__(self, outputs: Arrays, count: int) -> None:
        super().__init__({n: array for n, array in outputs.items() if array.shape[:1] == (count,)})

    def __missing__(self, name: str) -> Array:
        raise DataError(
            f"output {name!r} has no batch dimension, so no metric can read it; name another with --output"
        )


class Tally:
    """Scores and differences, added up batch by batch.

    Args:
        sessions: Both models, by "candidate" and "reference".
        metrics: Names of the metrics.
        options: Their options.
        output: Output that the metrics read; None leaves it to them.
        shared: Outputs that both models have.
        tolerance: (atol, rtol) of elements to count; None counts none.

    Attributes:
        n: Samples so far.
        specs: The metrics by name.

    Raises:
        DataError: A metric finds no output that it reads.
        InputError: A metric is unknown.
    """

    def __init__(
        self,
        sessions: Mapping[str, Session],
        metrics: Sequence[str],
        options: Mapping[str, str],
        output: str | None,
        shared: Collection[str],
        tolerance: tuple[float, float] | None,
    ) -> None:
        self.n = 0
        self.specs: dict[str, MetricSpec] = {}
        self._scorers: dict[str, dict[str, Scorer]] = {}
        for name in metrics:
            spec, argument = find_metric(name)
            self.specs[name] = spec
            self._scorers[name] = {
                side: spec.make(Request(side, session.outputs, output, options, argument))
                for side, session in sessions.items()
            }
        free = data_dependent(sessions["reference"].inputs, sessions["reference"].outputs)
        self._sums = {
            spec.name: DifferenceSum(
                spec.name,
                distribution=len(spec.shape) in (2, 3) and _floating(spec.dtype),
                tolerance=tolerance,
                free_size=spec.name in free,
            )
            for spec in sessions["reference"].outputs
            if spec.name in shared
        }

    def add(self, batch: SampleBatch, outputs: Mapping[str, Arrays]) -> None:
        """Add a batch and both models' outputs for it.

        Raises:
            DataError: Outputs or labels are not what a metric takes.
            DifferenceError: The outputs have other shapes, or are NaN.
            InputError: A function of the user's failed.
        """
        scored = {side: _SampleOutputs(arrays, len(batch)) for side, arrays in outputs.items()}
        for scorers in self._scorers.values():
            for side, scorer in scorers.items():
                scorer.add(Judged(scored[side], scored["reference"], batch.truth))
        for name, total in self._sums.items():
            total.add(outputs["candidate"][name], outputs["reference"][name])
        self.n += len(batch)

    def differences(self) -> tuple[OutputDifference, ...]:
        """Return how far each output is from the reference's."""
        return tuple(total.result() for total in self._sums.values())

    def scores(self) -> Iterator[tuple[str, Scores, Scores]]:
        """Yield the scores of both sides by metric, as far as both have the same samples."""
        for name, scorers in self._scorers.items():
            scores = [scorers[side].finish() for side in SIDES]
            # What failed in a batch left its samples with one side, or with the metrics before it.
            whole = [one.first(self.n) for one in scores if isinstance(one, SampleScores)]
            if len(whole) == len(SIDES):
                scores = list(whole)
            elif len(scores[0]) != len(scores[1]):
                continue
            yield name, scores[0], scores[1]

    def state(self) -> dict[str, Array]:
        """Return all that was added up, as plain arrays."""
        return {
            f"{at}/{name}": array
            for at, part in enumerate(self._parts())
            for name, array in part.state().items()
        }

    def extend(self, state: Arrays, count: int) -> None:
        """Add what another tally of the same models added up over the `count` samples that follow.

        Raises:
            KeyError: An array is missing.
            ValueError: One is of another kind or size.
        """
        self.n += count
        for at, part in enumerate(self._parts()):
            start = f"{at}/"
            part.extend({name[len(start) :]: one for name, one in state.items() if name.startswith(start)})

    def _parts(self) -> Iterator[Scorer | DifferenceSum]:
        for scorers in self._scorers.values():
            yield from scorers.values()
        yield from self._sums.values()


def _floating(dtype: str) -> bool:
    return dtype.startswith(("float", "bfloat"))
