"""Top-1 accuracy of two models on the same labelled samples, and how far their outputs differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nm2trt.backends.protocol import Session, TensorSpec
from nm2trt.compare import OutputDifference, compare_outputs
from nm2trt.errors import DataError, DifferenceError
from nm2trt.progress import track
from nm2trt.validation.data import Feeds, LabelledSet, fit_to, predict
from nm2trt.validation.paired import PairedDifference, wilson_interval

__all__ = ["Accuracy", "AccuracyComparison", "compare_accuracy"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share of samples that one model gets right.

    Args:
        right: Samples whose largest score is that of their label.
        n: Samples.
        top1: right / n.
        low: Lower end of the 95 % Wilson interval.
        high: Upper end.
    """

    right: int
    n: int
    top1: float
    low: float
    high: float

    @classmethod
    def of(cls, right: int, n: int) -> Accuracy:
        """Compute the share and its interval."""
        return cls(right, n, right / n, *wilson_interval(right, n))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class AccuracyComparison:
    """Two models on the same samples.

    Args:
        output: The output that the classes were read from.
        candidate: Accuracy of the candidate.
        reference: Accuracy of the reference.
        paired: The difference of the two, with its interval.
        agreement: Share of samples for which both name the same class.
        differences: How far each output is from the reference's.
        conversions: What was converted to feed each side, by "candidate" and "reference".
    """

    output: str
    candidate: Accuracy
    reference: Accuracy
    paired: PairedDifference
    agreement: float
    differences: tuple[OutputDifference, ...]
    conversions: Mapping[str, tuple[str, ...]]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "output": self.output,
            "candidate": self.candidate.to_json(),
            "reference": self.reference.to_json(),
            "paired": self.paired.to_json(),
            "agreement": self.agreement,
            "differences": [item.to_json() for item in self.differences],
            "conversions": {side: list(sentences) for side, sentences in self.conversions.items()},
        }


def compare_accuracy(
    candidate: Session,
    reference: Session,
    data: LabelledSet,
    *,
    output: str | None = None,
    batch: int | None = None,
) -> AccuracyComparison:
    """Run all samples through both models and compare top-1 accuracy and outputs.

    Args:
        candidate: The model in question.
        reference: The model it is held against; the same inputs and outputs by name.
        data: Samples; floating inputs are converted to each model's dtype.
        output: Output of class scores, shape (n, classes); by default the only output of that rank.
        batch: Batch size where a model leaves it free.

    Raises:
        DataError: The samples do not fit a model, no output holds class scores, or a label is out of range.
        DifferenceError: The models' outputs have other names or shapes, or class scores are NaN.
    """
    chosen = _scores_output(candidate.outputs, output)
    names = {spec.name for spec in candidate.outputs}
    if names != {spec.name for spec in reference.outputs}:
        raise DifferenceError(
            f"the candidate's outputs are {sorted(names)}, the reference's "
            f"{sorted(spec.name for spec in reference.outputs)}; only equal names can be compared"
        )
    sides = {"candidate": candidate, "reference": reference}
    feeds = {side: fit_to(session, data, batch=batch) for side, session in sides.items()}
    outputs = {side: _all_outputs(session, feeds[side], side) for side, session in sides.items()}
    classes = {side: _classes(outputs[side][chosen], data, side, chosen) for side in sides}
    right = {side: classes[side] == data.labels for side in sides}
    return AccuracyComparison(
        output=chosen,
        candidate=Accuracy.of(int(right["candidate"].sum()), len(data)),
        reference=Accuracy.of(int(right["reference"].sum()), len(data)),
        paired=PairedDifference.of(
            n=len(data),
            gained=int((right["candidate"] & ~right["reference"]).sum()),
            lost=int((right["reference"] & ~right["candidate"]).sum()),
        ),
        agreement=float((classes["candidate"] == classes["reference"]).mean()),
        differences=tuple(compare_outputs(outputs["candidate"], outputs["reference"])),
        conversions={side: feeds[side].conversions for side in sides},
    )


def _scores_output(outputs: tuple[TensorSpec, ...], wanted: str | None) -> str:
    names = [spec.name for spec in outputs]
    if wanted is not None:
        if wanted not in names:
            raise DataError(f"the model has no output {wanted!r}; its outputs are {names}")
        return wanted
    scores = [spec.name for spec in outputs if len(spec.shape) == 2]
    if len(scores) != 1:
        found = "none" if not scores else f"{len(scores)} ({', '.join(scores)})"
        raise DataError(
            f"top-1 needs one output of class scores, shape (n, classes), and {found} of {names} has "
            "that rank; name it with --output"
        )
    return scores[0]


def _all_outputs(session: Session, feeds: Feeds, what: str) -> dict[str, Array]:
    total = -(-len(next(iter(feeds.arrays.values()))) // feeds.batch)
    parts = [
        outputs for _, outputs in track(predict(session, feeds, what=what), f"running the {what}", total)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _classes(scores: Array, data: LabelledSet, what: str, output: str) -> npt.NDArray[np.intp]:
    if scores.ndim != 2 or not scores.shape[1]:
        raise DataError(f"output {output!r} of the {what} has shape {scores.shape}, not (n, classes)")
    low, high = int(data.labels.min()), int(data.labels.max())
    if low < 0 or high >= scores.shape[1]:
        raise DataError(
            f"the labels run from {low} to {high}, but output {output!r} of the {what} has "
            f"{scores.shape[1]} classes, 0 to {scores.shape[1] - 1}"
        )
    bad = int(np.isnan(scores).any(axis=1).sum())
    if bad:
        raise DifferenceError(f"output {output!r} of the {what} is NaN for {bad} of {len(data)} samples")
    return np.asarray(scores.argmax(axis=1))
