"""The report's section on a reconstruction: errors per layer, verdict, and the budget's shares."""

import json
import re

import pytest

from nm2trt.errors import InputError
from nm2trt.reporting.collect import collect
from nm2trt.reporting.folder import RunFolder
from nm2trt.reporting.page import to_html, to_markdown
from nm2trt.reporting.records import StageRecord
from nm2trt.reporting.sentences import sentence_of
from tests.reporting.runs import file


def point(share, value, *, passed, dense=()):
    return {
        "share": share,
        "dense": list(dense),
        "value": value,
        "low": value - 0.02,
        "high": value + 0.01,
        "difference": value - 0.95,
        "difference_low": value - 0.97,
        "difference_high": value - 0.94,
        "passed": passed,
        "sentence": f"top-1: told of {share}",
    }


def result(**changes):
    points = [point(1.0, 0.9, passed=False), point(0.5, 0.949, passed=True, dense=["w2"])]
    return {
        "model": "a.onnx",
        "output": "b.onnx",
        "method": "reconstruct",
        "pattern": "2:4",
        "counts": {"pruned": 1, "refitted": 1, "kept": 0, "dense": 0},
        "weights": [
            {
                "weight": "w<1>",
                "status": "pruned",
                "reason": "64 inputs, 4096 rows",
                "ridge": 0.03,
                "dense_error": 0.0123,
                "magnitude_error": 0.0987,
                "error": 0.0456,
                "divergence_alone": 0.0071,
            },
            {"weight": "w2", "status": "refitted", "reason": "dense by choice", "ridge": 1.0, "error": 0.02},
        ],
        "outputs": [
            {
                "output": "y",
                "samples": 8,
                "error": 0.0021,
                "cosine": 0.9987,
                "kl": 0.0123,
                "agreement": 0.975,
                "remark": "",
            }
        ],
        "outputs_held_out": True,
        "samples": 64,
        "source": "s.npz",
        "budget": {
            "metric": "top-1",
            "max_drop": 0.03,
            "n": 300,
            "dense_value": 0.95,
            "points": points,
            "chosen": points[1],
            "place": " on sm86",
            "notes": ["gains are those of int8 on A GPU"],
        },
        **changes,
    }


def page(folder, found):
    run = RunFolder(folder)
    run.start("rebuilt", ["prune"])
    run.write(
        StageRecord(
            "prune",
            "prune",
            "done",
            "",
            "",
            1.0,
            "2026-01-01T00:00:00+00:00",
            {},
            (),
            (file("b.onnx", "5b9f"),),
            "k",
            found,
        )
    )
    return collect(folder)


def test_layers_verdict_and_shares_stand_on_the_page(tmp_path):
    data = page(tmp_path / "run", result())
    html = to_html(data)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))
    for figure in ("0.0123", "0.0987", "0.0456", "0.0071", "64 inputs, 4096 rows"):
        assert figure in text
    assert "w&lt;1&gt;" in html.replace("<wbr>", "")
    assert (
        "output y: error 0.0021 of the variance, cosine 0.9987, KL 0.0123, the same class in 97.5 %" in text
    )
    assert "8 held-out samples" in text
    assert "100.0 % 0 stay dense; breaks the budget" in text
    assert "50.0 % 1 stay dense; written" in text
    assert "by share of the work on sm86 that is pruned" in text
    assert "gains are those of int8 on A GPU" in text
    # One point per share and one for the dense model, on one scale.
    section = html[html.index('id="rebuilt-1"') : html.index('id="commands"')]
    assert section.count('class="point"') >= 3
    assert "| 50.0 % | 1 | 0.9490 |" in to_markdown(data)
    json.dumps(data.to_json(), allow_nan=False)


@pytest.mark.parametrize("width", [1280, 800, 761])
def test_the_layers_fit_their_box(browser, tmp_path, width):
    found = result()
    found["weights"][0] |= {"weight": "backbone.layer3.0.conv1.weight", "ridge": 3.21e-06, "error": 4.56e-05}
    path = tmp_path / "page.html"
    path.write_text(to_html(page(tmp_path / "run", found)))
    browser.open(path, width=width)
    box = "document.querySelector('#rebuilt-1 .scroll')"
    assert browser.run(f"{box}.scrollWidth") <= browser.run(f"{box}.clientWidth")


def test_without_a_budget_there_is_no_table_of_shares(tmp_path):
    found = result()
    del found["budget"]
    data = page(tmp_path / "run", found)
    assert data.rebuilt[0].budget is None
    assert "breaks the budget" not in to_html(data)
    assert data.stages[0].sentence.startswith("1 weight pruned to 2:4; output y: error 0.0021")


def test_magnitude_has_a_sentence_and_no_section(tmp_path):
    found = {"counts": {"pruned": 3}, "pattern": "1:4", "weights": []}
    data = page(tmp_path / "run", found)
    assert data.rebuilt == ()
    assert data.stages[0].sentence == "3 weights pruned to 1:4 by magnitude, nothing repaired"


def test_the_limit_of_an_error_lies_above(tmp_path):
    found = result()
    found["budget"]["higher_is_better"] = False
    assert page(tmp_path / "run", found).rebuilt[0].budget.limit == pytest.approx(0.98)


def test_a_damaged_record_is_one_sentence(tmp_path):
    found = result()
    del found["budget"]["points"][0]["difference_low"]
    with pytest.raises(InputError, match="difference_low should be a number"):
        page(tmp_path / "run", found)


def test_a_permutation_has_a_sentence():
    from nm2trt.reporting.fields import Fields

    told = sentence_of("permute", Fields({"moved": 96}, "permute.json"))
    assert told == "channels moved in 96 spaces, the function is unchanged"
