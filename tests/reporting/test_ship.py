"""The verdict that a report opens with: a lost stage says no, whatever the later ones say."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

import nm2trt
from nm2trt.cli import main
from nm2trt.cli.dispatch import chosen_parser
from nm2trt.errors import InputError
from nm2trt.options.command_line import options_from, words
from nm2trt.options.engines import BuildCommand, ProveCommand
from nm2trt.reporting.collect import collect
from nm2trt.reporting.curves import curves_of
from nm2trt.reporting.folder import RunFolder
from nm2trt.reporting.headline import headline
from nm2trt.reporting.page import to_html, to_markdown
from nm2trt.reporting.records import StageRecord
from nm2trt.reporting.ship import ship
from nm2trt.reporting.weight_groups import ladder_of, zeros_differ
from tests.reporting.runs import file, large_run, small_run, validation


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


def variants(folder, *, built):
    """Write a run in which magnitude lost and the model rebuilt from the same dense one did not."""
    run = RunFolder(folder)
    run.start("variants", ["magnitude", "prune", *(["build"] if built else [])])
    dense = file("dense.onnx", "aaaa")
    for name, digest in (("magnitude", "bbbb"), ("prune", "cccc")):
        run.write(StageRecord("prune", name, inputs=(dense,), outputs=(file(f"{name}.onnx", digest),)))
    if built:
        engine = (file("model.rtx", "dddd"),)
        run.write(StageRecord("build", "build", inputs=(file("prune.onnx", "cccc"),), outputs=engine))
    return run


@pytest.mark.parametrize("built", [True, False], ids=["built", "made-last"])
def test_a_variant_that_was_only_compared_does_not_decide(built, tmp_path):
    run = variants(tmp_path, built=built)
    for name, right in (("magnitude", 300), ("prune", 394)):
        compared = validation(f"artefacts/{name}.onnx", "dense.onnx", right=(right, 394))
        run.write(StageRecord("validate", f"of-{name}", result=compared))
    data = collect(tmp_path)
    found = ship(data)
    assert found.answer == "open"
    assert "prune.onnx has +0.00 points" in found.sentence
    fact = next(fact for fact in headline(data) if "top-1" in fact.label)
    assert "prune.onnx has 99.24 %" in fact.detail
    # Its loss is on the page all the same.
    assert to_html(data).count('<span class="pill no">lost</span>') == 1


def test_what_a_built_model_was_made_from_decides_with_it(tmp_path):
    run = variants(tmp_path, built=True)
    compared = validation("artefacts/prune.onnx", "dense.onnx", right=(300, 394))
    run.write(StageRecord("validate", "validate", result=compared))
    found = ship(collect(tmp_path))
    assert (found.answer, "prune.onnx has -23.68 points" in found.sentence) == ("no", True)


def test_a_model_that_was_made_after_the_build_decides_nothing(tmp_path):
    run = variants(tmp_path, built=True)
    dense, later = file("dense.onnx", "aaaa"), file("later.onnx", "eeee")
    run.write(StageRecord("prune", "later", inputs=(dense,), outputs=(later,)))
    for name, right in (("prune", 394), ("later", 300)):
        compared = validation(f"artefacts/{name}.onnx", "dense.onnx", right=(right, 394))
        run.write(StageRecord("validate", f"of-{name}", result=compared))
    data = collect(tmp_path)
    assert data.lineage[-1].name == "later.onnx"
    assert "prune.onnx has +0.00 points" in ship(data).sentence


def test_a_variant_decides_if_nothing_else_was_compared(tmp_path):
    run = variants(tmp_path, built=True)
    compared = validation("artefacts/magnitude.onnx", "dense.onnx", right=(300, 394))
    run.write(StageRecord("validate", "validate", result=compared))
    found = ship(collect(tmp_path))
    assert (found.answer, "magnitude.onnx has -23.68 points" in found.sentence) == ("no", True)


def test_what_nobody_measured_is_named_and_no_speed_is_claimed(run, tmp_path):
    data = sound(collect(tmp_path / "run"))
    kept = next(row for row in data.accuracy if row.difference is not None)
    tight = replace(kept, difference=0.0, difference_low=-0.005, difference_high=0.005)
    found = ship(replace(data, accuracy=(tight,)))
    assert found.answer == "open"
    assert found.not_measured == ("which kernels run, sparse or dense", "speed on the GPU")
    assert found.next_step.startswith("nm2trt prove ")
    asked = BuildCommand(
        model=Path("net.onnx"),
        output=Path("x.rtx"),
        sparsity="force",
        backend="trt",
        targets="sm80",
        profiles=("-c:1,2,4", "a b:1,2,4"),
        plugins=(Path("p.so"),),
        tf32=False,
        dry_run=True,
    )
    rows = [
        replace(row, command=shlex.join(["nm2trt", *words("build", asked)])) if row.stage == "build" else row
        for row in data.stages
    ]
    built = ship(replace(data, accuracy=(tight,), stages=tuple(rows)))
    typed = shlex.split(built.next_step.partition("  #")[0])
    proof = options_from(chosen_parser("prove").parse_args(typed[2:]), ProveCommand)
    assert typed[:2] == ["nm2trt", "prove"]
    for name in ("backend", "targets", "profiles", "plugins", "tf32"):
        assert getattr(proof, name) == getattr(asked, name), name
    assert (proof.output, proof.model == asked.output) == (None, False)
    assert next(fact for fact in headline(data) if fact.label == "speed").value == "not measured"
    nothing = ship(replace(data, accuracy=()))
    assert (nothing.answer, nothing.not_measured[0]) == ("open", "accuracy against the dense model")


def test_the_command_ends_with_the_verdict(run, tmp_path, capsys):
    assert main(["report", str(tmp_path / "run")]) == 0
    verdict, following = capsys.readouterr().out.splitlines()[-2:]
    assert verdict.startswith("verdict: No: 1 of 4 weights break their pattern")
    assert following.startswith("next:    ")


def measured(low, high):
    pairs = [
        {"name": "sparse-off", "against": "dense-off", "speedup": 1.0, "low": 0.9, "high": 1.1},
        {"name": "sparse-on", "against": "sparse-off", "speedup": 1.2, "low": low, "high": high},
    ]
    return {"measured": True, "device": "some GPU", "comparisons": pairs}


def test_a_speed_is_shown_only_where_sparse_kernels_could_run(run, tmp_path):
    bench = {
        "ratios": [{"name": "a.onnx", "base": "b.onnx", "p50": 0.5, "low": 0.4, "high": 0.6}],
        "latencies": {},
        "conditions": {"backend of a.onnx": "ONNX Runtime 1 on the CPU"},
    }
    run.write(StageRecord("bench", "bench", result=bench))
    assert collect(tmp_path / "run").speed == ()
    run.write(StageRecord("prove", "prove", result=measured(1.1, 1.3)))
    data = collect(tmp_path / "run")
    fact = next(fact for fact in headline(data) if fact.label == "speed")
    assert (fact.value, fact.tone) == ("1.20x", "good")
    assert fact.detail == "1.10x to 1.30x, sparse-on against sparse-off on some GPU"
    assert "speed on the GPU" not in ship(data).not_measured
    run.write(StageRecord("bench", "bench", result={**bench, "conditions": {"backend of a.onnx": "trt 10"}}))
    (timed,) = (row for row in collect(tmp_path / "run").speed if row.name == "a.onnx")
    assert (timed.speedup, timed.low, timed.high) == (2.0, 1 / 0.6, 1 / 0.4)


def test_work_that_can_run_sparse_counts_multiply_accumulates(run, tmp_path):
    rows = collect(tmp_path / "run").weights
    held = sum(row.macs for row in rows if row.status == "holds")
    work = collect(tmp_path / "run").sparse_work
    assert work.share == held / sum(row.macs for row in rows)
    built = {
        "forecast": {"macs": 100, "eligible": 25},
        "options": {"targets": ["sm80", "sm86"]},
        "backend": "trt-rtx",
    }
    run.write(StageRecord("build", "build", result=built))
    found = collect(tmp_path / "run").sparse_work
    assert (found.share, found.place) == (0.25, "sm80, sm86 with trt-rtx")


def test_size_before_is_that_of_an_ancestor_not_of_another_model(run, tmp_path):
    other = StageRecord(
        "fuse", "other", inputs=(file("a.onnx", "aaaa", 9),), outputs=(file("b.onnx", "bbbb", 8),)
    )
    run.write(other)
    fact = next(fact for fact in headline(collect(tmp_path / "run")) if fact.label == "on disk")
    assert fact.detail in ("model.rtx; net.safetensors had 131.1 kB", "b.onnx; a.onnx had 9 B")


def test_a_lost_stage_is_marked_in_the_list_of_stages(run, tmp_path):
    run.write(StageRecord("validate", "validate", result=validation("c.onnx", "d.onnx", right=(100, 394))))
    data = collect(tmp_path / "run")
    assert [row.name for row in data.stages if row.lost] == ["validate"]
    page = to_html(data)
    assert 'class="done lost"' in page
    assert "<b>accuracy lost</b>" in page


def test_equal_rows_of_the_ladder_are_one_and_a_reason_stands_once(tmp_path):
    data = collect(large_run(tmp_path / "large", layers=100).path)
    ladder = ladder_of(data.weights)
    assert sum(len(group.rows) for group in ladder.groups) == 100
    assert len(ladder.groups) < 70
    assert len(ladder.reasons) == 2
    assert ladder.rungs == ("pattern",)
    assert ladder.same["gain"] == "not measured"
    for group in ladder.groups:
        assert len({(row.operator, row.shape, row.status) for row in group.rows}) == 1


def test_zeros_are_charted_only_if_they_differ(run, tmp_path):
    data = collect(tmp_path / "run")
    assert not zeros_differ(data.weights)
    assert "Zeros by weight" not in to_html(data)
    moved = (*data.weights[:-1], replace(data.weights[-1], zero_share=0.7))
    assert "Zeros by weight" in to_html(replace(data, weights=moved))


def test_seeds_of_a_method_share_its_colour():
    lines = [
        {"run": run, "step": 1, "loss": 1.0}
        for run in ("dense, seed 0", "dense, seed 1", "sr-ste_seed3", "lbc", "seedling 4")
    ]
    (curve,) = curves_of(lines)
    assert [(line.method, line.index) for line in curve.series] == [
        ("dense", 0),
        ("dense", 0),
        ("sr-ste", 1),
        ("lbc", 2),
        ("seedling 4", 3),
    ]


def test_two_runs_stand_side_by_side(run, tmp_path, capsys):
    other = small_run(
        tmp_path / "other", names=("stem.weight", "body.0.weight", "body.1.weight", "<b>new</b>")
    )
    other.write(StageRecord("validate", "validate", result=validation("c.onnx", "d.onnx", right=(100, 394))))
    assert main(["report", str(tmp_path / "run"), str(tmp_path / "other")]) == 0
    out = capsys.readouterr().out
    assert out.count("verdict: ") == out.count("next:    ") == 2
    page = (tmp_path / "run" / "beside.html").read_text()
    assert "default-src 'none'" in page
    assert "&lt;b&gt;new" in page
    assert "<b>new" not in page
    assert 'class="bad"' in page
    data = nm2trt.report(tmp_path / "run", tmp_path / "two.json", beside=tmp_path / "other").report
    found = json.loads(data.read_text())
    assert found["schema"] == 1
    assert {pair["label"] for pair in found["weights"]} == {"head.weight", "<b>new</b>"}
    assert found["alike"] == 3
    assert len(found["runs"]) == 2
    text = nm2trt.report(tmp_path / "run", tmp_path / "two.md", beside=tmp_path / "other").report.read_text()
    assert "`<b>new</b>`" in text


def test_runs_of_different_networks_are_compared_by_their_totals(run, tmp_path):
    small_run(tmp_path / "other", names=("a.weight", "b.weight", "c.weight", "d.weight"))
    page = nm2trt.report(
        tmp_path / "run", tmp_path / "two.html", beside=tmp_path / "other"
    ).report.read_text()
    assert "the runs are of different networks: totals instead of each weight" in page
    assert "a.weight</td><td></td>" not in page
    found = nm2trt.report(tmp_path / "run", tmp_path / "two.json", beside=tmp_path / "other").report
    totals = {
        pair["label"]: (pair["first"], pair["second"]) for pair in json.loads(found.read_text())["weights"]
    }
    assert set(totals) == {"weights", "of them", "elements"}
    assert totals["weights"] == ("4", "4")
    assert "holds" in totals["of them"][0]
    text = nm2trt.report(tmp_path / "run", tmp_path / "two.md", beside=tmp_path / "other").report.read_text()
    assert "The runs are of different networks" in text
    assert "`a.weight`" not in text


def test_the_two_runs_page_is_quiet(browser, run, tmp_path):
    small_run(tmp_path / "other")
    page = nm2trt.report(tmp_path / "run", beside=tmp_path / "other").report
    for width in (1280, 390):
        browser.open(page, width=width)
        assert browser.run("document.documentElement.scrollWidth") == width
        assert browser.requests == [page.as_uri()]
        assert browser.messages == []


def test_a_second_run_that_is_none_is_refused(run, tmp_path):
    with pytest.raises(InputError, match="missing is not a folder"):
        nm2trt.report(tmp_path / "run", beside=tmp_path / "missing")
