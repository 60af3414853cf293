"""Mean average precision of detections, COCO's mAP@[.50:.95], computed by pycocotools."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.errors import DataError, InputError
from nm2trt.extras import names_the_extra
from nm2trt.files import read_input
from nm2trt.json_types import number, whole
from nm2trt.validation.metrics.scoring import (
    Judged,
    Picked,
    Request,
    option,
    require_finite,
    require_truth,
)

Json = dict[str, Any]
_MOST_DETECTIONS = 100
_MOST_ANNOTATION_BYTES = 1 << 29  # those of COCO's training images take 450 MB


class MapScores:
    """Matched detections of one model, from which mAP over any choice of images is taken; a `Scores`.

    Args:
        evaluation: An evaluated `COCOeval` of one area range, or None if nothing was detected.
        count: Images.
    """

    def __init__(self, evaluation: Any, count: int) -> None:
        self._evaluation, self._count = evaluation, count

    def __len__(self) -> int:
        return self._count

    def value(self, picked: Picked | None = None) -> float:
        """See `Scores.value`; 0 if nothing was detected or no class is annotated."""
        if self._evaluation is None:
            return 0.0
        evaluation = copy.copy(self._evaluation)
        if picked is not None:
            per_class = len(evaluation.evalImgs) // self._count
            matched = [evaluation.evalImgs[k * self._count : (k + 1) * self._count] for k in range(per_class)]
            evaluation.evalImgs = [images[i] for images in matched for i in picked.tolist()]
        with _quiet():
            evaluation.accumulate()
        precision = evaluation.eval["precision"]
        known = precision[precision > -1]
        return float(known.mean()) if known.size else 0.0


class Detections:
    """Scores detections by COCO's mean average precision over IoU 0.50 to 0.95, at most 100 an image.

    Collects them and what is truly there, as COCO's records; a `Scorer`.

    Args:
        request: The model's outputs and the metric's options.
    """

    def __init__(self, request: Request) -> None:
        self._side = request.side
        names = [spec.name for spec in request.outputs]
        self._outputs = {role: option(request.options, role, role) for role in ("boxes", "scores", "classes")}
        for role, name in self._outputs.items():
            if name not in names:
                raise DataError(
                    f"map reads {role} from output {name!r}, and the outputs are {names}; name it with "
                    f"--metric-option {role}=NAME"
                )
        self._format = option(request.options, "format", "xyxy", ("xyxy", "xywh", "cxcywh"))
        path = request.options.get("annotations")
        self._annotated = None if path is None else _read_annotations(Path(path))
        by_index = option(request.options, "classes_are", "index", ("index", "id")) == "index"
        self._categories = sorted(self._annotated["categories"]) if self._annotated and by_index else None
        self._images: list[int] = []
        self._found: list[Json] = []
        self._true: list[Json] = []

    def add(self, batch: Judged) -> None:
        """See `Scorer.add`."""
        boxes, scores, classes = (
            batch.outputs[self._outputs[role]] for role in ("boxes", "scores", "classes")
        )
        if boxes.ndim != 3 or boxes.shape[2] != 4 or not boxes.shape[:2] == scores.shape == classes.shape:
            raise DataError(
                f"the {self._side} gives boxes {boxes.shape}, scores {scores.shape} and classes "
                f"{classes.shape}; map takes (n, k, 4), (n, k) and (n, k)"
            )
        require_finite(boxes, self._outputs["boxes"], self._side)
        require_finite(scores, self._outputs["scores"], self._side)
        require_finite(classes, self._outputs["classes"], self._side)
        images = self._image_ids(batch.truth, len(boxes))
        corners = _xywh(boxes.astype(np.float64), self._format)
        found: list[Json] = []
        for at, image in enumerate(images):
            kept = np.flatnonzero(scores[at] > 0)
            best = kept[np.argsort(-scores[at][kept], kind="stable")][:_MOST_DETECTIONS]
            found += [
                {
                    "image_id": image,
                    "category_id": self._category(int(classes[at, index])),
                    "bbox": corners[at, index].tolist(),
                    "score": float(scores[at, index]),
                }
                for index in best
            ]
        # Not before: if a class is wrong, nothing of its batch is kept.
        self._found += found
        self._images += images

    def finish(self) -> MapScores:
        """See `Scorer.finish`."""
        with names_the_extra("pycocotools"):
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval
        if not self._found:
            return MapScores(None, len(self._images))
        with _quiet():
            true = COCO()
            true.dataset = {
                "images": [{"id": image} for image in self._images],
                "annotations": [{**one, "id": number} for number, one in enumerate(self._true, start=1)],
                "categories": [{"id": key} for key in self._category_ids()],
            }
            true.createIndex()
            evaluation = COCOeval(true, true.loadRes(self._found), "bbox")
            # In the order in which they came, so that a position is the same image for both models.
            evaluation.params.imgIds = list(range(len(self._images)))
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
            evaluation.params.maxDets = [_MOST_DETECTIONS]
            evaluation.evaluate()
        return MapScores(evaluation, len(self._images))

    def state(self) -> dict[str, Array]:
        """See `Scorer.state`."""
        kept = {"images": len(self._images), "found": self._found, "true": self._true}
        return {"records": np.array(json.dumps(kept))}

    def extend(self, state: Arrays) -> None:
        """See `Scorer.extend`."""
        kept, first = json.loads(str(state["records"])), len(self._images)
        count = int(kept["images"])
        for name, records in (("found", self._found), ("true", self._true)):
            for one in kept[name]:
                if not 0 <= one["image_id"] < count:
                    raise ValueError("these are not detections")
                records.append({**one, "image_id": first + one["image_id"]})
        self._images += range(first, first + count)

    def _image_ids(self, truth: Arrays, count: int) -> list[int]:
        """Number the images from 0 as they come, and keep what is true of each."""
        first = len(self._images)
        if self._annotated is not None:
            for at, identity in enumerate(require_truth(truth, "image_ids", "map with annotations").tolist()):
                if identity not in self._annotated["images"]:
                    raise DataError(f"the annotations have no image {identity}, which the data names")
                for one in self._annotated["images"][identity]:
                    self._true.append({**one, "image_id": first + at})
            return list(range(first, first + count))
        labels = require_truth(truth, "labels", "map without annotations")
        boxes = require_truth(truth, "labels_boxes", "map without annotations")
        if labels.ndim != 2 or boxes.shape != (*labels.shape, 4):
            raise DataError(
                f"'labels' has shape {labels.shape}, 'labels_boxes' {boxes.shape}; map takes classes (n, m), "
                "filled up with -1, and their boxes (n, m, 4)"
            )
        corners = _xywh(boxes.astype(np.float64), self._format)
        for at, row in enumerate(labels):
            for index in np.flatnonzero(row >= 0):
                box = corners[at, index]
                self._true.append(
                    {
                        "image_id": first + at,
                        "category_id": int(row[index]),
                        "bbox": box.tolist(),
                        "area": float(box[2] * box[3]),
                        "iscrowd": 0,
                    }
                )
        return list(range(first, first + count))

    def _category(self, index: int) -> int:
        if self._categories is None:
            return index
        if not 0 <= index < len(self._categories):
            raise DataError(
                f"the {self._side} names class {index}, and the annotations have {len(self._categories)}; "
                "use --metric-option classes_are=id if the model gives category ids"
            )
        return int(self._categories[index])

    def _category_ids(self) -> list[int]:
        if self._annotated is not None:
            return sorted(self._annotated["categories"])
        return sorted({one["category_id"] for one in (*self._true, *self._found)})


def _read_annotations(path: Path) -> Mapping[str, Any]:
    """Return the annotations of each image by its id, and the categories, of a COCO file."""
    written = read_input(path, "a COCO annotation", most_bytes=_MOST_ANNOTATION_BYTES)
    try:
        data = json.loads(written)
        images: dict[int, list[Json]] = {whole(image["id"]): [] for image in data["images"]}
        for one in data["annotations"]:
            x, y, width, height = (number(value) for value in one["bbox"])
            images[whole(one["image_id"])].append(
                {
                    "category_id": whole(one["category_id"]),
                    "bbox": [x, y, width, height],
                    "area": number(one.get("area", width * height)),
                    "iscrowd": {0: 0, 1: 1}[one.get("iscrowd", 0)],
                }
            )
        categories = [whole(one["id"]) for one in data["categories"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is not a COCO file of boxes: images, annotations and categories") from error
    return {"images": images, "categories": categories}


def _xywh(boxes: Array, form: str) -> Array:
    first, second = boxes[..., :2], boxes[..., 2:]
    if form == "xyxy":
        return np.concatenate([first, second - first], axis=-1)
    return np.concatenate([first - second / 2, second], axis=-1) if form == "cxcywh" else boxes


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep pycocotools from printing on stdout, which is the result's."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
