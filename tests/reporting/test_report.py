"""nm2trt report: what it takes from a run's folder, its three formats, and what it refuses."""

import json
import subprocess
import sys

import pytest

import nm2trt
from nm2trt.errors import InputError, OutputError
from nm2trt.reporting.charts import lanes, ticks
from nm2trt.reporting.collect import collect
from nm2trt.reporting.folder import RunFolder
from nm2trt.reporting.lineage import LineageNode
from nm2trt.reporting.records import StageRecord, file_record
from tests.reporting.runs import change, damage, file, small_run, validation, verdict


@pytest.fixture
def run(tmp_path):
    return small_run(tmp_path / "run")


def test_figures_are_those_of_the_records(run):
    data = collect(run.path)
    assert [row.stage for row in data.accuracy] == ["PyTorch", "ONNX", "cast"]
    cast = data.accuracy[-1]
    assert (cast.value, cast.n, cast.reference) == (392 / 397, 397, "dense.onnx")
    assert cast.difference == pytest.approx(-2 / 397)
    assert [row.status for row in data.weights] == ["dense-by-plan", "broken", "holds", "holds"]
    assert data.weights[2].rungs["chosen"].answer == "not measured"
    assert data.weights[2].zero_share == 0.5
    assert {row.name: row.percentiles[50] for row in data.latency} == {
        "cast.onnx": 0.041,
        "dense.onnx": 0.043,
    }
    assert [curve.key for curve in data.curves] == [
        "loss",
        "accuracy",
        "sad_anchored",
        "sad_step",
        "sparsity",
    ]
    assert data.curves[0].series[0].points[0][0] == 22
    assert [row.status for row in data.stages if row.name == "deploy"] == ["not run"]
    assert data.versions["trt-rtx"] == "1.7.1.116"


def test_lineage_follows_hashes_of_files(run):
    nodes = {node.name: node for node in collect(run.path).lineage}
    assert nodes["model.rtx"].parents == (nodes["cast.onnx"].key,)
    assert nodes["fuse.onnx"].relation == "merged"
    assert nodes["net.safetensors"].stage == "given"
    assert nodes["cast.onnx"].mask_sha256 == "f9b5" * 16


def test_json_has_a_schema_and_every_weight(run, tmp_path):
    result = nm2trt.report(run.path, tmp_path / "report.json")
    data = json.loads(result.report.read_text())
    assert data["schema"] == 1
    assert [row["weight"] for row in data["weights"]][:2] == ["stem.weight", "body.0.weight"]


def test_markdown_escapes_names(tmp_path):
    run = small_run(tmp_path / "run", names=("a|b`c", "<script>", "c", "d"))
    run.start("x | [y](http://z) <b>", ["verify"])
    text = nm2trt.report(run.path, tmp_path / "report.md").report.read_text()
    assert "``  a" not in text
    assert "`` a\\|b`c ``" in text
    assert "`<script>`" in text
    assert "x \\| \\[y\\](http://z) \\<b\\>" in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and "Conv" in line]
    assert len(rows) == 4


def test_bare_json_output_of_a_command_is_enough(tmp_path):
    run = RunFolder(tmp_path)
    run.start("bare", ["verify-fp16"])
    (tmp_path / "stages" / "verify-fp16.json").write_text(
        json.dumps({"model": "m.onnx", "weights": [verdict("w")]})
    )
    (tmp_path / "stages" / "validate.json").write_text(
        json.dumps(validation("m.onnx", "http://localhost:8000/m"))
    )
    data = collect(tmp_path)
    assert [row.weight for row in data.weights] == ["w"]
    assert [row.stage for row in data.accuracy] == ["ONNX", "served"]


def test_an_empty_run_still_makes_every_format(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.start("empty", ["verify"])
    for suffix in ("html", "md", "json"):
        assert nm2trt.report(run.path, tmp_path / f"r.{suffix}").size_bytes > 100


def test_one_point_and_odd_values_are_drawn(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.start("odd", [])
    run.log("a", 1, loss=float("nan"))
    run.log("a", 2, loss=3.0)
    run.write(
        StageRecord(
            "verify", "verify", result={"model": "", "weights": [verdict("w", zero_share=None, shape=())]}
        )
    )
    assert "polyline" in nm2trt.report(run.path).report.read_text()


def test_resumed_training_counts_the_later_line(tmp_path):
    run = RunFolder(tmp_path)
    run.start("r", [])
    for value in (1.0, 2.0):
        run.log("a", 5, loss=value)
    assert collect(tmp_path).curves[0].series[0].points == ((5, 2.0),)


def test_last_line_of_telemetry_may_be_cut_but_no_other(run):
    path = run.telemetry_path
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert len(run.telemetry()) == whole.count("\n") - 1
    path.write_text('{"run": "a"\n' + whole)
    with pytest.raises(InputError, match=r"telemetry.jsonl is damaged at line 1: .*remove the line"):
        nm2trt.report(run.path)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        pytest.param(
            lambda run: damage(run.stage_path("build")),
            r"build\.json is half written or damaged.*the others are kept",
            id="half-written",
        ),
        pytest.param(
            lambda run: damage(run.header_path), r"run\.json is half written", id="header-half-written"
        ),
        pytest.param(
            lambda run: change(run.header_path, schema=2),
            r"run\.json has schema 2, this release reads 1",
            id="later-release",
        ),
        pytest.param(
            lambda run: change(run.stage_path("verify"), schema=9),
            r"verify\.json has schema 9",
            id="later-record",
        ),
        pytest.param(
            lambda run: run.header_path.unlink(),
            r"is not the folder of a run: it has no run\.json",
            id="no-header",
        ),
        pytest.param(
            lambda run: run.stage_path("verify").write_text(""), r"verify\.json is empty", id="empty"
        ),
        pytest.param(
            lambda run: run.stage_path("verify").write_text("[]"), r"does not hold a JSON object", id="list"
        ),
        pytest.param(
            lambda run: change(run.stage_path("verify"), stage="guess"),
            r"verify\.json is damaged or not a record",
            id="unknown-stage",
        ),
        pytest.param(
            lambda run: change(run.stage_path("verify"), result={"weights": 3}),
            r"verify\.json: result\.weights should be a list of objects and is something else",
            id="wrong-type",
        ),
        pytest.param(
            lambda run: change(run.stage_path("verify"), result={"weights": [{}]}),
            r"result\.weights\[0\]\.weight should be a text and is missing",
            id="missing-key",
        ),
        pytest.param(
            lambda run: (run.path / "stages" / "x.json").write_text("{}"),
            r"x\.json names no stage",
            id="no-stage",
        ),
        pytest.param(
            lambda run: change(run.header_path, stages=[1]),
            r"run\.json is damaged or not a header",
            id="header-types",
        ),
    ],
)
def test_refuses(run, tmp_path, spoil, match):
    before = nm2trt.report(run.path, tmp_path / "report.html").report.read_bytes()
    spoil(run)
    with pytest.raises(InputError, match=match):
        nm2trt.report(run.path, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == before


def test_refuses_arguments(run, tmp_path):
    with pytest.raises(InputError, match="is not a folder; give the folder that"):
        nm2trt.report(tmp_path / "nowhere")
    with pytest.raises(InputError, match="'pdf' is not a report format; choose html, json or md"):
        nm2trt.report(run.path, format="pdf")
    with pytest.raises(OutputError, match=r"the folder .* does not exist"):
        nm2trt.report(run.path, tmp_path / "nowhere" / "report.html")


@pytest.mark.parametrize("name", ["../verify", "", "a/b", ".hidden", "a\n"])
def test_names_of_stages_stay_in_the_folder(tmp_path, name):
    with pytest.raises(InputError, match="is not a valid stage name"):
        RunFolder(tmp_path).stage_path(name)


def test_an_unchanged_file_is_not_hashed_again(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"one")
    first = file_record(path, tmp_path)
    assert first.path == "model.onnx"
    known = StageRecord("verify", "v", inputs=(first,)).inputs[0]
    assert file_record(path, tmp_path, known) == first
    path.write_bytes(b"two, longer")
    assert file_record(path, tmp_path, known).sha256 != first.sha256
    assert file("x", "ab").sha256 == "ab" * 16


def test_ticks_are_round_and_inside():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(0, 660, 4) == [0, 200, 400, 600]
    assert ticks(3, 3) == [3]
    assert all(0.97 <= tick <= 1 for tick in ticks(0.97, 1))


def test_branches_of_the_lineage_get_lanes_of_their_own():
    def node(key, *parents):
        return LineageNode(key, key, "s", parents, "", key, "", None)

    drawn = str(lanes([node("a"), node("b", "a"), node("c", "a"), node("d", "b", "c")]))
    assert drawn.count("<circle") == 4
    assert drawn.count("<path") == 4
    assert 'width="36"' in drawn


def test_command_line(run, tmp_path):
    command = [sys.executable, "-m", "nm2trt", "report", str(run.path), "-o", str(tmp_path / "r.md")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "9 stages, 4 weights" in done.stdout
    damage(run.stage_path("build"))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
