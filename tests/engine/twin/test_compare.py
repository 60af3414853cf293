"""Twin builds: three real engines, their feeds, and what is timed where something can run them."""

import dataclasses
import itertools
import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import nm2trt
from nm2trt.backends import trt_rtx
from nm2trt.backends.choice import load_backend
from nm2trt.backends.cuda import probe_gpus
from nm2trt.backends.options import BuildOptions
from nm2trt.backends.ort import open_onnx
from nm2trt.engine.twin import clocks
from nm2trt.engine.twin.clocks import Effort
from nm2trt.engine.twin.compare import compare_twins
from nm2trt.engine.twin.report import Comparison, LayerDelta
from nm2trt.errors import BackendError, InputError, SparsityError
from nm2trt.graph.prune.dense_twin import densify_model
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.reporting.collect import collect
from nm2trt.reporting.folder import RunFolder
from tests.engine.nets import conv_net

NO_GPU = pytest.mark.skipif(bool(probe_gpus()[0]), reason="there is a GPU: the engines are timed")


@pytest.fixture
def net(tmp_path):
    return conv_net(tmp_path / "net.onnx")


class OnThisCpu:
    """TensorRT for RTX, whose engines are run by ONNX Runtime from the models that they were built from."""

    def __init__(self, models):
        self.real, self.models, self.sessions = trt_rtx.load(), models, []

    def __getattr__(self, name):
        return getattr(self.real, name)

    def open(self, path, plugins=()):
        self.sessions.append(Slow(open_onnx(self.models[path.stem.rpartition(".")[2]]), path))
        return self.sessions[-1]


class Slow:
    """A session that times its layers; the engine built without the flag takes a millisecond longer."""

    def __init__(self, session, path):
        self.session, self.path = session, path

    def __getattr__(self, name):
        return getattr(self.session, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.session.close()

    def run(self, feeds):
        if "sparse-on" not in self.path.name:
            import time

            time.sleep(0.001)
        return self.session.run(feeds)

    def layer_times(self, feeds, *, runs):
        return {"conv0": 0.5, "conv1": 2.0 if "sparse-off" in self.path.name else 1.0, self.path.name: 1.0}


@NO_GPU
def test_without_a_gpu_all_but_the_times_is_told(net):
    report = nm2trt.prove(net, backend="trt-rtx")
    assert not report.measured
    assert "takes a GPU" in report.why_not
    assert [variant.name for variant in report.variants] == ["dense", "sparse-off", "sparse-on"]
    assert [variant.sparsity for variant in report.variants] == ["disable", "disable", "enable"]
    assert all(variant.latency is None and variant.engine_bytes > 0 for variant in report.variants)
    assert report.sparse_share is None
    assert report.feeds == {"x": (8, 16, 8, 8)}
    assert [row.weight for row in report.ladder] == ["w0", "w1"]
    assert json.loads(json.dumps(report.to_json()))["ladder"][0]["pattern"]["answer"] == "yes"
    assert [path.name for path in net.parent.iterdir()] == ["net.onnx"]


@pytest.mark.gpu
def test_a_gpu_times_all_three(net):
    pytest.importorskip("tensorrt_rtx")
    target = probe_gpus()[0][0].target
    if target not in trt_rtx.load().targets:
        pytest.skip(f"TensorRT for RTX cannot build for {target}")
    report = nm2trt.prove(net, backend="trt-rtx", runs=50)
    assert report.measured, report.why_not
    assert all(variant.latency.p50_ms > 0 for variant in report.variants)
    assert report.clocks_after


def test_the_engines_may_be_kept(net, tmp_path):
    (tmp_path / "kept").mkdir()
    report = nm2trt.prove(net, output=tmp_path / "kept", backend="trt-rtx")
    names = {f"net.{name}.rtx" for name in ("dense", "sparse-off", "sparse-on")}
    assert {path.name for path in (tmp_path / "kept").iterdir()} == names | {f"{name}.json" for name in names}
    assert all(variant.engine.endswith(".rtx") for variant in report.variants)


def test_a_dense_model_may_be_given(net, tmp_path):
    dense = conv_net(tmp_path / "dense.onnx", sparse=False)
    report = nm2trt.prove(net, dense, backend="trt-rtx")
    assert report.dense_model == str(dense)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        pytest.param({"channels": 32, "shape": ("n", 32, 8, 8)}, "input x float16 nx16x8x8", id="width"),
        pytest.param({"dtype": "float32"}, "input x float16 nx16x8x8", id="type"),
        pytest.param({"layers": 3}, "Conv 16x16x3x3 float16", id="depth"),
    ],
)
def test_a_dense_model_of_another_network_is_refused(net, tmp_path, other, told):
    dense = conv_net(tmp_path / "dense.onnx", sparse=False, **other)
    with pytest.raises(InputError, match=f"is not .* before it was pruned: {told} is only in"):
        nm2trt.prove(net, dense, backend="trt-rtx")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param({"runs": 0}, InputError, "0 runs after 20 measure nothing", id="no-runs"),
        pytest.param({"output": "no/such"}, InputError, "no/such is not a folder", id="no-folder"),
        pytest.param({"dense": "none.onnx"}, InputError, "none.onnx does not exist", id="no-dense-model"),
    ],
)
def test_bad_input(net, arguments, error, message):
    with pytest.raises(error, match=message):
        nm2trt.prove(net, backend="trt-rtx", **arguments)


def test_a_dense_model_has_nothing_to_compare(tmp_path):
    with pytest.raises(SparsityError, match="no stored weight holds a pattern"):
        nm2trt.prove(conv_net(tmp_path / "net.onnx", sparse=False), backend="trt-rtx")


def test_what_runs_is_timed_in_turn(net, tmp_path):
    from nm2trt.pipeline.prove import _twins

    dense = conv_net(tmp_path / "dense.onnx", sparse=False, dtype="float32")
    sparse = conv_net(tmp_path / "sparse32.onnx", dtype="float32")
    builds = _twins(sparse, dense, tmp_path, BuildOptions(), load_backend("trt-rtx"))
    backend = OnThisCpu({"dense": dense, "sparse-off": sparse, "sparse-on": sparse})
    clocks = ({"gpu clocks.sm": f"{mhz} MHz"} for mhz in itertools.count(1000))
    report = compare_twins(builds, backend, effort=Effort(30, 2, 0.0, 0.0), state=lambda: next(clocks))
    assert report.measured
    assert [variant.latency.runs for variant in report.variants] == [30] * 3
    assert (report.clocks_before, report.clocks_after) == (
        {"gpu clocks.sm": "1000 MHz"},
        {"gpu clocks.sm": "1001 MHz"},
    )
    speed = {(pair.name, pair.against): pair for pair in report.comparisons}
    assert speed["sparse-on", "sparse-off"].low <= speed["sparse-on", "sparse-off"].speedup
    assert speed["sparse-on", "sparse-off"].certain  # a planted millisecond over a tenth of one
    assert speed["sparse-on", "sparse-off"].speedup > 1.0
    # Layers that one engine alone has are left out; the largest saving comes first.
    assert report.layers == (LayerDelta("conv1", 2.0, 1.0), LayerDelta("conv0", 0.5, 0.5))
    assert "copies of inputs and outputs included" in report.conditions["time"]


@pytest.mark.parametrize(
    ("own", "theirs", "speedup", "certain"),
    [
        pytest.param([1.0, 1.0, 1.0], [1.5, 1.2, 1.3], 1.3, True, id="faster-in-every-block"),
        pytest.param([1.0, 1.0, 1.0], [0.9, 1.0, 1.2], 1.0, False, id="blocks-disagree"),
        pytest.param([2.0, 2.0, 2.0], [1.0, 1.0, 1.0], 0.5, True, id="slower-in-every-block"),
    ],
)
def test_a_comparison_is_of_the_blocks(own, theirs, speedup, certain):
    found = clocks._compare("on", "off", {"on": own, "off": theirs})
    assert isinstance(found, Comparison)
    assert found.speedup == pytest.approx(speedup)
    assert found.certain is certain


def test_densified_weights_hold_nothing_and_keep_their_numbers(net, tmp_path):
    weights = verify_model(net).weights
    assert densify_model(net, tmp_path / "dense.onnx", weights) == 2
    after = verify_model(tmp_path / "dense.onnx", pattern="2:4")
    assert [verdict.zero_share for verdict in after.weights] == [0.0, 0.0]
    before, filled = (
        {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
        for path in (net, tmp_path / "dense.onnx")
    )
    for name, old in before.items():
        new = filled[name]
        assert np.array_equal(new[old != 0], old[old != 0])
        assert set(new.ravel()) <= set(old[old != 0].ravel())


def test_a_weight_that_holds_nothing_is_left_alone(tmp_path):
    net = conv_net(tmp_path / "net.onnx")
    weights = verify_model(net).weights
    first = [dataclasses.replace(weights[0], pattern="broken"), weights[1]]
    densify_model(net, tmp_path / "dense.onnx", first)
    assert [v.zero_share for v in verify_model(tmp_path / "dense.onnx").weights] == [0.5, 0.0]


class FullAfterTwo(OnThisCpu):
    """A GPU whose memory holds two of the engines."""

    def open(self, path, plugins=()):
        if len(self.sessions) == 2:
            raise BackendError("TensorRT cannot run the engine: out of memory")
        return super().open(path, plugins)


def test_no_memory_for_the_third_twin_is_one_sentence_with_what_was_built(net, tmp_path):
    from nm2trt.pipeline.prove import _twins

    net32 = conv_net(tmp_path / "sparse32.onnx", dtype="float32")
    builds = _twins(net32, net32, tmp_path, BuildOptions(), load_backend("trt-rtx"))
    backend = FullAfterTwo(dict.fromkeys(builds, net32))
    with pytest.raises(
        BackendError,
        match=r"the engine 'sparse-on' cannot be loaded beside dense and sparse-off: .*out of memory",
    ) as caught:
        compare_twins(builds, backend, effort=Effort(10, 0, 0.0, 0.0))
    assert caught.value.exit_status == 4
    report = caught.value.partial
    assert not report.measured
    assert [variant.name for variant in report.variants] == ["dense", "sparse-off", "sparse-on"]


def test_the_command_shows_what_was_built_and_ends_with_4(net, tmp_path, monkeypatch, capsys):
    from nm2trt.cli import main

    def fail(builds, backend, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(backend), "open", refuse)
            return compare_twins(builds, backend, **options)

    def refuse(self, path, plugins=()):
        raise BackendError("the plan is for another GPU: build it again for this machine")

    monkeypatch.setattr("nm2trt.engine.twin.compare.compare_twins", fail)
    assert main(["prove", str(net), "--backend", "trt-rtx"]) == 4
    captured = capsys.readouterr()
    assert "sparse-on" in captured.out
    told = "the engine 'dense' cannot be loaded: the plan is for another GPU: build it again for this machine"
    assert captured.err.rstrip().splitlines()[-1] == f"nm2trt: {told}"
    # A report does not take it for done, and shows what was found before.
    assert main(["prove", str(net), "--backend", "trt-rtx", "--json"]) == 4
    run = RunFolder(tmp_path / "run")
    run.start("r", ["prove"])
    run.stage_path("prove").write_text(capsys.readouterr().out)
    data = collect(run.path)
    assert [(row.status, row.sentence) for row in data.stages] == [("failed", told)]
    assert data.weights


@pytest.mark.parametrize("given", [None, "mine.cache"])
def test_the_three_builds_share_one_timing_cache(net, tmp_path, monkeypatch, given):
    """Tuned apart, dense and sparse-off may get other kernels by the noise of the tuning alone."""
    from nm2trt.pipeline import prove as pipeline

    seen = []

    def stop(model, dense, folder, options, backend):
        seen.append(options)
        raise InputError("far enough")

    monkeypatch.setattr(pipeline, "_twins", stop)
    monkeypatch.setattr(trt_rtx.RtxBackend, "has_timing_cache", True)
    options = BuildOptions(timing_cache=None if given is None else tmp_path / given)
    with pytest.raises(InputError, match="far enough"):
        nm2trt.prove(net, backend="trt-rtx", options=options)
    assert seen[0].timing_cache.name == (given or "timings.cache")
