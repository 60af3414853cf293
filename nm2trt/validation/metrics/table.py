"""The task metrics: a table of what each one scores, what it needs, and its options."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nm2trt.arrays import Array
from nm2trt.errors import DataError, InputError, Nm2trtError
from nm2trt.validation.metrics.classification import make_agreement, make_top_k
from nm2trt.validation.metrics.detection import Detections
from nm2trt.validation.metrics.embeddings import Retrieval, make_cosine
from nm2trt.validation.metrics.scoring import EachSample, Judged, Request, Scorer
from nm2trt.validation.metrics.text import make_character_errors, make_exact_match


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric.

    Args:
        summary: What it scores, for help and documentation.
        make: Makes a scorer for one model.
        truth: What the data must have beside the inputs.
        options: What each option means.
        higher_is_better: False for errors.
        against_reference: Scores the candidate against the reference's outputs, not against the truth.
    """

    summary: str
    make: Callable[[Request], Scorer]
    truth: tuple[str, ...] = ("labels",)
    options: Mapping[str, str] = ()  # type: ignore[assignment]
    higher_is_better: bool = True
    against_reference: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", dict(self.options))


_CTC_OPTIONS = {
    "characters": "text file, one character per line, the model's classes in order without the blank",
    "blank": "class of the CTC blank; 0 by default",
    "space": "yes: the space is one more character, after those of the file",
}

# The options of metrics whose values are paths.
FILE_OPTIONS = frozenset({"annotations", "characters"})

# "top-K" stands for top-1, top-5 and so on.
METRICS: Mapping[str, MetricSpec] = {
    "top-K": MetricSpec("share of samples whose label is among the K largest class scores", make_top_k),
    "agreement": MetricSpec(
        "share of samples for which the candidate names the reference's class",
        make_agreement,
        truth=(),
        against_reference=True,
    ),
    "exact-match": MetricSpec(
        "share of samples whose text, decoded by greedy CTC, is the label",
        make_exact_match,
        options=_CTC_OPTIONS,
    ),
    "cer": MetricSpec(
        "character error rate: edits from label to decoded text over the labels' length (jiwer)",
        make_character_errors,
        options=_CTC_OPTIONS,
        higher_is_better=False,
    ),
    "cosine": MetricSpec(
        "mean cosine of the candidate's embeddings to the reference's",
        make_cosine,
        truth=(),
        against_reference=True,
    ),
    "retrieval": MetricSpec(
        "share of samples whose nearest other sample, by cosine, has the same label", Retrieval
    ),
    "map": MetricSpec(
        "mean average precision of detections, COCO's mAP@[.50:.95] (pycocotools)",
        Detections,
        truth=("labels and labels_boxes, or image_ids",),
        options={
            "boxes": "output of boxes, (n, k, 4); `boxes` by default",
            "scores": "output of scores, (n, k); `scores` by default; 0 marks an empty row",
            "classes": "output of classes, (n, k); `classes` by default",
            "format": "xyxy (the default), xywh or cxcywh, of outputs and of labels_boxes",
            "annotations": "COCO file of boxes; the data then names its images in image_ids",
            "classes_are": "index (the default: position among the sorted category ids) or id",
        },
    ),
}

_TOP_K = re.compile(r"top-([1-9]\d{0,4})")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def find_metric(name: str) -> tuple[MetricSpec, str]:
    """Return a metric by name, and the argument in the name.

    Args:
        name: A name in `METRICS`, with a number for K, or `module:function`, which is imported.

    Raises:
        InputError: The metric or the function is missing.
    """
    if match := _TOP_K.fullmatch(name):
        return METRICS["top-K"], match[1]
    if name in METRICS and name != "top-K":
        return METRICS[name], ""
    if _FUNCTION.fullmatch(name):
        return function_metric(name), ""
    known = ", ".join(METRICS)
    raise InputError(f"{name!r} is not a metric; choose {known} (K a number), or module:function")


def metric_options(texts: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Return the options that `KEY=VALUE` texts spell.

    Raises:
        InputError: A text is not of that form, or none of the named metrics has such an option.
    """
    known = {key for name in names for key in find_metric(name)[0].options}
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in known:
            if not names:
                raise InputError(f"the option {text!r} needs a metric; name the one that takes it")
            have = ", ".join(sorted(known))
            told = f"; options are KEY=VALUE of: {have}" if have else ", which takes no options"
            raise InputError(f"{text!r} is not an option of {', '.join(names)}{told}")
        found[key] = value
    return found


def function_metric(name: str) -> MetricSpec:
    """Return a metric that calls `module:function(outputs, truth)`.

    The function gets outputs and truth by name, one batch at a time, and returns one score per sample, higher
    is better. It is code, and is run.

    Raises:
        InputError: The function is missing.
    """
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise InputError(f"{name!r} names no function that can be imported ({error})") from error
    if not callable(function):
        raise InputError(f"{name!r} is not a function")

    def make(request: Request) -> Scorer:
        def score(batch: Judged) -> Array:
            if not batch.outputs:
                raise DataError(f"no output has a batch dimension, so {name} cannot score samples")
            count = len(next(iter(batch.outputs.values())))
            try:
                values = np.asarray(function(dict(batch.outputs), dict(batch.truth)), dtype=np.float64)
            except Nm2trtError:
                raise
            except Exception as error:
                raise InputError(
                    f"{name} failed on the {request.side}'s outputs: {type(error).__name__}: {error}"
                ) from error
            if values.shape != (count,) or not np.isfinite(values).all():
                raise InputError(
                    f"{name} returned an array of shape {values.shape} for {count} samples, or one that is "
                    "not finite; it should return one score per sample"
                )
            return values

        return EachSample(score)

    return MetricSpec(f"mean of {name}", make, truth=())
