"""The kinds of stages that change precision, deploy and probe: they do what their commands do."""

import json

import numpy as np
import pytest

import nm2trt
from nm2trt.errors import DifferenceError, InputError, ServerError
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.recipe.options import KINDS
from nm2trt.recipe.order import ordered
from nm2trt.recipe.runner import run as run_recipe
from nm2trt.recipe.schema import load_recipe
from nm2trt.reporting.collect import collect
from nm2trt.reporting.folder import RunFolder
from nm2trt.reporting.records import STAGES

HEAD = "version: 1\nmodel: model.onnx\nstages:\n  prune:\n"


def run(project, stages, **options):
    (project / "recipe.yaml").write_text(HEAD + stages)
    return run_recipe(project / "recipe.yaml", **options)


def statuses(result):
    return {stage.name: stage.status for stage in result.stages}


def test_every_kind_has_an_action_and_a_place_in_the_report():
    from nm2trt.recipe.actions import ACTIONS

    assert set(ACTIONS) == set(KINDS)
    assert set(KINDS) <= set(STAGES)


def test_cast_and_quantize_keep_the_zeros_and_are_cached(project):
    stages = """\
  cast: {to: fp16}
  quantize: {from: prune, calib: test.npz, batch: 16}
  check-cast: {stage: verify, from: cast}
  check-int8: {stage: verify, from: quantize}
  report:
"""
    result = run(project, stages)
    assert result.failure is None
    for name in ("cast", "quantize"):
        assert verify_model(result.run / "artefacts" / f"{name}.onnx").counts == {"holds": 2}
    assert set(statuses(run(project, stages)).values()) == {"cached"}
    lineage = {node.name: node for node in collect(result.run).lineage}
    assert lineage["cast.onnx"].parents == lineage["quantize.onnx"].parents == (lineage["prune.onnx"].key,)
    assert lineage["cast.onnx"].relation in ("equal", "subset")
    np.savez(project / "test.npz", x=np.ones((20, 16, 8, 8), "float32"), labels=np.zeros(20, int))
    changed = statuses(run(project, stages))
    assert (changed["cast"], changed["quantize"]) == ("cached", "done")


def test_prune_with_calib_rebuilds_and_is_cached(project):
    stages = """\
    calib: test.npz
  check: {stage: verify}
  report:
"""
    result = run(project, stages)
    assert result.failure is None
    made = RunFolder(result.run).record("prune").result
    assert (made["method"], made["relation"], made["samples"]) == ("reconstruct", "rebuilt", 64)
    assert made["outputs"][0]["samples"] > 0
    assert verify_model(result.run / "artefacts" / "prune.onnx").passed()
    assert set(statuses(run(project, stages)).values()) == {"cached"}
    np.savez(project / "test.npz", x=np.ones((20, 16, 8, 8), "float32"), labels=np.zeros(20, int))
    assert statuses(run(project, stages))["prune"] == "done"


DEPLOY = """\
  deploy: {repository: models, name: net, backend: python, max_batch: 8}
"""


def test_permute_stands_before_prune_and_both_leave_their_relation(project):
    text = HEAD.replace("  prune:\n", "  permute: {seed: 3, min_channels: 8}\n  prune:\n  verify:\n")
    (project / "recipe.yaml").write_text(text)
    result = run_recipe(project / "recipe.yaml")
    assert statuses(result) == {"permute": "done", "prune": "done", "verify": "done"}
    lineage = {node.name: node for node in collect(result.run).lineage}
    assert (lineage["permute.onnx"].relation, lineage["prune.onnx"].relation) == ("permuted", "subset")
    assert lineage["prune.onnx"].parents == (lineage["permute.onnx"].key,)
    assert set(statuses(run_recipe(project / "recipe.yaml")).values()) == {"cached"}


def test_deploy_writes_a_version_once_and_again_when_it_was_changed(project):
    result = run(project, DEPLOY)
    assert result.failure is None
    assert RunFolder(result.run).record("deploy").result["version"] == 1
    assert statuses(run(project, DEPLOY))["deploy"] == "cached"
    (project / "models" / "net" / "config.pbtxt").write_text("")
    again = run(project, DEPLOY)
    assert statuses(again)["deploy"] == "done"
    assert RunFolder(again.run).record("deploy").result["version"] == 2
    assert (project / "models" / "net" / "1").is_dir()


def test_repository_stays_below_the_root(project):
    with pytest.raises(InputError, match=r"line 5: stages\.deploy\.repository: .*leaves the folder"):
        run(project, DEPLOY.replace("repository: models", "repository: ../models"))


def test_probe_needs_a_deployment_and_finds_the_model_behind_it(project):
    with pytest.raises(InputError, match=r"stages\.probe: no stage before it deploys anything"):
        run(project, "  probe: {url: 'localhost:1'}\n")
    build = (
        "  build: {from: prune}\n  deploy: {repository: models, name: net}\n  probe: {url: 'localhost:1'}\n"
    )
    (project / "recipe.yaml").write_text(HEAD + build)
    steps = {step.stage.name: step for step in ordered(load_recipe(project / "recipe.yaml"))}
    assert steps["deploy"].sources == {"from": "build", "reference": "prune"}
    assert steps["probe"].sources == {"from": "deploy", "reference": "prune"}


def test_no_server_is_one_sentence(project):
    result = run(project, DEPLOY + "  probe: {url: 'localhost:9', requests: 2}\n  report:\n")
    assert isinstance(result.failure, ServerError)
    assert statuses(result) == {"prune": "done", "deploy": "done", "probe": "failed", "report": "done"}


@pytest.fixture
def server(project, tritonserver):
    from nm2trt.serving.options import ServerOptions
    from nm2trt.serving.server.start import start_server

    (project / "models").mkdir()
    with start_server(project / "models", ServerOptions(load=(), log=project / "log.txt")) as running:
        yield running


@pytest.mark.slow
def test_from_weights_to_a_probed_deployment_on_a_real_server(project, server):
    url = server.http
    stages = DEPLOY.replace("max_batch: 8", f"max_batch: 8, canary: '{url}'") + (
        f"  probe: {{url: '{url}', requests: 20, concurrency: [1, 4]}}\n"
        f"  served: {{stage: validate, from: 'http://{url}/net', against: model, data: test.npz, runs: 5}}\n  report:\n"
    )
    result = run(project, stages)
    assert result.failure is None
    data = collect(result.run)
    assert [row.stage for row in data.accuracy] == ["ONNX", "served"]
    assert any(row.name.startswith("4 clients") for row in data.latency)
    assert set(statuses(run(project, stages)).values()) == {"cached"}


def test_a_wrong_answer_fails_the_probe_with_its_record(project, monkeypatch):
    from nm2trt.serving.probe_report import BatchCheck, ProbeReport

    report = ProbeReport(
        "u", "net", "triton", ("1",), "m", "same", "same", (), (BatchCheck(1, (), "is 3 off"),), (), {}
    )
    monkeypatch.setattr("nm2trt.pipeline.probe.probe", lambda *_, **__: report)
    result = run(project, DEPLOY + "  probe: {url: 'localhost:1'}\n")
    assert isinstance(result.failure, DifferenceError)
    record = RunFolder(result.run).record("probe")
    assert (record.status, record.result["passed"]) == ("failed", False)


def test_gain_by_a_table_of_another_device_is_one_sentence(project):
    row = {"m": 64, "n": 64, "k": 64, "dtype": "float16", "dense_ms": 2.0, "sparse_ms": 1.0}
    table = {"schema": 1, "device": {"name": "NVIDIA A10", "target": "sm86"}, "rows": [row]}
    (project / "table.json").write_text(json.dumps(table))
    result = run(project, "  gain: {table: table.json, device: NVIDIA T4}\n")
    with pytest.raises(nm2trt.errors.InputError, match=r"^[^\n]*NVIDIA A10[^\n]*$"):
        raise result.failure


def test_bench_prove_and_a_gate_on_accuracy(project):
    stages = """\
  cast: {to: fp16}
  prove: {from: cast, runs: 5, warmup: 1}
  bench: {from: cast, against: prune, runs: 5, warmup: 1}
  validate: {from: prune, data: test.npz, runs: 0, metrics: [top-1], max_drop: 0.001pt}
  report:
"""
    result = run(project, stages)
    assert isinstance(result.failure, DifferenceError)
    assert statuses(result) == {
        "prune": "done",
        "cast": "done",
        "prove": "done",
        "bench": "done",
        "validate": "failed",
        "report": "done",
    }
    record = RunFolder(result.run).record("validate")
    assert record.result["passed"] is False
    data = collect(result.run)
    assert {row.name for row in data.latency} == {"cast.onnx", "prune.onnx"}
    assert all(len(row.samples_ms) == 5 for row in data.latency)
    sentences = {row.name: row.sentence for row in data.stages}
    assert "of prune.onnx's time" in sentences["bench"]
    assert sentences["prove"]
    assert "histogram" in (result.run / "report.html").read_text()
