"""Metrics on recognised text: exact match and character error rate, after greedy CTC decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.errors import DataError, InputError
from nm2trt.extras import names_the_extra
from nm2trt.text_files import read_text
from nm2trt.validation.metrics.scoring import (
    EachSample,
    Judged,
    Request,
    choose_output,
    option,
    require_finite,
    require_truth,
)

_TEXT = "one output of character scores, shape (n, time, classes), or of class indices, shape (n, time),"
# Where labels are class indices, each index stands for one character, beyond those that have cases.
_FIRST_STAND_IN = 0x10000
_MOST_STAND_INS = 0x100000


def make_exact_match(request: Request) -> EachSample:
    """Score 1 if the decoded text is the label."""
    read = _reader(request, "exact-match")

    def score(batch: Judged) -> Array:
        found, wanted = read(batch.outputs, batch.truth)
        return np.asarray([a == b for a, b in zip(found, wanted, strict=True)])

    return EachSample(score)


def make_character_errors(request: Request) -> EachSample:
    """Score the edits from the label to the decoded text, over the label's length; lower is better."""
    with names_the_extra("jiwer"):
        import jiwer
    read = _reader(request, "cer")
    characters = jiwer.Compose([jiwer.ReduceToListOfListOfChars()])

    def edits(wanted: str, found: str) -> int:
        aligned = jiwer.process_characters(
            wanted, found, reference_transform=characters, hypothesis_transform=characters
        )
        return int(aligned.substitutions + aligned.deletions + aligned.insertions)

    def score(batch: Judged) -> tuple[Array, Array]:
        found, wanted = read(batch.outputs, batch.truth)
        errors = [edits(w, f) for f, w in zip(found, wanted, strict=True)]
        return np.asarray(errors), np.asarray([len(text) for text in wanted])

    return EachSample(score)


def greedy_ctc(scores: Array, *, blank: int = 0) -> list[list[int]]:
    """Decode by taking the best class at each step, joining repeats and dropping blanks.

    Args:
        scores: Shape (n, time, classes), or class indices of shape (n, time).
        blank: The blank's class.

    Returns:
        Class indices of each sample.
    """
    best = scores.argmax(axis=-1) if scores.ndim == 3 else scores.astype(np.intp)
    fresh = np.ones(best.shape, dtype=bool)
    fresh[:, 1:] = best[:, 1:] != best[:, :-1]
    kept = fresh & (best != blank)
    return [row[keep].tolist() for row, keep in zip(best, kept, strict=True)]


def _reader(request: Request, metric: str) -> Callable[[Arrays, Arrays], tuple[list[str], list[str]]]:
    """Return what reads the decoded texts and the labels of a batch."""
    output = choose_output(request, ranks=(3,) if request.output is None else (2, 3), meaning=_TEXT)
    try:
        blank = int(option(request.options, "blank", "0"))
    except ValueError as error:
        raise InputError(f"the option blank={request.options['blank']} is not a class index") from error
    alphabet = _alphabet(request, blank)

    def read(outputs: Arrays, truth: Arrays) -> tuple[list[str], list[str]]:
        scores = outputs[output]
        if scores.ndim not in (2, 3):
            raise DataError(
                f"output {output!r} of the {request.side} has shape {scores.shape}; {_TEXT} is read"
            )
        require_finite(scores, output, request.side)
        if scores.ndim == 2 and scores.dtype.kind not in "iu":
            raise DataError(
                f"output {output!r} of the {request.side} has dtype {scores.dtype} and shape {scores.shape}; "
                "class indices are integers, and scores have a third dimension, the classes"
            )
        labels = require_truth(truth, "labels", metric)
        if scores.ndim == 3 and alphabet is not None and len(alphabet) != scores.shape[2]:
            raise DataError(
                f"output {output!r} of the {request.side} has {scores.shape[2]} classes, the characters with "
                f"the blank are {len(alphabet)}; use --metric-option space=yes if the space is the last"
            )
        decoded = greedy_ctc(scores, blank=blank)
        what = f"output {output!r} of the {request.side}"
        return _texts(decoded, alphabet, what), _label_texts(labels, alphabet)

    return read


def _alphabet(request: Request, blank: int) -> list[str] | None:
    path = request.options.get("characters")
    if path is None:
        return None
    lines = read_text(path, "a text").split("\n")
    characters = [line.rstrip("\r") for line in lines]
    while characters and characters[-1] == "":
        characters.pop()
    if option(request.options, "space", "no", ("yes", "no")) == "yes":
        characters.append(" ")
    if not 0 <= blank <= len(characters):
        raise InputError(f"the option blank={blank} does not lie in 0 to {len(characters)}")
    return [*characters[:blank], "", *characters[blank:]]


def _texts(decoded: Sequence[Sequence[int]], alphabet: Sequence[str] | None, what: str) -> list[str]:
    most = _MOST_STAND_INS if alphabet is None else len(alphabet)
    for row in decoded:
        for index in row:
            if not 0 <= index < most:
                raise DataError(f"{what} names class {index}, and the classes run from 0 to {most - 1}")
    if alphabet is None:
        return ["".join(chr(_FIRST_STAND_IN + index) for index in row) for row in decoded]
    return ["".join(alphabet[index] for index in row) for row in decoded]


def _label_texts(labels: Array, alphabet: Sequence[str] | None) -> list[str]:
    if labels.dtype.kind == "U":
        if alphabet is None or labels.ndim != 1:
            raise DataError(
                "the labels are texts; name the model's characters with --metric-option characters=FILE, one "
                "a line without the blank"
            )
        return [str(text) for text in labels]
    if labels.dtype.kind not in "iu" or labels.ndim != 2:
        raise DataError(
            f"'labels' has shape {labels.shape} and dtype {labels.dtype}; it should be texts, shape (n,), or "
            "class indices, shape (n, length), filled up with -1"
        )
    return _texts([row[row >= 0].tolist() for row in labels], alphabet, "'labels'")
