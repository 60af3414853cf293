"""Metrics on class scores: top-k, and how often two models name the same class."""

from __future__ import annotations

import numpy as np

from nm2trt.arrays import Array
from nm2trt.errors import DataError
from nm2trt.validation.metrics.scoring import (
    EachSample,
    Judged,
    Request,
    choose_output,
    require_finite,
    require_truth,
)

_SCORES = "one output of class scores, shape (n, classes),"


def make_top_k(request: Request) -> EachSample:
    """Score 1 if the label is among the k largest scores; of equal ones the lower class comes first."""
    output, side, k = choose_output(request, ranks=(2,), meaning=_SCORES), request.side, int(request.argument)

    def score(batch: Judged) -> Array:
        scores = _class_scores(batch.outputs[output], output, side)
        labels = _checked_labels(require_truth(batch.truth, "labels", f"top-{k}"), scores, output, side)
        if k == 1:
            return np.asarray(scores.argmax(axis=1) == labels)
        own = scores[np.arange(len(scores)), labels][:, None]
        before = np.arange(scores.shape[1]) < labels[:, None]
        rank = ((scores > own) | ((scores == own) & before)).sum(axis=1)
        return np.asarray(rank < k)

    return EachSample(score)


def make_agreement(request: Request) -> EachSample:
    """Score 1 if the model names the class that the reference names; the reference's own score is 1."""
    output, side = choose_output(request, ranks=(2,), meaning=_SCORES), request.side

    def score(batch: Judged) -> Array:
        if batch.outputs is batch.reference:
            return np.ones(len(batch.outputs[output]))
        sides = ((batch.outputs, side), (batch.reference, "reference"))
        own, wanted = (_class_scores(one[output], output, name).argmax(axis=1) for one, name in sides)
        return np.asarray(own == wanted)

    return EachSample(score)


def _class_scores(scores: Array, output: str, side: str) -> Array:
    if scores.ndim != 2 or not scores.shape[1]:
        raise DataError(f"output {output!r} of the {side} has shape {scores.shape}, not (n, classes)")
    require_finite(scores, output, side)
    return scores


def _checked_labels(labels: Array, scores: Array, output: str, side: str) -> Array:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"'labels' has shape {labels.shape} and dtype {labels.dtype}; it should be one class index a "
            "sample, shape (n,), of an integer dtype"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= scores.shape[1]:
        raise DataError(
            f"the labels run from {low} to {high}, but output {output!r} of the {side} has "
            f"{scores.shape[1]} classes, 0 to {scores.shape[1] - 1}"
        )
    return labels.astype(np.intp)
