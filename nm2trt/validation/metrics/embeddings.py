"""Metrics on embeddings: cosine to the reference's, and whether the nearest neighbour is of one class."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nm2trt.arrays import Array, Arrays
from nm2trt.errors import DataError
from nm2trt.validation.metrics.scoring import (
    EachSample,
    Judged,
    Request,
    SampleScores,
    choose_output,
    require_finite,
    require_truth,
)

_EMBEDDING = "one output of embeddings, shape (n, size),"
_QUERIES = 256


def make_cosine(request: Request) -> EachSample:
    """Score the cosine between the model's embedding of a sample and the reference's; its own is 1."""
    output = choose_output(request, ranks=(2, 3), meaning=_EMBEDDING)

    def score(batch: Judged) -> Array:
        require_finite(batch.outputs[output], output, request.side)
        a, b = (
            one[output].reshape(len(one[output]), -1).astype(np.float64)
            for one in (batch.outputs, batch.reference)
        )
        with np.errstate(invalid="ignore", over="ignore"):
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        products = np.einsum("ij,ij->i", a, b)
        # A zero vector has no direction, nor has an infinite one: the cosine is undefined, and counts as
        # different.
        undefined = 1.0 if batch.outputs is batch.reference else 0.0
        known = (norms > 0) & np.isfinite(norms) & np.isfinite(products)
        return np.where(known, np.where(known, products, 0.0) / np.where(known, norms, 1.0), undefined)

    return EachSample(score)


class Retrieval:
    """Scores 1 if the nearest other sample, by cosine of this model's embeddings, has the same label.

    Keeps every embedding, normalised, as float32: memory grows with the samples; a `Scorer`.

    Args:
        request: The model's outputs, and its side for messages.
    """

    def __init__(self, request: Request) -> None:
        self._output, self._side = choose_output(request, ranks=(2, 3), meaning=_EMBEDDING), request.side
        self._embeddings: list[npt.NDArray[np.float32]] = []
        self._labels: list[Array] = []

    def add(self, batch: Judged) -> None:
        """See `Scorer.add`."""
        labels = require_truth(batch.truth, "labels", "retrieval")
        if labels.ndim != 1:
            raise DataError(f"'labels' has shape {labels.shape}; retrieval takes one class per sample, (n,)")
        rows = batch.outputs[self._output]
        require_finite(rows, self._output, self._side)
        rows = rows.reshape(len(rows), -1).astype(np.float32)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        self._embeddings.append((rows / np.where(norms > 0, norms, 1)).astype(np.float32))
        self._labels.append(labels)

    def finish(self) -> SampleScores:
        """Score 1 if the nearest other sample has the same label; of equal ones the first is nearest."""
        everything, labels = np.concatenate(self._embeddings), np.concatenate(self._labels)
        if len(everything) < 2:
            raise DataError("retrieval needs two samples or more: each is looked up among the others")
        right = np.empty(len(everything))
        for start in range(0, len(everything), _QUERIES):
            rows = np.arange(start, min(start + _QUERIES, len(everything)))
            similar = everything[rows] @ everything.T
            similar[np.arange(len(rows)), rows] = -np.inf
            right[rows] = labels[similar.argmax(axis=1)] == labels[rows]
        return SampleScores(right)

    def state(self) -> dict[str, Array]:
        """See `Scorer.state`."""
        return {"embeddings": np.concatenate(self._embeddings), "labels": np.concatenate(self._labels)}

    def extend(self, state: Arrays) -> None:
        """See `Scorer.extend`."""
        rows, labels = state["embeddings"], state["labels"]
        if rows.dtype != np.float32 or rows.ndim != 2 or labels.shape != rows.shape[:1]:
            raise ValueError("these are not embeddings")
        self._embeddings.append(rows)
        self._labels.append(labels)
