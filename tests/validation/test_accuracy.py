"""Accuracy, agreement and differences of two sessions against counts made by hand."""

import numpy as np
import pytest

from nm2trt.backends.protocol import TensorSpec
from nm2trt.errors import DataError, DifferenceError, InputError
from nm2trt.validation.accuracy import compare_accuracy
from nm2trt.validation.bench import bench_sessions
from nm2trt.validation.data import LabelledSet
from nm2trt.validation.report import validate_sessions


class Lookup:
    """Gives each sample, a row index, its row of a table of scores."""

    def __init__(self, scores, *, name="scores", dtype="float32", outputs=None):
        self.scores = np.asarray(scores, np.float32)
        self.inputs = (TensorSpec("row", dtype, ("n",)),)
        self.outputs = outputs or (TensorSpec(name, "float32", ("n", self.scores.shape[-1])),)
        self.calls = 0

    def run(self, feeds):
        self.calls += 1
        return {spec.name: self.scores[feeds["row"].astype(int)] for spec in self.outputs}


def scores_of(classes, count=3):
    return np.eye(count, dtype=np.float32)[classes]


LABELS = [0, 1, 2, 0, 1, 2, 0, 1]
CANDIDATE = [0, 1, 2, 0, 2, 2, 1, 1]  # wrong on 4 and 6
REFERENCE = [0, 1, 0, 0, 1, 1, 1, 1]  # wrong on 2, 5 and 6


def data_of(labels, dtype=np.float32):
    return LabelledSet({"row": np.arange(len(labels), dtype=dtype)}, np.asarray(labels))


def test_counts_are_those_made_by_hand():
    found = compare_accuracy(
        Lookup(scores_of(CANDIDATE)), Lookup(scores_of(REFERENCE)), data_of(LABELS), batch=3
    )

    assert (found.candidate.right, found.reference.right) == (6, 5)
    assert (found.paired.n, found.paired.gained, found.paired.lost) == (8, 2, 1)
    assert found.paired.difference == pytest.approx(1 / 8)
    assert found.agreement == pytest.approx(5 / 8)
    (difference,) = found.differences
    assert difference.max_abs == 1.0
    assert difference.mean_abs == pytest.approx(2 * 3 / (8 * 3))
    assert found.to_json()["paired"]["gained"] == 2


def test_half_precision_side_is_fed_converted_data():
    found = compare_accuracy(
        Lookup(scores_of(CANDIDATE), dtype="float16"), Lookup(scores_of(REFERENCE)), data_of(LABELS)
    )
    assert found.conversions == {"candidate": ("row: float32 -> float16",), "reference": ()}
    assert found.to_json()["conversions"]["candidate"] == ["row: float32 -> float16"]


TWO = (TensorSpec("a", "float32", ("n", 3)), TensorSpec("b", "float32", ("n", 3)))


def test_output_of_scores_can_be_named():
    candidate, reference = (Lookup(scores_of(c), outputs=TWO) for c in (CANDIDATE, REFERENCE))
    found = compare_accuracy(candidate, reference, data_of(LABELS), output="b")
    assert found.output == "b"
    assert {difference.name for difference in found.differences} == {"a", "b"}


ONES = np.ones((8, 3))
NAN = scores_of(CANDIDATE).copy()
NAN[[1, 4], 0] = np.nan


@pytest.mark.parametrize(
    ("candidate", "reference", "labels", "output", "error", "match"),
    [
        pytest.param(
            Lookup(scores_of(CANDIDATE), name="other"), Lookup(scores_of(REFERENCE)), LABELS, None,
            DifferenceError, r"\['other'\], the reference's \['scores'\]", id="output-names",
        ),
        pytest.param(
            Lookup(scores_of(CANDIDATE, 4)), Lookup(scores_of(REFERENCE)), LABELS, None,
            DifferenceError, r"shape \(8, 4\), the reference \(8, 3\)", id="output-shapes",
        ),
        pytest.param(
            Lookup(NAN), Lookup(scores_of(REFERENCE)), LABELS, None,
            DifferenceError, r"'scores' of the candidate is NaN for 2 of 8 samples", id="nan",
        ),
        pytest.param(
            Lookup(scores_of(CANDIDATE)), Lookup(scores_of(REFERENCE)), [*LABELS[:-1], 3], None,
            DataError, r"labels run from 0 to 3, but.*3 classes, 0 to 2", id="label-too-large",
        ),
        pytest.param(
            Lookup(scores_of(CANDIDATE)), Lookup(scores_of(REFERENCE)), [-1, *LABELS[1:]], None,
            DataError, r"labels run from -1 to 2", id="label-negative",
        ),
        pytest.param(
            Lookup(scores_of(CANDIDATE)), Lookup(scores_of(REFERENCE)), LABELS, "none",
            DataError, r"no output 'none'; its outputs are \['scores'\]", id="unknown-output",
        ),
        pytest.param(
            Lookup(ONES, outputs=TWO), Lookup(ONES, outputs=TWO), LABELS, None,
            DataError, r"2 \(a, b\).*name it with --output", id="several-outputs",
        ),
    ],
)  # fmt: skip
def test_refuses(candidate, reference, labels, output, error, match):
    with pytest.raises(error, match=match):
        compare_accuracy(candidate, reference, data_of(labels), output=output)


def test_bench_takes_turns_and_warms_up():
    sessions = {"candidate": Lookup(scores_of(CANDIDATE)), "reference": Lookup(scores_of(REFERENCE))}
    found = bench_sessions(
        sessions, data_of(LABELS), runs=7, warmup=2, batch=20, conditions={"backend": "lookup"}
    )

    assert {name: session.calls for name, session in sessions.items()} == {"candidate": 9, "reference": 9}
    assert found.batch == {"candidate": 20, "reference": 20}
    assert all(t.runs == 7 and 0 < t.p50_ms <= t.p90_ms <= t.p99_ms for t in found.latencies.values())
    assert found.to_json()["conditions"]["backend"] == "lookup"


@pytest.mark.parametrize(
    "wrong", [{"runs": 0}, {"batch": 0}, {"warmup": -1}], ids=["runs", "batch", "warmup"]
)
def test_bench_refuses_counts(wrong):
    with pytest.raises(InputError, match="cannot be timed"):
        bench_sessions(
            {"a": Lookup(scores_of(CANDIDATE))}, data_of(LABELS), **{"runs": 1, "warmup": 0, **wrong}
        )


@pytest.mark.parametrize("runs", [0, 3])
def test_report_leaves_latency_out_when_not_asked(runs):
    report = validate_sessions(
        Lookup(scores_of(CANDIDATE)),
        Lookup(scores_of(REFERENCE)),
        data_of(LABELS),
        names=("a", "b", "c"),
        runs=runs,
    )
    assert (report.benchmark is None) == (runs == 0)
    assert report.to_json()["n"] == 8
