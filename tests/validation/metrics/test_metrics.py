"""Every metric of the table against a slow count, and what each refuses."""

import json

import numpy as np
import pytest

from nm2trt.backends.protocol import TensorSpec
from nm2trt.errors import DataError, DifferenceError, InputError
from nm2trt.validation.comparison import compare_sessions
from nm2trt.validation.metrics.table import METRICS, find_metric, metric_options
from nm2trt.validation.metrics.text import greedy_ctc
from tests.validation.validation_fakes import Lookup, one_hot, rows

RNG = np.random.default_rng(0)


LIBRARIES = {"cer": "jiwer", "map": "pycocotools"}


def only(metric, candidate, reference, samples, **options):
    if metric in LIBRARIES:
        pytest.importorskip(LIBRARIES[metric])
    found = compare_sessions(
        candidate, reference, samples, metrics=(metric,), options=options, output=options.pop("output", None)
    )
    (one,) = found.metrics
    return one


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_counts_labels_among_the_first_of_a_stable_sort(k):
    scores = RNG.integers(0, 4, (60, 9)).astype(np.float32)  # with many ties
    labels = RNG.integers(0, 9, 60)
    found = only(f"top-{k}", Lookup(scores), Lookup(scores[::-1].copy()), rows(labels))
    order = [sorted(range(9), key=lambda c, row=row: (-row[c], c)) for row in scores]
    assert found.candidate.right == sum(label in best[:k] for label, best in zip(labels, order, strict=True))


def test_cosine_is_one_for_the_reference_and_measured_sample_by_sample():
    table = RNG.standard_normal((20, 6))
    turned = table + 0.3 * RNG.standard_normal((20, 6))
    found = only("cosine", Lookup(turned), Lookup(table), rows(count=20))
    wanted = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(turned, table, strict=True)]
    assert found.candidate.value == pytest.approx(np.mean(wanted), abs=1e-6)
    assert found.reference.value == 1.0
    assert found.paired.low < found.paired.difference < found.paired.high < 0


def test_cosine_of_zeros():
    found = only("cosine", Lookup([[0, 0], [1, 0]]), Lookup([[0, 0], [0, 0]]), rows(count=2))
    assert (found.candidate.value, found.reference.value) == (0.0, 1.0)


def test_an_infinite_vector_has_no_cosine():
    """It counts as different, and numpy warns of nothing."""
    with np.errstate(all="raise"):
        found = only("cosine", Lookup([[np.inf, 0], [1, 0]]), Lookup([[np.inf, 0], [1, 0]]), rows(count=2))
    assert (found.candidate.value, found.reference.value) == (0.5, 1.0)


@pytest.mark.parametrize("batch", [7, 600])
def test_retrieval_looks_each_sample_up_among_all_others(batch):
    centres = RNG.standard_normal((5, 8))
    labels = RNG.integers(0, 5, 300)
    table = centres[labels] + 0.9 * RNG.standard_normal((300, 8))
    samples, session = rows(labels), Lookup(table)
    found = compare_sessions(session, Lookup(-table), samples, metrics=("retrieval",), batch=batch).metrics[0]
    right = 0
    for i, query in enumerate(table):
        others = [j for j in range(300) if j != i]
        best = max(others, key=lambda j: query @ table[j] / np.linalg.norm(query) / np.linalg.norm(table[j]))
        right += labels[best] == labels[i]
    assert found.candidate.right == found.reference.right == right


def test_retrieval_needs_two():
    with pytest.raises(DataError, match="needs two samples"):
        only("retrieval", Lookup([[1.0, 0]]), Lookup([[1.0, 0]]), rows([0]))


def frames(texts, classes, blank=0, time=12):
    """Score the characters of each text, with repeats and blanks between, as CTC would."""
    scores = np.zeros((len(texts), time, classes), np.float32)
    scores[:, :, blank] = 0.5
    for row, text in enumerate(texts):
        at = 0
        for previous, character in zip([None, *text], text, strict=False):
            at += character == previous  # a blank parts two of the same
            scores[row, at : at + 2, character] = 1.0
            at += 2 if row % 2 else 1
            scores[row, at : at + (0 if row % 2 else 1), character] = 0.0
    return scores


def distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def test_greedy_ctc_joins_repeats_and_drops_blanks():
    path = [[0, 3, 3, 0, 3, 1, 1, 2, 0, 0], [0] * 10, [2] * 10]
    assert greedy_ctc(np.eye(4)[path]) == [[3, 3, 1, 2], [], [2]]
    assert greedy_ctc(np.array(path), blank=3) == [[0, 0, 1, 2, 0], [0], [2]]


TEXTS = [[1, 2, 2], [3], [], [1, 2, 3, 1], [2, 2]]
WRONG = [[1, 2], [3], [1], [3, 2, 1, 1], [2, 2]]


def padded(texts):
    labels = np.full((len(texts), max(map(len, texts))), -1)
    for row, text in zip(labels, texts, strict=True):
        row[: len(text)] = text
    return labels


def test_character_errors_are_edits_over_the_labels_length():
    found = only("cer", Lookup(frames(WRONG, 4)), Lookup(frames(TEXTS, 4)), rows(padded(TEXTS)))
    edits = sum(distance(a, b) for a, b in zip(TEXTS, WRONG, strict=True))
    assert edits == 4
    assert found.candidate.value == pytest.approx(edits / sum(map(len, TEXTS)))
    assert (found.reference.value, found.higher_is_better) == (0.0, False)
    assert found.paired.low < found.paired.high


def test_exact_match_counts_whole_texts():
    found = only("exact-match", Lookup(frames(WRONG, 4)), Lookup(frames(TEXTS, 4)), rows(padded(TEXTS)))
    assert (found.candidate.right, found.reference.right, found.paired.lost) == (2, 5, 3)


def test_labels_may_be_texts_over_a_list_of_characters(tmp_path):
    (tmp_path / "chars.txt").write_text("a\nb\n", encoding="utf-8")
    labels = np.array(["abb", " ", "", "ab a", "bb"])
    found = only(
        "exact-match", Lookup(frames(TEXTS, 4)), Lookup(frames(TEXTS, 4)), rows(labels),
        characters=str(tmp_path / "chars.txt"), space="yes",
    )  # fmt: skip
    assert found.candidate.right == 5


@pytest.mark.parametrize(
    ("labels", "options", "error", "match"),
    [
        pytest.param(
            np.array(["a"] * 5), {}, DataError, "labels are texts; name the model's characters", id="texts"
        ),
        pytest.param(
            np.arange(5), {}, DataError, r"shape \(5,\) and dtype int64; it should be texts", id="classes"
        ),
        pytest.param(padded(TEXTS), {"blank": "x"}, InputError, "blank=x is not a class index", id="blank"),
        pytest.param(padded(TEXTS), {"characters": "?"}, InputError, "does not exist", id="no-characters"),
        pytest.param(padded([[]] * 4 + [[]]), {}, DataError, "every label is empty", id="all-empty"),
    ],
)
def test_text_metrics_refuse(labels, options, error, match):
    scores = frames(TEXTS, 4)
    with pytest.raises(error, match=match):
        only("cer", Lookup(scores), Lookup(scores), rows(labels), **options)


def test_a_wrong_number_of_characters_is_told(tmp_path):
    (tmp_path / "c.txt").write_text("a\nb\n", encoding="utf-8")
    scores = frames(TEXTS, 4)
    with pytest.raises(
        DataError, match=r"has 4 classes, the characters with the blank are 3; use .*space=yes"
    ):
        only(
            "cer",
            Lookup(scores),
            Lookup(scores),
            rows(np.array(["a"] * 5)),
            characters=str(tmp_path / "c.txt"),
        )


class Detector:
    """Gives the boxes, scores and classes of each image."""

    def __init__(self, boxes, scores, classes):
        self.arrays = {"boxes": boxes, "scores": scores, "classes": classes}
        self.inputs = (TensorSpec("row", "float32", ("n",)),)
        self.outputs = tuple(TensorSpec(n, str(a.dtype), ("n", *a.shape[1:])) for n, a in self.arrays.items())

    def run(self, feeds):
        return {name: array[feeds["row"].astype(int)] for name, array in self.arrays.items()}


def detections(count=12, objects=3):
    corners = RNG.uniform(0, 50, (count, objects, 2))
    boxes = np.concatenate([corners, corners + RNG.uniform(10, 40, corners.shape)], -1)
    classes = RNG.integers(0, 3, (count, objects))
    scores = RNG.uniform(0.2, 1, (count, objects)).astype(np.float32)
    noisy = boxes + RNG.normal(0, 2, boxes.shape)
    return boxes, noisy.astype(np.float32), scores, classes


def average_precision(boxes, labels, found, scores, classes):
    """COCO's mAP from its definition: greedy matching by score, 101 recall points, ten thresholds."""

    def overlap(a, b):
        low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
        inner = np.prod(np.clip(high - low, 0, None))
        return inner / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner)

    values = []
    for kind in np.unique(labels):
        for threshold in np.arange(0.5, 1.0, 0.05):
            records = []
            for image in range(len(boxes)):
                taken = set()
                mine = sorted(np.flatnonzero(classes[image] == kind), key=lambda i, m=image: -scores[m, i])
                for i in mine:
                    options = [
                        (overlap(found[image, i], boxes[image, j]), j)
                        for j in np.flatnonzero(labels[image] == kind)
                        if j not in taken
                    ]
                    best = max(options, default=(0, None))
                    hit = best[0] >= threshold
                    taken |= {best[1]} if hit else set()
                    records.append((scores[image, i], hit))
            records.sort(key=lambda r: -r[0])
            hits = np.cumsum([hit for _, hit in records])
            recall, precision = hits / (labels == kind).sum(), hits / np.arange(1, len(hits) + 1)
            values.append(np.mean([max(precision[recall >= r], default=0) for r in np.linspace(0, 1, 101)]))
    return np.mean(values)


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr("nm2trt.validation.statistics.bootstrap._SET_RESAMPLES", 40)


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("batch", [5, 12])
def test_map_follows_its_definition(batch, capsys):
    pytest.importorskip("pycocotools")
    boxes, noisy, scores, classes = detections()
    exact, rough = Detector(boxes.astype(np.float32), scores, classes), Detector(noisy, scores, classes)
    samples = rows(classes, labels_boxes=boxes)
    found = compare_sessions(rough, exact, samples, metrics=("map",), batch=batch).metrics[0]
    wanted = average_precision(boxes, classes, noisy, scores, classes)
    assert 0.1 < wanted < 0.95
    assert found.candidate.value == pytest.approx(wanted, abs=1e-3)
    assert found.reference.value == pytest.approx(1.0)
    assert found.paired.low <= found.paired.difference <= found.paired.high < 0
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("few_draws")
def test_map_reads_a_coco_file(tmp_path):
    boxes, noisy, scores, classes = detections()
    ids, categories = [100 + 7 * i for i in range(12)], [3, 18, 90]
    annotations = [
        {"id": 1 + 3 * i + j, "image_id": ids[i], "category_id": categories[classes[i, j]],
         "bbox": [*boxes[i, j, :2], *(boxes[i, j, 2:] - boxes[i, j, :2])]}
        for i in range(12) for j in range(3)
    ]  # fmt: skip
    coco = {
        "images": [{"id": i} for i in ids],
        "annotations": annotations,
        "categories": [{"id": c} for c in categories],
    }
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(coco))
    given = Detector(noisy, scores, classes)
    found = only("map", given, given, rows(count=12, image_ids=np.array(ids)), annotations=str(path))
    assert found.candidate.value == pytest.approx(
        average_precision(boxes, classes, noisy, scores, classes), abs=1e-3
    )
    by_id = Detector(noisy, scores, np.array(categories)[classes])
    same = only(
        "map", by_id, by_id, rows(count=12, image_ids=np.array(ids)), annotations=str(path), classes_are="id"
    )
    assert same.candidate.value == found.candidate.value


@pytest.mark.usefixtures("few_draws")
def test_map_of_nothing_detected_is_zero():
    boxes, noisy, scores, classes = detections()
    none = Detector(noisy, np.zeros_like(scores), classes)
    found = only("map", none, Detector(noisy, scores, classes), rows(classes, labels_boxes=boxes))
    assert found.candidate.value == 0.0 < found.reference.value


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        pytest.param({"boxes": "corners"}, DataError, r"reads boxes from output 'corners'", id="output"),
        pytest.param(
            {"format": "yxyx"}, InputError, "format=yxyx is invalid; choose xyxy, xywh, cxcywh", id="format"
        ),
        pytest.param({"annotations": "none.json"}, InputError, "does not exist", id="annotations"),
    ],
)
def test_map_refuses(change, error, match):
    boxes, noisy, scores, classes = detections()
    given = Detector(noisy, scores, classes)
    with pytest.raises(error, match=match):
        only("map", given, given, rows(classes, labels_boxes=boxes), **change)


def test_map_refuses_nan():
    boxes, noisy, scores, classes = detections()
    bad = Detector(noisy * np.nan, scores, classes)
    with pytest.raises(DifferenceError, match="'boxes' of the candidate is NaN for 12 of 12"):
        only("map", bad, bad, rows(classes, labels_boxes=boxes))


def margin(outputs, truth):
    return outputs["scores"][np.arange(len(truth["labels"])), truth["labels"]]


def scalar(outputs, truth):
    return 1.0


def nan(outputs, truth):
    return np.full(len(truth["labels"]), np.nan)


def test_a_function_of_the_users_is_averaged():
    table = RNG.random((30, 4))
    labels = RNG.integers(0, 4, 30)
    found = only(f"{__name__}:margin", Lookup(table), Lookup(table / 2), rows(labels))
    assert found.candidate.value == pytest.approx(table[np.arange(30), labels].mean(), abs=1e-6)
    assert found.paired.low < found.paired.difference < found.paired.high


@pytest.mark.parametrize("name", ["scalar", "nan"])
def test_a_function_that_gives_no_scores_is_refused(name):
    session = Lookup(one_hot([0, 1]))
    with pytest.raises(InputError, match=r"should return one score per sample"):
        only(f"{__name__}:{name}", session, session, rows([0, 1]))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("top-0", "'top-0' is not a metric; choose top-K, agreement"),
        ("top-K", "not a metric"),
        ("accuracy", "not a metric"),
        ("no.module:f", "names no function that can be imported"),
        (f"{__name__}:RNG", "is not a function"),
    ],
)
def test_unknown_metrics(name, match):
    with pytest.raises(InputError, match=match):
        find_metric(name)


def test_options_are_those_of_the_metrics_named():
    assert metric_options(["blank=3", "format=xywh"], ["cer", "map"]) == {"blank": "3", "format": "xywh"}
    with pytest.raises(InputError, match="'blank=3' is not an option of top-1, which takes no options"):
        metric_options(["blank=3"], ["top-1"])
    with pytest.raises(InputError, match="the option 'blank=3' needs a metric; name the one that takes it"):
        metric_options(["blank=3"], [])
    with pytest.raises(InputError, match="'blank' is not an option of cer"):
        metric_options(["blank"], ["cer"])


@pytest.mark.parametrize("name", METRICS)
def test_the_documentation_names_every_metric(name):
    from pathlib import Path

    text = (Path(__file__).parents[3] / "docs" / "validation.md").read_text()
    assert f"`{name}`" in text
    for option in METRICS[name].options:
        assert f"`{option}`" in text


@pytest.mark.parametrize("index", [9, -3])
def test_text_metrics_refuse_classes_without_a_character(index, tmp_path):
    (tmp_path / "c.txt").write_text("a\nb\nc\n")
    found = np.array([[1, 2, index]] * 2)
    options = {"characters": str(tmp_path / "c.txt"), "output": "scores"}
    with pytest.raises(DataError, match=f"of the candidate names class {index}.* 0 to 3"):
        only("exact-match", Lookup(found), Lookup(found), rows(np.array([[1, 2]] * 2)), **options)
    with pytest.raises(DataError, match="'labels' names class 9"):
        only("exact-match", Lookup(found * 0), Lookup(found), rows(np.array([[1, 9]] * 2)), **options)


def test_scores_are_not_taken_for_class_indices():
    found = np.array([[0.3, 1.7]] * 2)
    with pytest.raises(DataError, match=r"has dtype float32.*class indices are integers"):
        only("exact-match", Lookup(found), Lookup(found), rows(np.array([[1]] * 2)), output="scores")
