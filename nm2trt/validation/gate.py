"""Pass or fail: the interval of a loss against the largest drop, and outputs against tolerances."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from nm2trt.compare.output_difference import UNRELATED, OutputDifference
from nm2trt.errors import InputError
from nm2trt.figures import counted, percent
from nm2trt.json_value import JsonValue
from nm2trt.validation.comparison import Comparison, MetricComparison

# A bare number from here up is more often meant as percentage points than as a share.
_AMBIGUOUS = 0.1
# Fewer samples do not tell a model from a guess.
_FEWEST = 20
_DROP = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(pt|pts|points?)?")


@dataclass(frozen=True, slots=True)
class Gate(JsonValue):
    """Whether a metric lost no more than was allowed, or an output stayed within its limits.

    Args:
        metric: The metric, "tolerance" or "cosine".
        max_drop: Largest loss allowed, in the metric's own unit; None for a limit of another kind.
        passed: The limit was kept; for `max_drop`, the interval excludes a larger loss.
        sentence: The same in words, with the numbers.
        output: The output that was judged, or "".
        limits: The limits by their option's name.
    """

    metric: str
    max_drop: float | None
    passed: bool
    sentence: str
    output: str = ""
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """What outputs are held to; None leaves a limit out.

    Args:
        rtol: With `atol`: every element keeps |a - b| <= atol + rtol * |b|, b the reference. One that is not
            given counts as 0, so that only one of the two is needed.
        atol: See `rtol`.
        min_cosine: Lowest cosine of an output; that of an all-zero output is undefined, and fails.
        min_agreement: Lowest share of samples for which both name the same class.

    Raises:
        InputError: A limit is out of its range.
    """

    rtol: float | None = None
    atol: float | None = None
    min_cosine: float | None = None
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        for name, low, high in (
            ("rtol", 0.0, math.inf),
            ("atol", 0.0, math.inf),
            ("min_cosine", -1.0, 1.0),
            ("min_agreement", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if value is not None and not (low <= value <= high and math.isfinite(value)):
                option = f"--{name.replace('_', '-')}"
                allowed = "0 or more" if high == math.inf else f"from {low:g} to {high:g}"
                raise InputError(f"{option} {value:g} is out of range; give a number {allowed}")

    @property
    def tolerance(self) -> tuple[float, float] | None:
        """(atol, rtol), or None if neither was given."""
        if self.rtol is None and self.atol is None:
            return None
        return self.atol or 0.0, self.rtol or 0.0

    def judge(
        self, differences: Sequence[OutputDifference], metrics: Sequence[MetricComparison]
    ) -> Iterator[Gate]:
        """Yield a gate for every output and limit, and one for the agreement."""
        # A state of length 0, or boxes of images that show nothing, is empty: others are the evidence.
        others = any(item.elements for item in differences)
        for item in differences:
            if self.tolerance is not None:
                yield _hold_to_tolerance(item, *self.tolerance, empty_passes=others)
            if self.min_cosine is not None:
                yield _hold_to_cosine(item, self.min_cosine)
        for metric in metrics:
            if self.min_agreement is not None and metric.name == "agreement":
                yield _hold_to_agreement(metric, self.min_agreement)


def _hold_to_tolerance(item: OutputDifference, atol: float, rtol: float, *, empty_passes: bool) -> Gate:
    outside = item.outside or 0
    limit = f"{atol:g} + {rtol:g} |b|"
    remark = item.remark
    if item.unequal_shapes:
        words, remark = f"its size differs from the reference's in {item.unequal_shapes} runs", ""
    elif item.nan_in_both:
        beyond = f"{outside - item.nan_in_both:,} of {item.elements:,} elements are beyond {limit}"
        words = f"{beyond}, and {item.nan_in_both} are NaN on both sides, which no tolerance admits"
        remark = ""
    elif outside:
        worst = "" if math.isnan(item.max_abs) else f"; the largest difference is {item.max_abs:.3g}"
        words = f"{outside:,} of {item.elements:,} elements are beyond {limit}{worst}"
    elif not item.elements:
        words, remark = f"it is empty on both sides, so there is nothing to hold to {limit}", ""
    elif math.isnan(item.max_abs):
        words = f"nothing is left to hold to {limit}"
    elif item.infinite_in_both:
        words = (
            f"all of {counted(item.elements - item.infinite_in_both, 'finite element')} lie within {limit}"
        )
    else:
        words = f"all of {counted(item.elements, 'element')} lie within {limit}"
    sentence = f"output {item.name!r}: {words}" + (f"; {remark}" if remark else "")
    held = not outside and not item.unequal_shapes and not math.isnan(item.max_abs)
    passed = held and (item.elements > 0 or empty_passes)
    return Gate("tolerance", None, passed, sentence, item.name, {"atol": atol, "rtol": rtol})


def _hold_to_cosine(item: OutputDifference, least: float) -> Gate:
    high = item.cosine is not None and item.cosine >= least
    passed = high and not item.unequal_shapes and not item.nan_in_both
    if item.unequal_shapes:
        words = f"its size differs from the reference's in {item.unequal_shapes} runs"
    elif not item.elements:
        words = f"it is empty on both sides, so there is nothing to hold to a cosine of {least:g}"
    elif item.cosine is None:
        words = f"the cosine is undefined, since {_why_undefined(item)}"
    else:
        shown = item.cosine_text if high or float(item.cosine_text) < least else repr(item.cosine)
        words = f"cosine {shown}, {'at least' if high else 'less than'} {least:g}"
        words += f", but {item.remark}" if item.remark else ""
    return Gate("cosine", None, passed, f"output {item.name!r}: {words}", item.name, {"min_cosine": least})


def _hold_to_agreement(metric: MetricComparison, least: float) -> Gate:
    score = metric.candidate
    passed = score.value >= least
    sentence = (
        f"agreement {percent(score.value, 2)} "
        f"(95 % interval {percent(score.low, 2)} to {percent(score.high, 2)}), "
        f"{'at least' if passed else 'less than'} {percent(least, 2)}"
    )
    return Gate("agreement", None, passed, sentence, limits={"min_agreement": least})


def _why_undefined(item: OutputDifference) -> str:
    if math.isnan(item.max_abs) or item.nan_in_both + item.infinite_in_both == item.elements:
        return item.remark
    if item.max_abs == 0:
        return "the output is all zero on both sides (--atol 0 asks for equality)"
    return f"the {'reference' if item.max_relative == math.inf else 'candidate'} is all zero"


def suspicions(differences: Sequence[OutputDifference]) -> tuple[str, ...]:
    """Return a sentence for each output that looks unrelated to the reference, or could not be compared."""
    found = []
    nothing = not any(item.elements for item in differences)  # as in `judge`, others are the evidence
    for item in differences:
        name = f"output {item.name!r}"
        if item.unequal_shapes:
            found.append(f"{name} has another size than the reference in {item.unequal_shapes} runs")
        elif item.nan_in_both or nothing:
            found.append(f"{name}: {item.remark}")
        elif item.cosine is None and item.elements:
            found.append(f"{name}: {_why_undefined(item)}")
        elif item.cosine is not None and item.cosine < UNRELATED:
            found.append(
                f"{name} has a cosine of {item.cosine:.3f} to the reference: the models may be unrelated"
            )
    return tuple(found)


def guesses(comparison: Comparison, reference: str) -> tuple[str, ...]:
    """Return a sentence if the reference is no better than a guess: then no loss can show."""
    top = next((metric.reference for metric in comparison.metrics if metric.name == "top-1"), None)
    if top is None or comparison.n < _FEWEST or len(comparison.differences) != 1:
        return ()
    classes = comparison.differences[0].elements // comparison.n
    # So few samples that the model may as well be good say nothing about it.
    if classes < 2 or top.low * classes > 1 or 2 * top.high > 1 + 1 / classes:
        return ()
    told = f"the reference {reference} is right in {percent(top.value, 1)} of the samples, as a guess among"
    advice = "if it should be better, check the order of the labels and the preprocessing"
    return (f"{told} {classes} classes may be: {advice}",)


def parse_drop(text: str) -> float:
    """Return a drop in the metric's unit: "0.5pt" is half a percentage point, 0.005; "0.005" is the same.

    Raises:
        InputError: The text is neither, or a bare number that may be meant as points.
    """
    match = _DROP.fullmatch(text.strip())
    if match is None:
        raise InputError(
            f"{text!r} is not a drop; write percentage points as in 0.5pt, or a number in the metric's unit"
        )
    if match[2] is None and float(match[1]) >= _AMBIGUOUS:
        raise InputError(
            f"a drop of {text.strip()} may mean {match[1]} points or a share; write {match[1]}pt or "
            f"{100 * float(match[1]):g}pt"
        )
    return float(match[1]) / (100 if match[2] else 1)


def points(share: float) -> str:
    """Return a share in percentage points, in words."""
    return f"{100 * share:g} point" + "s" * (100 * share != 1)


def hold_to(metric: MetricComparison, max_drop: float) -> Gate:
    """Judge one metric: it passes only if its interval excludes a loss of more than `max_drop`."""
    paired, loss = metric.paired, metric.loss
    worst = -(paired.low if metric.higher_is_better else -paired.high)
    interval = (
        f"{percent(paired.confidence, 0)} interval of the difference {100 * paired.low:+.2f} to "
        f"{100 * paired.high:+.2f} points, n = {paired.n:,}"
    )
    what = "drop" if metric.higher_is_better else "rise"
    allowed = points(max_drop)
    if worst <= max_drop:
        words = f"a {what} of more than {allowed} is excluded ({interval})"
    elif loss > max_drop:
        words = f"the {what} is {100 * loss:.2f} points, more than {allowed} ({interval})"
    else:
        words = f"a {what} of more than {allowed} is not excluded ({interval})"
        if max_drop > loss:
            # An interval narrows with the square root of n.
            needed = math.ceil(paired.n * ((worst - loss) / (max_drop - loss)) ** 2)
            words += f"; about {_rounded_up(needed):,} samples would decide it, if the difference stays"
    return Gate(metric.name, max_drop, worst <= max_drop, f"{metric.name}: {words}")


def _rounded_up(count: int) -> int:
    step = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // step) * step
