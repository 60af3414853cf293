"""--max-drop: what passes, what fails, and the words for either."""

import numpy as np
import pytest

from nm2trt.compare.difference_sum import DifferenceSum
from nm2trt.errors import InputError
from nm2trt.validation.comparison import MetricComparison, Score, compare_sessions
from nm2trt.validation.gate import Limits, guesses, hold_to, parse_drop, points, suspicions
from nm2trt.validation.statistics.paired import PairedDifference
from tests.validation.validation_fakes import Lookup, one_hot, rows


def metric(n, gained, lost, *, higher=True):
    score = Score(0.9, 0.8, 0.95, None)
    paired = PairedDifference.of(n=n, gained=gained, lost=lost)
    return MetricComparison("top-1", "share", higher, False, score, score, paired)


@pytest.mark.parametrize(
    ("right", "n", "classes", "said"),
    [
        (7, 64, 10, "10.9 % of the samples, as a guess among 10 classes may be: if"),
        (30, 64, 10, ""),
        (52, 100, 2, "52.0 % of the samples, as a guess among 2 classes may be: if"),
        (14, 20, 2, ""),  # 48 to 85 %: it may be good
        (10, 20, 3, ""),
        (560, 1000, 2, ""),
        (0, 20, 1000, "0.0 % of the samples, as a guess among 1000 classes may be: if"),
        (1, 19, 10, ""),
    ],
)
def test_a_reference_that_guesses_is_named(right, n, classes, said):
    """With labels of other samples both models fall to a guess, and no drop can show."""
    labels = np.arange(n) % classes
    answers = np.where(np.arange(n) < right, labels, (labels + 1) % classes)
    reference = Lookup(one_hot(answers, classes))
    found = guesses(compare_sessions(reference, reference, rows(labels), metrics=("top-1",)), "dense.onnx")
    told = f"the reference dense.onnx is right in {said} it should be better, check the order of the "
    assert found == ((f"{told}labels and the preprocessing",) if said else ())


@pytest.mark.parametrize(
    ("text", "drop"),
    [("0.5pt", 0.005), ("1 points", 0.01), ("2pts", 0.02), (".5pt", 0.005), ("0.01", 0.01), ("0pt", 0.0)],
)
def test_drops_are_read(text, drop):
    assert parse_drop(text) == pytest.approx(drop)


@pytest.mark.parametrize("text", ["0.5", "0.8", "1", " 0.1 "])
def test_a_bare_number_that_may_mean_points_is_refused(text):
    with pytest.raises(InputError, match=r"may mean .* points or a share; write .*pt or .*pt"):
        parse_drop(text)


@pytest.mark.parametrize("text", ["0.5%", "-1pt", "pt", "", "nan", "1e-2"])
def test_other_texts_are_no_drops(text):
    with pytest.raises(InputError, match="is not a drop; write percentage points"):
        parse_drop(text)


@pytest.mark.parametrize(
    ("n", "gained", "lost", "drop", "passed", "words"),
    [
        pytest.param(10000, 20, 25, 0.005, True, "a drop of more than 0.5 points is excluded", id="excluded"),
        pytest.param(300, 0, 0, 0.005, False, "0.5 points is not excluded", id="too-few-samples"),
        pytest.param(10000, 0, 200, 0.005, False, "the drop is 2.00 points, more than 0.5 points", id="lost"),
        pytest.param(100, 50, 0, 0.0, True, "a drop of more than 0 points is excluded", id="gained"),
    ],
)
def test_the_interval_decides(n, gained, lost, drop, passed, words):
    gate = hold_to(metric(n, gained, lost), drop)
    assert (gate.passed, words in gate.sentence) == (passed, True)
    assert f"n = {n:,}" in gate.sentence
    assert "95 % interval of the difference" in gate.sentence


def test_as_many_samples_as_are_said_to_decide_do():
    gate = hold_to(metric(300, 3, 3), 0.005)
    needed = int(gate.sentence.split("about ")[1].split(" ")[0].replace(",", ""))
    scale = needed / 300
    assert hold_to(metric(needed, round(3 * scale), round(3 * scale)), 0.005).passed
    fewer = int(0.5 * needed)
    assert not hold_to(metric(fewer, round(1.5 * scale), round(1.5 * scale)), 0.005).passed


def test_more_errors_are_a_loss_where_lower_is_better():
    worse = hold_to(metric(2000, 100, 0, higher=False), 0.01)
    assert (worse.passed, "the rise is 5.00 points" in worse.sentence) == (False, True)
    assert hold_to(metric(2000, 0, 100, higher=False), 0.01).passed


def test_a_loss_that_is_there_is_found_from_the_outputs():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    wrong = np.where(rng.random(600) < 0.1, (labels + 1) % 3, labels)
    found = compare_sessions(
        Lookup(one_hot(wrong)), Lookup(one_hot(labels)), rows(labels), metrics=("top-1",)
    )
    assert not hold_to(found.metrics[0], 0.05).passed
    assert hold_to(found.metrics[0], 0.15).passed


def difference(candidate, reference, limits, name="y"):
    total = DifferenceSum(name, tolerance=limits.tolerance)
    total.add(np.array(candidate, np.float32), np.array(reference, np.float32))
    return total.result()


def judged(candidate, reference, **limits):
    chosen = Limits(**limits)
    (gate,) = chosen.judge([difference(candidate, reference, chosen)], [])
    return gate.passed, gate.sentence


@pytest.mark.parametrize("limits", [{"atol": 1e9}, {"rtol": 1e9}, {"min_cosine": -1.0}])
def test_nan_in_a_part_of_both_outputs_fails_every_gate(limits):
    passed, sentence = judged([1, np.nan, 3], [1, np.nan, 3], **limits)
    assert not passed
    assert "1 of 3 elements are NaN on both sides" in sentence or "1 are NaN on both sides" in sentence
    assert "largest difference is 0" not in sentence


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"atol": 0.0}, "nothing is left to hold to 0 + 0 |b|"),
        ({"min_cosine": 0.5}, "the cosine is undefined, since"),
    ],
)
def test_an_output_of_infinities_only_passes_no_gate(limits, words):
    passed, sentence = judged([np.inf, -np.inf], [np.inf, -np.inf], **limits)
    assert not passed
    assert words in sentence
    assert "2 of 2 elements are infinite on both sides" in sentence
    assert "all zero" not in sentence


@pytest.mark.parametrize("limits", [{"atol": 0.0}, {"rtol": 1e9}, {"min_cosine": -1.0}])
def test_an_output_that_is_empty_on_both_sides_passes_no_gate(limits):
    passed, sentence = judged([], [], **limits)
    assert not passed
    assert sentence.startswith("output 'y': it is empty on both sides, so there is nothing to hold to")


def test_equal_outputs_have_a_cosine_of_1_and_one_just_below_is_shown_with_its_digits():
    output = np.random.default_rng(0).standard_normal((64, 7)).astype(np.float32)
    for count in range(1, 64):
        assert judged(output[:count], output[:count], min_cosine=1)[0]
    passed, sentence = judged([1, 1], [1, 1 + 1e-4], min_cosine=1)
    assert not passed
    assert "cosine 0.99999999" in sentence


def test_an_empty_output_passes_a_tolerance_beside_another():
    exact = Limits(atol=0.0)
    differences = [difference([], [], exact, "state"), difference([1.0], [1.0], exact)]
    gates = list(exact.judge(differences, []))
    assert [gate.passed for gate in gates] == [True, True]
    assert gates[0].sentence.count("it is empty on both sides") == 1


def test_outputs_that_are_all_empty_warn_if_no_gate_judges_them():
    nothing, state, something = (
        difference(array, array, Limits(), name)
        for array, name in (([], "boxes"), ([], "state"), ([1.0], "y"))
    )
    assert suspicions([nothing, state]) == (
        "output 'boxes': it is empty on both sides, and nothing of it is compared",
        "output 'state': it is empty on both sides, and nothing of it is compared",
    )
    assert suspicions([state, something]) == ()


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"atol": 0.0}, "all of 2 finite elements lie within 0 + 0 |b|; 1 of 3 elements are infinite"),
        (
            {"min_cosine": 0.5},
            "cosine 1.000000, at least 0.5, but 1 of 3 elements are infinite on both sides",
        ),
    ],
)
def test_infinities_that_are_equal_are_named_beside_what_a_gate_judged(limits, words):
    passed, sentence = judged([1, 2, -np.inf], [1, 2, -np.inf], **limits)
    assert passed
    assert words in sentence


@pytest.mark.parametrize(("share", "words"), [(0.01, "1 point"), (0.005, "0.5 points"), (0.02, "2 points")])
def test_one_percentage_point_is_singular(share, words):
    assert points(share) == words
