"""Search for ranges and placement: calibration method, and layers that stay in float, by held-out loss.

Half of the samples choose the ranges, the other half judges. Methods are tried on the whole network; if none
keeps the loss within its limit, depthwise convolutions go back to float (they have no sparse kernels), then
the sharpest layers: those that alone cost the most divergence per sparse work that floating them gives up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nm2trt.calibration.collectors import Choice
from nm2trt.calibration.ranges import Ranges, calibrate_each
from nm2trt.calibration.stream import SampleStream
from nm2trt.errors import DifferenceError
from nm2trt.figures import counted, percent
from nm2trt.graph.execute.output_verdict import OutputVerdict
from nm2trt.graph.execute.range_probes import observable
from nm2trt.graph.quantize.calibrate_model import place_layers
from nm2trt.graph.quantize.held_out_trials import Trials, first_samples, split
from nm2trt.graph.quantize.qdq_placement import Layer
from nm2trt.graph.quantize.report import QuantizeOptions
from nm2trt.graph.quantize.search_report import RangeSearch, Trial, finer_than_one
from nm2trt.graph.storage.model import Model
from nm2trt.graph.storage.model_hash import model_hash
from nm2trt.progress import bar

# Entropy is left out: it takes longer than all of these together.
CHOICES: tuple[Choice, ...] = (
    ("minmax", 100.0),
    ("percentile", 99.999),
    ("percentile", 99.99),
    ("percentile", 99.9),
)
_FITTED, _PROBED = 64, 16
# Floating a layer that no sparse kernel could run gives up this share of what a sparse one would.
_NOT_SPARSE = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Searched:
    """What a search settled on.

    Args:
        options: The options with the method that was found.
        sharp: Reasons of the layers that stay in float, by label.
        ranges: The ranges.
        record: Every trial.
    """

    options: QuantizeOptions
    sharp: Mapping[str, str]
    ranges: Ranges
    record: RangeSearch


def search_ranges(
    model: Model,
    samples: SampleStream,
    options: QuantizeOptions,
    work: Mapping[str, tuple[float, bool]],
    *,
    cache: Path | None,
) -> Searched:
    """Find ranges and placement whose loss on held-out samples is within `options.max_loss`.

    Args:
        model: The float32 model; it is left as it was.
        samples: Calibration samples.
        options: How to quantise; `max_loss` is the limit.
        work: By label of a layer: its multiply-accumulates, and whether they can run sparse in INT8.
        cache: File that keeps what calibration found.

    Raises:
        DifferenceError: No trial is within the limit; the message names the best one.
        DataError: The samples do not fit the model.
    """
    fit, judged = split(samples)
    with bar("search", 1.0) as shown:
        trials = Trials(model, options, judged, shown)
        return _Search(trials, first_samples(fit, _FITTED), work, cache).run()


def best_ranges(
    model: Model, samples: SampleStream, options: QuantizeOptions
) -> tuple[QuantizeOptions, Ranges]:
    """Return the options with the method whose ranges diverge least on held-out samples, and these ranges.

    Args:
        model: The float32 model; it is left as it was.
        samples: Calibration samples.
        options: How to quantise.

    Raises:
        DataError: The samples do not fit the model.
    """
    fit, judged = split(samples)
    with bar("ranges", 1.0) as shown:
        search = _Search(Trials(model, options, judged, shown), first_samples(fit, _FITTED), {}, None)
        trial, ranges = search.best()
    return replace(options, method=trial.method, percentile=trial.percentile), ranges


class _Search:
    """The order of trials."""

    def __init__(
        self,
        trials: Trials,
        fit: SampleStream,
        work: Mapping[str, tuple[float, bool]],
        cache: Path | None,
    ) -> None:
        self._trials, self._fit, self._work, self._cache = trials, fit, work, cache
        self._options = trials.options
        self._limit = float(self._options.max_loss or 0.0)
        editor = trials.copy()
        self._placed = place_layers(editor, self._options)
        self._record: list[Trial] = []
        self._counted = False  # whether a loss is a number of samples

    def best(self) -> tuple[Trial, Ranges]:
        """Return the trial with the widest ranges within the limit; if none is, that of least divergence."""
        found = self._calibrated(list(self._placed.points), CHOICES)
        tried: list[tuple[Trial, Ranges]] = []
        for number, (choice, ranges) in enumerate(found.items()):
            self._trials.shown.update(0.1 * number / len(found), description=f"search {_words(choice)}")
            tried.append((self._try(choice, ranges, {}), ranges))
        # Clipping that pays on few samples may not on others: the widest ranges within the limit are taken.
        within = next((item for item in tried if item[0].loss <= self._limit), None)
        return within or min(tried, key=lambda item: item[0].divergence)

    def run(self) -> Searched:
        """Return the first placement within the limit that gives up least."""
        trial, ranges = self.best()
        if trial.loss <= self._limit:
            return self._settled(trial, ranges, {})
        depthwise = {
            layer.label: "depthwise: never sparse, and the loss is smaller with it in float"
            for layer in self._placed.quantised
            if layer.is_depthwise
        }
        sharp: dict[str, str] = {}
        if 0 < len(depthwise) < len(self._placed.quantised):
            ranges = self._covering(ranges, trial, [depthwise])
            other = self._try((trial.method, trial.percentile), ranges, depthwise)
            if other.divergence < trial.divergence:
                trial, sharp = other, depthwise
            if trial.loss <= self._limit:
                return self._settled(trial, ranges, sharp)
        return self._float_the_sharpest(trial, ranges, sharp)

    def _calibrated(self, values: Sequence[str], choices: Sequence[Choice]) -> dict[Choice, Ranges]:
        seen = observable(self._trials.model, values, whole=True)
        return calibrate_each(
            seen.open,
            seen.observed,
            self._fit,
            choices,
            model_sha256=model_hash(self._trials.model),
            cache=self._cache if choices is CHOICES else None,
        )

    def _covering(self, ranges: Ranges, trial: Trial, sharps: Iterable[Mapping[str, str]]) -> Ranges:
        """Return ranges that cover the values of other placements too: a layer in float moves pairs."""
        needed: dict[str, None] = {}
        for sharp in sharps:
            needed |= dict.fromkeys(self._trials.place(self._trials.copy(), sharp).points)
        missing = [value for value in needed if value not in ranges.low]
        if not missing:
            return ranges
        choice: Choice = (trial.method, trial.percentile)
        more = self._calibrated(missing, (choice,))[choice]
        return replace(ranges, low={**ranges.low, **more.low}, high={**ranges.high, **more.high})

    def _try(self, choice: Choice, ranges: Ranges, sharp: Mapping[str, str]) -> Trial:
        verdicts = self._trials.run(ranges, sharp)
        trial = Trial(
            choice[0], choice[1], tuple(sharp), _loss(verdicts), _divergence(verdicts), self._trials.samples
        )
        self._record.append(trial)
        self._counted = any(verdict.same_answers is not None for verdict in verdicts)
        return trial

    def _settled(self, trial: Trial, ranges: Ranges, sharp: Mapping[str, str]) -> Searched:
        options = replace(self._options, method=trial.method, percentile=trial.percentile)
        record = RangeSearch(self._limit, tuple(self._record), trial, self._counted)
        return Searched(options, sharp, ranges, record)

    def _float_the_sharpest(self, trial: Trial, ranges: Ranges, sharp: dict[str, str]) -> Searched:
        """Leave in float as few of the sharpest layers as keep the limit, found by doubling and halving."""
        choice: Choice = (trial.method, trial.percentile)
        rest = [layer for layer in self._placed.quantised if layer.label not in sharp]
        ranges = self._covering(ranges, trial, [self._all_but(layer) for layer in rest])
        order = self._sharpest(ranges, rest)
        covered = [ranges]

        def attempt(count: int) -> tuple[Trial, dict[str, str]]:
            self._trials.shown.update(0.7, description=f"search {counted(count, 'layer')} in float")
            chosen = {**sharp, **dict(order[:count])}
            covered.append(self._covering(covered[-1], trial, [chosen]))
            return self._try(choice, covered[-1], chosen), chosen

        most = len(order) - 1
        low, high = 0, 1
        fits: dict[int, tuple[Trial, dict[str, str]]] = {}
        while high < most:
            fits[high] = attempt(high)
            if fits[high][0].loss <= self._limit:
                break
            low, high = high, 2 * high
        high = min(high, most)
        if high > 0 and high not in fits:
            fits[high] = attempt(high)
        if high <= 0 or fits[high][0].loss > self._limit:
            raise DifferenceError(self._nothing())
        while high - low > 1:
            middle = (low + high) // 2
            fits[middle] = attempt(middle)
            if fits[middle][0].loss <= self._limit:
                high = middle
            else:
                low = middle
        return self._settled(fits[high][0], covered[-1], fits[high][1])

    def _all_but(self, layer: Layer) -> dict[str, str]:
        return {x.label: "another layer" for x in self._placed.quantised if x.label != layer.label}

    def _sharpest(self, ranges: Ranges, layers: Sequence[Layer]) -> list[tuple[str, str]]:
        """Return labels and reasons, the layer whose float form pays most per lost sparse work first."""
        total = sum(self._work.get(layer.label, (0.0, False))[0] for layer in layers) or 1.0
        scored = []
        for number, layer in enumerate(layers):
            self._trials.shown.update(
                0.1 + 0.6 * number / len(layers), description=f"search {layer.label} alone"
            )
            alone = _divergence(self._trials.run(ranges, self._all_but(layer), most=_PROBED))
            macs, sparse = self._work.get(layer.label, (0.0, False))
            cost = (1.0 if sparse else _NOT_SPARSE) * max(macs / total, 1e-3)
            reason = f"sensitive: a divergence of {alone:.2g} if only it is quantised"
            scored.append((alone / cost, layer.label, reason))
        scored.sort(key=lambda item: -item[0])
        return [(label, reason) for _, label, reason in scored]

    def _nothing(self) -> str:
        best = min(self._record, key=lambda trial: (trial.loss, trial.divergence))
        if math.isinf(best.loss):
            return (
                f"no trial of {self._trials.model.name} in {self._options.to} can be judged: an output holds "
                f"NaN or infinity, or changes its shape, on the {counted(best.samples, 'held-out sample')}; "
                "leave --max-loss out, or give samples whose outputs are finite; nothing was written"
            )
        finer = finer_than_one(self._limit, best.samples) if self._counted else ""
        return (
            f"no trial of {self._trials.model.name} in {self._options.to} loses at most "
            f"{percent(self._limit)} on {counted(best.samples, 'held-out sample')}; the best, "
            f"{_words((best.method, best.percentile))} with "
            f"{counted(len(best.float_layers), 'layer')} in float, loses {percent(best.loss)}{finer}: allow "
            "more with --max-loss, or give more samples; nothing was written"
        )


def _words(choice: Choice) -> str:
    return f"{choice[0]} {choice[1]:g}" if choice[0] == "percentile" else choice[0]


def _loss(verdicts: Sequence[OutputVerdict]) -> float:
    return max((_or_worst(verdict.loss, verdict) for verdict in verdicts), default=float("inf"))


def _divergence(verdicts: Sequence[OutputVerdict]) -> float:
    return sum(_or_worst(verdict.divergence, verdict) for verdict in verdicts) if verdicts else float("inf")


def _or_worst(value: float | None, verdict: OutputVerdict) -> float:
    """Return a figure; infinity if rows were NaN or infinite, or could not be compared."""
    return float("inf") if value is None or verdict.remark else value
