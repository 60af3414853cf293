"""The verdict that a report opens with: a lost stage says no, whatever the later ones say."""

from dataclasses import replace

import pytest

from nm2trt.cli import main
from nm2trt.reporting.collect import collect
from nm2trt.reporting.headline import headline
from nm2trt.reporting.page import to_html, to_markdown
from nm2trt.reporting.ship import ship
from tests.reporting.runs import small_run


@pytest.fixture
def run(tmp_path):
    return small_run(tmp_path / "run")


def sound(data):
    """Return the data with no broken weight."""
    return replace(data, weights=tuple(row for row in data.weights if row.status != "broken"))


def test_a_broken_weight_says_no(run, tmp_path):
    found = ship(collect(tmp_path / "run"))
    assert found.answer == "no"
    assert "break their pattern, first body.0.weight" in found.sentence


def test_a_stage_that_lost_is_as_loud_as_one_that_passed(run, tmp_path):
    data = sound(collect(tmp_path / "run"))
    kept = next(row for row in data.accuracy if row.difference is not None)
    ruined = replace(kept, model="int8.onnx", difference=-0.75, difference_low=-0.79, difference_high=-0.70)
    for order in ((ruined, kept), (kept, ruined)):
        both = replace(data, accuracy=order)
        found = ship(both)
        assert found.answer == "no"
        assert "int8.onnx has -75.00 points of top-1 (-79.00 to -70.00" in found.sentence
        assert any(fact.tone == "bad" and "75.00" in fact.value for fact in headline(both))
        page = to_html(both)
        assert 'class="ship no"' in page
        assert page.count('<span class="pill no">lost</span>') == 1
        assert "int8.onnx has -75.00 points" in to_markdown(both)


def test_what_nobody_measured_is_named_and_no_speed_is_claimed(run, tmp_path):
    data = sound(collect(tmp_path / "run"))
    kept = next(row for row in data.accuracy if row.difference is not None)
    tight = replace(kept, difference=0.0, difference_low=-0.005, difference_high=0.005)
    found = ship(replace(data, accuracy=(tight,)))
    assert found.answer == "open"
    assert found.not_measured == ("which kernels run, sparse or dense", "speed on the GPU")
    assert found.next_step.startswith("nm2trt prove ")
    nothing = ship(replace(data, accuracy=()))
    assert (nothing.answer, nothing.not_measured[0]) == ("open", "accuracy against the dense model")


def test_the_command_ends_with_the_verdict(run, tmp_path, capsys):
    assert main(["report", str(tmp_path / "run")]) == 0
    verdict, following = capsys.readouterr().out.splitlines()[-2:]
    assert verdict.startswith("verdict: No: 1 of 4 weights break their pattern")
    assert following.startswith("next:    ")
