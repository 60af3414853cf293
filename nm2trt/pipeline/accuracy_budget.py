"""Accuracy budget: the reconstruction that prunes most of the work and whose loss stays within a limit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nm2trt.errors import DifferenceError, InputError
from nm2trt.figures import percent
from nm2trt.pipeline.budget_report import BudgetPoint, BudgetPoints, BudgetReport, check_plot, plot_points
from nm2trt.pipeline.calibration_input import refuse_as_output
from nm2trt.pipeline.countable_work import CountableWork, check_counted
from nm2trt.pipeline.reconstruct import Calibration, folder_of_copies, normalised

if TYPE_CHECKING:
    from nm2trt.graph.reconstruct.report import ReconstructOptions, ReconstructReport
    from nm2trt.graph.reconstruct.sensitivity import Sensitivity
    from nm2trt.validation.comparison import Comparison
    from nm2trt.validation.samples.samples import Samples

# Two shares of the work nearer than this are not told apart.
_NEAR = 0.08
_FIRST = (1.0, 0.75, 0.5, 0.25)
_MOST_POINTS = 7
# Samples that are scored before the work begins.
_CHECKED = 64


@dataclass(frozen=True, slots=True)
class Evaluation:
    """On what a budget is judged, and what counts as gain.

    Args:
        data: Labelled samples; none of them should be calibration samples.
        max_drop: Largest loss, as "1pt".
        metrics: The metric, at most one; () takes top-1.
        metric_options: Its options, as "blank=0".
        backend: Builder whose sparse kernels count; None counts every layer that can hold the pattern,
            unless `targets` is given.
        targets: Architectures, as in "sm80,sm86".
        gain: A gain table, by which layers are weighed instead of by their work.
        shapes: With `gain`: one NAME:SHAPE per input, as in "x:8x3x224x224"; others take one sample.
        plot: Picture of the metric against the share, to write.
    """

    data: str | os.PathLike[str]
    max_drop: str
    metrics: Sequence[str] = ()
    metric_options: Sequence[str] = ()
    backend: str | None = None
    targets: str | None = None
    gain: str | os.PathLike[str] | None = None
    shapes: Sequence[str] = ()
    plot: str | os.PathLike[str] | None = None


def prune_within_budget(
    model: str | os.PathLike[str],
    output: Path,
    options: ReconstructOptions,
    evaluation: Evaluation,
    calibration: Calibration,
) -> BudgetReport:
    """Write the reconstruction that prunes most and whose loss stays within the budget.

    Layers go back to dense in the order of their output KL, pruned alone, per gain. Each share is a
    reconstruction of its own; the metric's interval decides.

    Args:
        model: The float32 ONNX file.
        output: The file to write.
        options: Pattern, weights, seed; `share` is the largest share to try.
        evaluation: Data, metric, budget, and what counts.
        calibration: Calibration samples; its cache keeps the solved layers of each share.

    Raises:
        InputError: A path or an option is wrong.
        DataError: The samples do not fit the model.
        SparsityError: No weight can hold the pattern.
        DifferenceError: No share keeps the budget; the message names the best one, the points are in
            `error.partial`, and nothing is written.
    """
    from nm2trt.files import check_output
    from nm2trt.graph.pass_frame import write_model
    from nm2trt.graph.reconstruct.reconstruct_model import measure_sensitivities
    from nm2trt.graph.storage.model import load
    from nm2trt.graph.storage.save import is_same_file

    model, calib = Path(model), calibration.calib
    refuse_as_output(output, evaluation.data)
    if is_same_file(calib, evaluation.data):
        raise InputError(
            f"{calib} cannot choose the weights and judge them too: what was fitted looks better than it is; "
            "give other samples with --data"
        )
    if evaluation.plot is not None:
        check_plot(Path(evaluation.plot))
        check_output(evaluation.plot, sources=[model, calib, evaluation.data, output])
    check_counted(options, evaluation)
    samples = calibration.open(model, output)
    judge = _Judge(model, evaluation, calibration)
    judge.check()
    with folder_of_copies(Path(model)) as folder:
        source, note = normalised(model, folder, samples, options, permute=calibration.permute)
        counted = CountableWork(source, samples, options, evaluation)
        options = replace(options, dense={**options.dense, **counted.beyond})
        found = measure_sensitivities(source, samples, options)
        search = _ShareSearch(
            source, folder, samples, options, found, counted.gains, judge, str(model), calibration.cache
        )
        points = search.run()
        passed = [point for point in points if point.passed]
        search_found: dict[str, Any] = {
            "metric": judge.metric,
            "max_drop": judge.max_drop,
            "n": judge.n,
            "dense_value": judge.dense_value,
            "higher_is_better": judge.higher_is_better,
            "points": tuple(sorted(points, key=lambda point: -point.share)),
            "place": counted.place,
            "beyond": counted.beyond,
            "notes": (*note["notes"], *counted.notes),
        }
        if not passed:
            error = DifferenceError(_nothing(model, points, judge))
            error.partial = BudgetPoints(**search_found)
            raise error
        chosen = max(passed, key=lambda point: point.share)
        write_model(load(search.files[chosen], leave_weights=True), output)
        report = replace(search.reports[chosen], output=str(output), **note)
    result = BudgetReport(report=report, chosen=chosen, **search_found)
    if evaluation.plot is not None:
        plot_points(result, Path(evaluation.plot))
    return result


class _Judge:
    """Scores a pruned file against the dense model on the evaluation data."""

    def __init__(self, model: Path, evaluation: Evaluation, calibration: Calibration) -> None:
        from nm2trt.validation.comparison import default_metrics
        from nm2trt.validation.gate import parse_drop
        from nm2trt.validation.metrics.table import metric_options
        from nm2trt.validation.samples.open_samples import open_samples

        self.max_drop = parse_drop(evaluation.max_drop)
        self.samples: Samples = open_samples(
            evaluation.data,
            data_root=calibration.data_root,
            allow_functions=calibration.allow_functions,
        )
        names = tuple(evaluation.metrics) or default_metrics(self.samples)[:1]
        if len(names) != 1:
            told = "the data has no labels; name one" if not names else "name only one"
            raise InputError(f"--max-drop judges one metric, and {told} with --metric")
        self.metric = names[0]
        self._options = metric_options(evaluation.metric_options, names)
        self._model = model
        self.n, self.dense_value, self.higher_is_better = 0, 0.0, True

    def check(self) -> None:
        """Score the model on the first samples, so that data that do not fit it are told before the work.

        Raises:
            DataError: The data do not fit the model.
            InputError: The metric cannot read the model's outputs.
        """
        from nm2trt.validation.samples.samples import ArraySamples

        first = next(iter(self.samples.batches(_CHECKED)))
        self._compared(self._model, ArraySamples({**first.inputs, **first.truth}))

    def _compared(self, model: Path, samples: Samples) -> Comparison:
        from nm2trt.pipeline.sessions import open_session
        from nm2trt.validation.comparison import compare_sessions

        with open_session(model) as candidate, open_session(self._model) as reference:
            return compare_sessions(
                candidate, reference, samples, metrics=(self.metric,), options=self._options
            )

    def loss(self, point: BudgetPoint) -> float:
        """Return the largest loss that a point's interval does not exclude."""
        return -point.difference_low if self.higher_is_better else point.difference_high

    def point(self, pruned: Path, share: float, dense: tuple[str, ...]) -> BudgetPoint:
        """Return the point of one pruned file."""
        from nm2trt.validation.gate import hold_to

        comparison = self._compared(pruned, self.samples)
        metric = comparison.metrics[0]
        gate = hold_to(metric, self.max_drop)
        self.n, self.dense_value = comparison.n, metric.reference.value
        self.higher_is_better = metric.higher_is_better
        score, paired = metric.candidate, metric.paired
        return BudgetPoint(
            share=share,
            dense=dense,
            value=score.value,
            low=score.low,
            high=score.high,
            difference=paired.difference,
            difference_low=paired.low,
            difference_high=paired.high,
            passed=gate.passed,
            sentence=gate.sentence,
        )


class _ShareSearch:
    """Reconstructs a model at one share after the other.

    Attributes:
        files: The file of each point.
        reports: Its reconstruction.
    """

    def __init__(
        self,
        source: Path,
        folder: Path,
        samples: Any,
        options: ReconstructOptions,
        found: Mapping[str, Sensitivity],
        gains: Mapping[str, float] | None,
        judge: _Judge,
        name: str,
        cache: str | os.PathLike[str] | None,
    ) -> None:
        self._source, self._folder, self._samples, self._options = source, folder, samples, options
        self._found, self._gains, self._judge, self._name = found, gains, judge, name
        self._cache = None if cache is None else Path(cache)
        self._by_choice: dict[tuple[str, ...], BudgetPoint] = {}
        self.files: dict[BudgetPoint, Path] = {}
        self.reports: dict[BudgetPoint, ReconstructReport] = {}

    def run(self) -> list[BudgetPoint]:
        """Return the points: from the largest share down to one that keeps the budget, then between."""
        most, least = self._options.share, 1.0
        for share in (most * part for part in _FIRST):
            point = self._point(share)
            if point.passed:
                break
            least = share
        low, high = (share, least) if point.passed and share < most else (0.0, 0.0)
        while high - low > _NEAR and len(self._by_choice) < _MOST_POINTS:
            middle = (low + high) / 2
            count = len(self._by_choice)
            passed = self._point(middle).passed
            low, high = (middle, high) if passed else (low, middle)
            if len(self._by_choice) == count and high - low <= 2 * _NEAR:
                break  # no other choice of layers lies between
        return list(self._by_choice.values())

    def _point(self, share: float) -> BudgetPoint:
        from nm2trt.graph.reconstruct.reconstruct_model import reconstruct_model
        from nm2trt.graph.reconstruct.sensitivity import dense_by_sensitivity

        dense = tuple(sorted(dense_by_sensitivity(self._found, share, gains=self._gains)))
        if dense in self._by_choice:
            return self._by_choice[dense]
        file = self._folder / f"share{len(self._by_choice)}.onnx"
        report = reconstruct_model(
            self._source,
            file,
            self._samples,
            replace(self._options, share=share),
            name=self._name,
            sensitivities=self._found,
            gains=self._gains,
            cache=None if self._cache is None else self._cache / f"share{share:.3f}",
        )
        point = self._judge.point(file, report.pruned_share or share, dense)
        self._by_choice[dense] = point
        self.files[point], self.reports[point] = file, report
        return point


def _nothing(model: Path, points: Sequence[BudgetPoint], judge: _Judge) -> str:
    from nm2trt.validation.gate import points as in_points

    best = min(points, key=judge.loss)
    return (
        f"no share of {model} that was tried keeps a loss within {in_points(judge.max_drop)}; the best "
        f"prunes {percent(best.share, 0)} of the work: {best.sentence}; allow more with --max-drop, give "
        "more samples, or lower --share; nothing was written"
    )
