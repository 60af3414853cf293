"""Scores, agreement and differences of two sessions against counts made by hand, and runs that end early."""

import numpy as np
import pytest

from nm2trt.backends.protocol import TensorSpec
from nm2trt.cli.signals import Stopped
from nm2trt.errors import BackendError, DataError, DifferenceError, InputError, Interrupted, ServerError
from nm2trt.validation.comparison import compare_sessions, default_metrics
from tests.validation.validation_fakes import Lookup, one_hot, rows

LABELS = [0, 1, 2, 0, 1, 2, 0, 1]
CANDIDATE = [0, 1, 2, 0, 2, 2, 1, 1]  # wrong on 4 and 6
REFERENCE = [0, 1, 0, 0, 1, 1, 1, 1]  # wrong on 2, 5 and 6
TOP = ("top-1", "agreement")


def pair(**options):
    return Lookup(one_hot(CANDIDATE), **options), Lookup(one_hot(REFERENCE))


@pytest.mark.parametrize("batch", [1, 3, 8, None])
def test_counts_are_those_made_by_hand(batch):
    found = compare_sessions(*pair(), rows(LABELS), metrics=TOP, batch=batch)
    top1, agreement = found.metrics

    assert (top1.candidate.right, top1.reference.right, found.n) == (6, 5, 8)
    assert (top1.paired.n, top1.paired.gained, top1.paired.lost) == (8, 2, 1)
    assert top1.paired.difference == pytest.approx(1 / 8)
    assert (agreement.candidate.value, agreement.reference.value) == (5 / 8, 1.0)
    (difference,) = found.differences
    assert difference.max_abs == 1.0
    assert difference.mean_abs == pytest.approx(2 * 3 / (8 * 3))
    assert found.to_json()["metrics"][0]["paired"]["gained"] == 2


def test_half_precision_side_is_fed_converted_data():
    found = compare_sessions(*pair(dtype="float16"), rows(LABELS))
    assert found.conversions == {"candidate": ("row: float32 -> float16",), "reference": ()}


TWO = (TensorSpec("a", "float32", ("n", 3)), TensorSpec("b", "float32", ("n", 3)))


def test_output_of_scores_can_be_named():
    candidate, reference = (Lookup(one_hot(c), outputs=TWO) for c in (CANDIDATE, REFERENCE))
    found = compare_sessions(candidate, reference, rows(LABELS), metrics=TOP, output="b")
    assert found.metrics[0].candidate.right == 6
    assert {difference.name for difference in found.differences} == {"a", "b"}


def test_unlabelled_data_is_compared_by_outputs_alone():
    samples = rows(count=8)
    assert default_metrics(samples) == ()
    assert default_metrics(rows(LABELS)) == TOP
    found = compare_sessions(*pair(), samples)
    assert (found.metrics, found.differences[0].max_abs) == ((), 1.0)


ONES = np.ones((8, 3))
NAN = one_hot(CANDIDATE).copy()
NAN[[1, 4], 0] = np.nan


@pytest.mark.parametrize(
    ("candidate", "reference", "labels", "output", "error", "match"),
    [
        pytest.param(
            Lookup(one_hot(CANDIDATE), name="other"), Lookup(one_hot(REFERENCE)), LABELS, None,
            DifferenceError, r"\['other'\], the reference's \['scores'\]", id="output-names",
        ),
        pytest.param(
            Lookup(one_hot(CANDIDATE, 4)), Lookup(one_hot(REFERENCE)), LABELS, None,
            DifferenceError, r"shape \(8, 4\), the reference \(8, 3\)", id="output-shapes",
        ),
        pytest.param(
            Lookup(NAN), Lookup(one_hot(REFERENCE)), LABELS, None,
            DifferenceError, r"'scores' of the candidate is NaN for 2 of 8 samples", id="nan",
        ),
        pytest.param(
            Lookup(one_hot(CANDIDATE)), Lookup(one_hot(REFERENCE)), [*LABELS[:-1], 3], None,
            DataError, r"labels run from 0 to 3, but.*3 classes, 0 to 2", id="label-too-large",
        ),
        pytest.param(
            Lookup(one_hot(CANDIDATE)), Lookup(one_hot(REFERENCE)), [-1, *LABELS[1:]], None,
            DataError, r"labels run from -1 to 2", id="label-negative",
        ),
        pytest.param(
            Lookup(one_hot(CANDIDATE)), Lookup(one_hot(REFERENCE)), np.eye(8), None,
            DataError, r"'labels' has shape \(8, 8\) and dtype float64", id="one-hot-labels",
        ),
        pytest.param(
            Lookup(one_hot(CANDIDATE)), Lookup(one_hot(REFERENCE)), None, None,
            DataError, r"top-1 needs 'labels' in the data, and it has no labels", id="no-labels",
        ),
        pytest.param(
            Lookup(one_hot(CANDIDATE)), Lookup(one_hot(REFERENCE)), LABELS, "none",
            DataError, r"no output 'none'; its outputs are \['scores'\]", id="unknown-output",
        ),
        pytest.param(
            Lookup(ONES, outputs=TWO), Lookup(ONES, outputs=TWO), LABELS, None,
            DataError, r"2 \(a, b\).*name it with --output", id="several-outputs",
        ),
    ],
)  # fmt: skip
def test_refuses(candidate, reference, labels, output, error, match):
    samples = rows(count=8) if labels is None else rows(labels)
    with pytest.raises(error, match=match):
        compare_sessions(candidate, reference, samples, metrics=TOP, output=output)


@pytest.mark.parametrize(
    ("raised", "error", "match"),
    [
        pytest.param(BackendError("the engine died"), BackendError, "the engine died; 6 of 8 samples", id="backend"),
        pytest.param(ServerError("the server is gone"), ServerError, "the server is gone; 6 of 8", id="server"),
        pytest.param(KeyboardInterrupt(), Interrupted, "stopped by the user; 6 of 8 samples", id="ctrl-c"),
        pytest.param(Stopped(2), Interrupted, "^stopped by the user; 6 of 8 samples", id="ctrl-c of a command"),
        pytest.param(Stopped(15), Interrupted, "^ended by SIGTERM; 6 of 8 samples", id="sigterm"),
    ],
)  # fmt: skip
def test_what_was_found_before_a_session_died_is_kept(raised, error, match):
    with pytest.raises(error, match=match) as caught:
        compare_sessions(*pair(dies_after=3, error=raised), rows(LABELS), metrics=TOP, batch=2)
    partial = caught.value.partial
    whole = compare_sessions(*pair(), rows(LABELS[:6]), metrics=TOP)
    assert partial.metrics == whole.metrics
    assert partial.differences == whole.differences
    assert (partial.n, match.strip("^").split(";")[0] in partial.stopped) == (6, True)


class LadenError(BackendError):
    """An error that carries more than its sentence, and is not made from one."""

    def __init__(self, *, rows):
        super().__init__("the engine died")
        self.rows = rows


def test_an_error_keeps_what_it_carries_when_its_sentence_grows():
    raised = LadenError(rows=[1, 2])
    with pytest.raises(LadenError, match="the engine died; 6 of 8 samples") as caught:
        compare_sessions(*pair(dies_after=3, error=raised), rows(LABELS), metrics=TOP, batch=2)
    assert (caught.value.rows, caught.value.partial.n) == ([1, 2], 6)


def test_a_session_that_dies_at_once_leaves_nothing():
    with pytest.raises(BackendError, match=r"^dead$") as caught:
        compare_sessions(*pair(dies_after=0, error=BackendError("dead")), rows(LABELS), metrics=TOP)
    assert caught.value.partial is None


def fails_on_the_second_batch(outputs, truth):
    if truth["labels"][0] == 2:
        raise ZeroDivisionError("planted")
    return outputs["scores"].argmax(1) == truth["labels"]


def test_what_a_metric_had_found_before_it_failed_is_kept():
    name = f"{__name__}:fails_on_the_second_batch"
    with pytest.raises(
        InputError, match=r"failed on the candidate's outputs: ZeroDivisionError: planted; 2 of 8"
    ) as caught:
        compare_sessions(*pair(), rows(LABELS), metrics=("top-1", name), batch=2)
    top1, own = caught.value.partial.metrics
    assert (own.paired.n, own.candidate.value) == (2, 1.0)
    assert top1.candidate.right >= 2


CALLS = []


def fails_for_the_reference(outputs, truth):
    CALLS.append(1)
    if len(CALLS) == 4:
        raise ZeroDivisionError("planted")
    return outputs["scores"].argmax(1) == truth["labels"]


def test_a_batch_that_one_side_alone_has_been_scored_on_is_left_out():
    CALLS.clear()
    name = f"{__name__}:fails_for_the_reference"
    with pytest.raises(InputError, match="failed on the reference's outputs") as caught:
        compare_sessions(*pair(), rows(LABELS), metrics=(name,), batch=4)
    (own,) = caught.value.partial.metrics
    assert (own.paired.n, own.candidate.right, own.reference.right) == (4, 4, 3)


class Words(Lookup):
    def run(self, feeds):
        return {name: array.astype(str).astype(object) for name, array in super().run(feeds).items()}


def test_outputs_that_are_no_numbers_are_refused():
    with pytest.raises(
        DataError, match="output 'scores' of the candidate holds values of type object, not numbers"
    ):
        compare_sessions(Words(one_hot(CANDIDATE)), Lookup(one_hot(REFERENCE)), rows(LABELS))


def test_agreement_blames_the_side_that_is_nan():
    with pytest.raises(DifferenceError, match="'scores' of the reference is NaN for 2 of 8"):
        compare_sessions(Lookup(one_hot(CANDIDATE)), Lookup(NAN), rows(LABELS), metrics=("agreement",))


def test_every_metric_ends_with_the_sample_where_the_last_one_failed():
    name = f"{__name__}:fails_on_the_second_batch"
    with pytest.raises(InputError, match="2 of 8") as caught:
        compare_sessions(*pair(), rows(LABELS), metrics=("top-1", "agreement", name), batch=2)
    partial = caught.value.partial
    assert [metric.paired.n for metric in partial.metrics] == [partial.n] * 3 == [2, 2, 2]
