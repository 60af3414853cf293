"""Twins on a driver and engines made for the tests: the ladder is the engine's own, a failing GPU is one sentence."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import trt_twin
from nm2trt.backends.options import BuildOptions, parse_profiles
from nm2trt.backends.protocol import TensorSpec
from nm2trt.engine.build import BuildResult
from nm2trt.engine.ladder.forecast import forecast
from nm2trt.engine.ladder.ladder import ladder_rows
from nm2trt.engine.twin.clocks import Effort
from nm2trt.engine.twin.compare import compare_twins
from nm2trt.errors import BackendError, BackendMissingError
from tests.backends import gpu_double
from tests.engine.ladder.test_ladder import DENSE, SPARSE, verdict

NAMES = ("dense", "sparse-off", "sparse-on")
WEIGHTS = (verdict(macs=300), verdict(macs=100, weight="w1", node="conv1"))
LOST = 999


def built(name):
    sparsity = "enable" if name == "sparse-on" else "disable"
    ladder = ladder_rows(WEIGHTS, sparsity="enable", builder="trt", targets=("sm86",))
    return BuildResult(
        engine=Path(f"net.{name}.engine"), written=True, kind="", model=Path("net.onnx"), backend="trt",
        backend_version="10.3.0", options=BuildOptions(sparsity=sparsity, profiles=parse_profiles(["x:1x4,2x4,4x4"])),
        inputs=(TensorSpec("x", "float16", (None, 4)),), outputs=(), ladder=ladder, forecast=forecast(ladder), outlook="",
        notes=(), engine_sha256="", engine_bytes=1, parse_ms=1.0, build_ms=1.0, log=(),
    )  # fmt: skip


BUILDS = {name: built(name) for name in NAMES}


@pytest.fixture(scope="module")
def driver_path(tmp_path_factory):
    return gpu_double.compiled(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def driver(driver_path, tmp_path, monkeypatch):
    return gpu_double.loaded(driver_path, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "kernels are chosen on the GPU that loads the engine, and no GPU was asked here"),
        (
            {"device": "A10"},
            "the builder chose kernels on this GPU, and its log and inspector do not tell this",
        ),
        ({"device": "A10", "written": False}, None),
    ],
    ids=["no-gpu", "on-a-gpu", "dry-run"],
)
def test_a_build_says_why_kernels_are_not_known(changes, said):
    """TensorRT proper asks the GPU; only TensorRT for RTX leaves the choice to the GPU that loads."""
    remarks = replace(built("sparse-on"), **changes).remarks()
    found = [line for line in remarks if line.startswith("not measured")]
    assert found == ([f"not measured: {said}"] if said else [])


class Inspected(gpu_double.Module):
    """The library's module, its inspector and profiler included."""

    class LayerInformationFormat:
        JSON = "json"

    class IProfiler:
        pass


class InspectedEngine(gpu_double.Engine):
    """An engine whose inspector tells planted layers, on the context that it is given."""

    text = ""

    def create_engine_inspector(self):
        return self

    def get_engine_information(self, kind):
        assert self.execution_context is self.context, "TensorRT for RTX chooses kernels in the context"
        return self.text


class OnDoubles:
    """A backend whose engines are doubles."""

    name, version = "trt", "10.3.0"

    def __init__(self, driver, *, text="", no_context="", run=lambda driver: None, layer_ms=None):
        self.driver, self.text, self.no_context, self.run = driver, text, no_context, run
        self.layer_ms = layer_ms or {}

    def open(self, path, plugins=()):
        name = path.name.split(".")[1]
        engine = InspectedEngine(self.driver)
        engine.text, engine.no_context = self.text, name == self.no_context
        engine.layer_ms = self.layer_ms.get(name, {})
        if name == NAMES[-1]:
            self.run(self.driver)
        return gpu_double.session_of(engine, module=Inspected())


def layers(*tactics):
    records = [
        {"Name": f"conv{index}", "LayerType": "CaskConvolution", "TacticName": tactic}
        for index, tactic in enumerate(tactics)
    ]
    return json.dumps({"Layers": records, "Bindings": []})


def compare(backend):
    return compare_twins(BUILDS, backend, effort=Effort(10, 1, 0.0, 0.0))


def test_the_ladder_is_filled_from_the_engine_that_ran(driver):
    report = compare(OnDoubles(driver, text=layers(SPARSE, DENSE)))
    assert report.measured
    assert [row.chosen.answer for row in report.ladder] == ["yes", "no"]
    assert report.sparse_share == 0.75
    assert not any("is not known" in note for note in report.notes)
    assert [row.chosen.answer for row in BUILDS["sparse-on"].ladder] == ["not measured"] * 2
    assert gpu_double.held(driver) == [0] * 6


def test_an_engine_that_tells_no_tactics_leaves_the_question_open(driver):
    report = compare(OnDoubles(driver, text=layers("", "")))
    assert report.sparse_share is None
    assert any("the chosen kernel is unknown for 2 of 2" in note for note in report.notes)


def test_an_inspector_that_writes_no_json_costs_a_note(driver):
    report = compare(OnDoubles(driver, text='{"Layers": ['))
    assert report.measured
    said = "the inspector of trt 10.3.0 was not read: the layer information is not JSON"
    assert any(said in note for note in report.notes)


def test_layer_times_fill_the_gain_that_no_builder_measured(driver):
    times = {
        "sparse-off": {"conv0 + relu0": 1.5, "conv1": 1.0, "Reformatting CopyNode for Input Tensor 0": 0.1},
        "sparse-on": {"conv0_myl0_1": 1.0, "conv1": 1.01, "{ForeignNode[conv1...conv9]}": 9.0},
    }
    report = compare(OnDoubles(driver, text=layers(SPARSE, SPARSE), layer_ms=times))
    assert [row.gain.answer for row in report.ladder] == ["yes", "no"]
    assert [row.gain.detail for row in report.ladder] == [
        "1.50x by the layer's time",
        "0.99x by the layer's time: no difference",
    ]
    assert [(delta.layer, round(delta.saved_ms, 3)) for delta in report.layers] == [("conv1", -0.01)]
    assert any("changes the engine from 3 layers to 3: 2 added" in note for note in report.notes)


def test_a_weight_whose_kernel_stayed_dense_has_no_gain_to_measure(driver):
    times = {name: {"conv0": 1.0, "conv1": 1.0} for name in ("sparse-off", "sparse-on")}
    report = compare(OnDoubles(driver, text=layers(DENSE, DENSE), layer_ms=times))
    assert [row.gain.answer for row in report.ladder] == ["not reached"] * 2


def test_memory_that_lacks_for_the_third_engine_is_one_sentence(driver):
    with pytest.raises(
        BackendError,
        match=r"the engine 'sparse-on' cannot be loaded beside dense and sparse-off: TensorRT 10\.3\.0 cannot run",
    ) as caught:
        compare(OnDoubles(driver, no_context="sparse-on"))
    assert caught.value.exit_status == 4
    assert "\n" not in str(caught.value)
    assert gpu_double.held(driver) == [0] * 6


def test_a_gpu_that_is_lost_before_the_third_engine_is_one_sentence(driver):
    with pytest.raises(BackendError, match=r"the engine 'sparse-on' cannot be loaded .*GPU") as caught:
        compare(OnDoubles(driver, run=lambda driver: driver.lose(LOST)))
    assert caught.value.exit_status == 4


def test_no_gpu_is_no_error(driver):
    class Missing(OnDoubles):
        def open(self, path, plugins=()):
            raise BackendMissingError("running it takes a GPU, and there is none here")

    report = compare(Missing(driver))
    assert not report.measured
    assert "takes a GPU" in report.why_not


def test_the_benchmark_of_twins_reads_the_same_clocks(driver, tmp_path, monkeypatch):
    monkeypatch.setattr("time.perf_counter", lambda: driver.now() / 1e3)
    engines = {case: Path(f"net.{name}.engine") for case, name in trt_twin.ENGINES.items()}
    result = {"net": "net", "precision": "fp16"} | {case: {} for case in engines}
    backend = OnDoubles(driver, text=layers("sm80_xmma_sparse_conv_fprop"))
    trt_twin.run(backend, engines, gpu_double.batch(2), 10, result, tmp_path)
    for case in engines:
        assert set(result[case]["time"]) == {"device", "host", "graph"}
        assert result[case]["sparse_tactics"] == 1
    assert result["speed_up"] == pytest.approx(1.0, rel=1e-3)
    assert len(list(tmp_path.glob("*.layers.json"))) == 3
    json.dumps(result)
