"""Accuracy budget: the reconstruction that prunes most of the work and whose loss stays within a limit."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nm2trt.errors import DifferenceError, InputError
from nm2trt.pipeline.budget_report import BudgetPoint, BudgetReport, plot_points
from nm2trt.pipeline.calibration_input import open_calibration

if TYPE_CHECKING:
    from nm2trt.graph.reconstruct.report import ReconstructOptions, ReconstructReport
    from nm2trt.graph.reconstruct.sensitivity import Sensitivity
    from nm2trt.validation.samples.samples import Samples

__all__ = ["Evaluation", "prune_within_budget"]

# Two shares of the work nearer than this are not told apart.
_NEAR = 0.08
_FIRST = (1.0, 0.75, 0.5, 0.25)
_MOST_POINTS = 7


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
        plot: Picture of the metric against the share, to write.
    """

    data: str | os.PathLike[str]
    max_drop: str
    metrics: Sequence[str] = ()
    metric_options: Sequence[str] = ()
    backend: str | None = None
    targets: str | None = None
    gain: str | os.PathLike[str] | None = None
    plot: str | os.PathLike[str] | None = None


def prune_within_budget(
    model: str | os.PathLike[str],
    output: Path,
    options: ReconstructOptions,
    evaluation: Evaluation,
    *,
    calib: str | os.PathLike[str],
    permute: bool = True,
    cache: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
) -> BudgetReport:
    """Write the reconstruction that prunes most and whose loss stays within the budget.

    Layers go back to dense in the order of their output KL, pruned alone, per gain. Each share is a
    reconstruction of its own; the metric's interval decides.

    Args:
        model: The float32 ONNX file.
        output: The file to write.
        options: Pattern, weights, seed; `share` is the largest share to try.
        evaluation: Data, metric, budget, and what counts.
        calib: Calibration samples.
        permute: Permute channels first.
        cache: Folder that keeps solved layers of each share, so that a run that was stopped goes on.
        data_root: Folder that a recipe's paths are relative to; its own by default.
        allow_functions: Run a recipe's `function` source, which is code.

    Raises:
        InputError: A path or an option is wrong.
        DataError: The samples do not fit the model.
        SparsityError: No weight can hold the pattern.
        DifferenceError: No share keeps the budget; the message names the best one, and nothing is written.
    """
    from nm2trt.files import check_output
    from nm2trt.graph.pass_frame import write_model
    from nm2trt.graph.reconstruct.reconstruct_model import check_request, measure_sensitivities
    from nm2trt.graph.storage.model import load
    from nm2trt.graph.storage.save import is_same_file
    from nm2trt.pipeline.reconstruct import normalised

    model = Path(model)
    for path in (calib, evaluation.data):
        if is_same_file(path, output):
            raise InputError(f"the output {output} is the file of samples; give another path with -o")
    if evaluation.plot is not None:
        check_output(evaluation.plot, sources=[model, calib, evaluation.data, output])
    samples = open_calibration(calib, None, data_root, allow_functions=allow_functions)
    check_request(model, output)
    judge = _Judge(model, evaluation, data_root, allow_functions=allow_functions)
    with tempfile.TemporaryDirectory(prefix="nm2trt-") as name:
        folder = Path(name)
        source, note = normalised(model, folder, samples, options, permute=permute)
        counted = _Countable(source, options, evaluation)
        options = replace(options, dense={**options.dense, **counted.beyond})
        found = measure_sensitivities(source, samples, options)
        search = _ShareSearch(
            source, folder, samples, options, found, counted.gains, judge, str(model), cache
        )
        points = search.run()
        passed = [point for point in points if point.passed]
        if not passed:
            raise DifferenceError(_nothing(model, points, judge.max_drop))
        chosen = max(passed, key=lambda point: point.share)
        write_model(load(search.files[chosen], leave_weights=True), output)
        report = replace(search.reports[chosen], output=str(output), **note)
    result = BudgetReport(
        report=report,
        metric=judge.metric,
        max_drop=judge.max_drop,
        n=judge.n,
        dense_value=judge.dense_value,
        higher_is_better=judge.higher_is_better,
        points=tuple(sorted(points, key=lambda point: -point.share)),
        chosen=chosen,
        place=counted.place,
        beyond=counted.beyond,
    )
    if evaluation.plot is not None:
        plot_points(result, Path(evaluation.plot))
    return result


class _Judge:
    """Scores a pruned file against the dense model on the evaluation data."""

    def __init__(
        self,
        model: Path,
        evaluation: Evaluation,
        data_root: str | os.PathLike[str] | None,
        *,
        allow_functions: bool,
    ) -> None:
        from nm2trt.validation.comparison import default_metrics
        from nm2trt.validation.gate import parse_drop
        from nm2trt.validation.metrics.table import metric_options
        from nm2trt.validation.samples.open_samples import open_samples

        self.max_drop = parse_drop(evaluation.max_drop)
        self.samples: Samples = open_samples(
            evaluation.data, data_root=data_root, allow_functions=allow_functions
        )
        names = tuple(evaluation.metrics) or default_metrics(self.samples)[:1]
        if len(names) != 1:
            told = "the data has no labels; name one" if not names else "name only one"
            raise InputError(f"--max-drop judges one metric, and {told} with --metric")
        self.metric = names[0]
        self._options = metric_options(evaluation.metric_options, names)
        self._model = model
        self.n, self.dense_value, self.higher_is_better = 0, 0.0, True

    def point(self, pruned: Path, share: float, dense: tuple[str, ...]) -> BudgetPoint:
        """Return the point of one pruned file."""
        from nm2trt.pipeline.sessions import open_session
        from nm2trt.validation.comparison import compare_sessions
        from nm2trt.validation.gate import hold_to

        with open_session(pruned) as candidate, open_session(self._model) as reference:
            comparison = compare_sessions(
                candidate, reference, self.samples, metrics=(self.metric,), options=self._options
            )
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


class _Countable:
    """Which layers count: those that a builder can run sparse, each with its gain.

    Attributes:
        beyond: Reasons by weight of the layers that do not count.
        gains: Gain by weight; None takes the work.
        place: Builder and targets, as a clause.
    """

    def __init__(self, source: Path, options: ReconstructOptions, evaluation: Evaluation) -> None:
        self.beyond: dict[str, str] = {}
        self.gains: dict[str, float] | None = None
        self.place = ""
        asked = evaluation.backend is not None or evaluation.targets is not None
        if not asked and evaluation.gain is None:
            return
        if str(options.pattern) != "2:4":
            raise InputError(f"sparse kernels take 2:4; leave --target and --gain out for {options.pattern}")
        if asked:
            self._by_builder(source, evaluation)
        if evaluation.gain is not None:
            self._by_table(source, evaluation)

    def _by_builder(self, source: Path, evaluation: Evaluation) -> None:
        from nm2trt.backends.choice import place_of
        from nm2trt.backends.options import parse_targets
        from nm2trt.graph.verify.verify_model import verify_model
        from nm2trt.nm.eligibility import can_run_sparse
        from nm2trt.nm.outlook import assumed_sparse

        targets = () if evaluation.targets is None else parse_targets(evaluation.targets)
        place = place_of(evaluation.backend, targets)
        rows = verify_model(source).weights
        self.place = place.suffix
        # The file is float32 still; it counts if a type that it may be lowered to has a sparse kernel.
        lowered = [assumed_sparse(rows, dtype=dtype) for dtype in ("int8", "float16", "bfloat16")]
        for row, *others in zip(rows, *lowered, strict=True):
            answers = [can_run_sparse(one.facts, place) for one in others if one.facts is not None]
            if answers and not any(answer.answer == "yes" for answer in answers):
                self.beyond[row.weight] = f"no sparse kernel can run it{place.suffix}: {answers[0].sentence}"

    def _by_table(self, source: Path, evaluation: Evaluation) -> None:
        from nm2trt.pipeline.gain import gain

        report = gain(
            source,
            evaluation.gain or "",
            device=evaluation.targets.split(",")[0] if evaluation.targets else None,
            as_dtype="int8",
            backend=evaluation.backend,
        )
        self.gains = {}
        for layer in report.layers:
            saved = 0.0 if not layer.speedup or layer.pays != "yes" else 1.0 - 1.0 / layer.speedup
            self.gains[layer.weight] = saved * float(layer.macs or 0)
            if layer.pays == "no":
                self.beyond.setdefault(layer.weight, f"the gain table says: {layer.sentence}")


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


def _nothing(model: Path, points: Sequence[BudgetPoint], max_drop: float) -> str:
    best = max(points, key=lambda point: point.difference_low)
    return (
        f"no share of {model} that was tried keeps a loss within {100 * max_drop:g} points; the best prunes "
        f"{best.share:.0%} of the work: {best.sentence}; allow more with --max-drop, give more samples, or "
        "lower --share; nothing was written"
    )
