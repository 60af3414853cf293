"""build_engine on the real TensorRT for RTX: what is checked, told, written and refused."""

import dataclasses
import json

import pytest

import nm2trt
from nm2trt.backends import trt_rtx
from nm2trt.backends._trt_versions import row_of
from nm2trt.backends.options import BuildOptions, parse_profiles
from nm2trt.engine.build import ModelFacts, build_engine
from nm2trt.engine.ladder.requirement import NothingSparseError
from nm2trt.engine.request import check_request, refuse_opset
from nm2trt.errors import BackendError, InputError, OutputError
from nm2trt.hashes import sha256_file
from nm2trt.manifest import read_manifest
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import Plan, PlanEntry
from tests.engine.ladder.test_ladder import HOLDS
from tests.engine.nets import conv_net, elementwise_net

pytest.importorskip("tensorrt_rtx")

BROKEN = dataclasses.replace(
    HOLDS, pattern="broken", broken_groups=3, reason="broken", sentence="3 groups broken"
)
PLAN = Plan((PlanEntry("w0", NMPattern(2, 4), "wide enough"),), "sr-ste")


@pytest.fixture
def net(tmp_path):
    return conv_net(tmp_path / "net.onnx")


def build(model, out=None, *, weights=(HOLDS,), facts=None, dry_run=False, **options):
    return build_engine(
        model,
        out,
        BuildOptions(**{"sparsity": "enable", **options}),
        weights=weights,
        facts=facts or ModelFacts("m" * 64),
        backend=trt_rtx.load(),
        dry_run=dry_run,
    )


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_engine_and_manifest_lie_beside_the_model(net):
    result = build(net)
    assert result.engine == net.with_suffix(".rtx")
    assert result.engine_sha256 == sha256_file(result.engine)
    assert result.engine_bytes == result.engine.stat().st_size
    assert files(net.parent) == ["net.onnx", "net.rtx", "net.rtx.json"]


def test_the_manifest_tells_the_engine_s_story(net):
    result = build(net, facts=ModelFacts("m" * 64, PLAN), targets=("sm89",), workspace_bytes=1 << 30)
    manifest = read_manifest(result.engine).manifest
    assert manifest.kind.startswith("TensorRT for RTX plan: runs only in the TensorRT-RTX runtime")
    assert manifest.model_sha256 == sha256_file(net)
    assert manifest.mask_sha256 == "m" * 64
    assert Plan.from_json(json.dumps(manifest.plan)) == PLAN
    assert manifest.targets == ("sm89",)
    assert manifest.options["workspace_bytes"] == 1 << 30
    assert manifest.options["profiles"][0][0]["max"] == [32, 16, 8, 8]
    assert manifest.inputs == ({"name": "x", "dtype": "float16", "shape": ["n", 16, 8, 8]},)
    assert manifest.ladder[0]["chosen"]["answer"] == "not measured"
    assert manifest.versions["trt-rtx"] == result.backend_version


def test_the_result_is_json_without_the_log(net):
    data = json.loads(json.dumps(build(net).to_json()))
    assert data["written"] is True
    assert data["options"]["targets"] == ["sm80", "sm86"]
    assert "log" not in data


def test_the_log_is_in_the_result(net):
    assert any("Engine generation completed" in line for line in build(net).log)


def test_the_public_function_takes_the_options_second(net):
    result = nm2trt.build(net, BuildOptions(sparsity="enable", targets=("sm89",)), backend="trt-rtx")
    assert (result.engine, result.options.targets) == (net.with_suffix(".rtx"), ("sm89",))
    assert result.backend == "trt-rtx"
    with pytest.raises(InputError, match="given twice"):
        nm2trt.build(net, BuildOptions(), BuildOptions())


def test_a_dry_run_writes_nothing(net):
    result = build(net, dry_run=True)
    assert not result.written
    assert result.options.profiles, "the profile is settled all the same"
    assert files(net.parent) == ["net.onnx"]


def test_a_dry_run_still_finds_what_the_parser_refuses(tmp_path):
    path = elementwise_net(tmp_path / "odd.onnx", {"x": (4, 4)}, "Det")
    with pytest.raises(BackendError, match="refuses node 'odd_one', operator Det"):
        build(path, dry_run=True)


def test_a_static_model_has_no_profile(tmp_path):
    result = build(conv_net(tmp_path / "net.onnx", shape=(4, 16, 8, 8)))
    assert result.options.profiles == ()
    assert result.notes == ()


def test_two_dynamic_inputs_are_built_together(tmp_path):
    path = elementwise_net(tmp_path / "sum.onnx", {"a": ("n", 4), "b": ("n", 4)})
    result = build(path, sparsity="disable", profiles=parse_profiles(["a:1,2,3"]))
    assert [str(shapes) for shapes in result.options.profiles[0]] == ["1x4,2x4,3x4"] * 2


def test_fp32_is_told_that_no_sparse_kernel_is_known(tmp_path):
    facts = dataclasses.replace(HOLDS.facts, dtype="float32")
    weights = (dataclasses.replace(HOLDS, dtype="float32", facts=facts, eligible="no", reason="fp32"), HOLDS)
    notes = build(conv_net(tmp_path / "net.onnx", dtype="float32"), weights=weights).notes
    assert "1 of 2 weights that hold 2:4 are float32, for which no sparse kernel is known" in notes[-1]


def test_turing_is_told_that_it_runs_dense(net):
    assert "sm75 has no sparse tensor cores" in build(net, targets=("sm75", "sm80")).notes[-1]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        pytest.param((BROKEN, BROKEN), "none of its weights holds 2:4", id="broken"),
        pytest.param(
            (
                dataclasses.replace(
                    BROKEN, facts=dataclasses.replace(HOLDS.facts, dtype="int8", pattern=None)
                ),
            ),
            r"; prune the float model \(nm2trt prune --calib SAMPLES\), and quantise the result, or build dense",
            id="quantised",
        ),
        pytest.param((dataclasses.replace(HOLDS, wanted="4:8"),), "none of its weights holds 2:4", id="4:8"),
        pytest.param((), "it has no weights to judge", id="no-weights"),
        pytest.param(
            (dataclasses.replace(BROKEN, pattern="untraceable"),), "could be judged", id="untraceable"
        ),
    ],
)
def test_nothing_that_holds_two_of_four_is_refused_with_the_ladder(net, weights, message):
    with pytest.raises(NothingSparseError, match=f"{message}.*--sparsity=disable") as caught:
        build(net, weights=weights)
    assert caught.value.exit_status == 3
    assert len(caught.value.ladder) == len(weights)
    assert files(net.parent) == ["net.onnx"]


def test_one_weight_that_holds_is_enough(net):
    assert build(net, weights=(BROKEN, HOLDS)).written


def test_a_dense_build_asks_nothing_of_the_weights(net):
    assert build(net, weights=(BROKEN,), facts=ModelFacts(plan=PLAN), sparsity="disable").written


def test_a_broken_plan_is_refused(net):
    with pytest.raises(
        NothingSparseError, match=r"1 of 2 weights break the plan.*first 'w': 3 groups broken"
    ):
        build(net, weights=(HOLDS, BROKEN), facts=ModelFacts(plan=PLAN))


def test_a_planned_weight_that_nobody_reads_is_refused(net):
    with pytest.raises(NothingSparseError, match="names 'w9', which no node reads"):
        build(net, facts=ModelFacts(plan=PLAN, missing=("w9",)))


def test_an_opset_beyond_the_backend_is_refused_with_both_numbers(net):
    class Old:
        name, version, max_opset = "trt", "8.6.0", 17

    with pytest.raises(
        BackendError, match=r"has ONNX opset 18, trt 8\.6\.0 reads up to 17; export it with opset=17"
    ):
        refuse_opset(18, Old(), net)
    refuse_opset(17, Old(), net)
    refuse_opset(99, trt_rtx.load(), net)


def test_the_output_may_not_be_the_model(net):
    before = net.read_bytes()
    with pytest.raises(InputError, match="is the model itself"):
        build(net, net)
    assert net.read_bytes() == before


def test_the_manifest_may_not_be_the_model(tmp_path):
    net = conv_net(tmp_path / "net.rtx.json")
    before = net.read_bytes()
    with pytest.raises(InputError, match="is the model itself"):
        build(net, tmp_path / "net.rtx")
    assert net.read_bytes() == before


def test_a_folder_in_the_manifest_s_place_is_refused_before_the_build(net):
    (net.parent / "net.rtx.json").mkdir()
    with pytest.raises(OutputError, match=r"net\.rtx\.json is a folder"):
        build(net)


def test_a_failed_build_leaves_the_old_pair(net):
    old = build(net)
    with pytest.raises(BackendError):
        build(net, workspace_bytes=64)
    assert sha256_file(old.engine) == old.engine_sha256
    assert read_manifest(old.engine).status == "fits"


@pytest.mark.parametrize("cache", ["net.onnx", "net.rtx", "net.rtx.json"])
def test_a_timing_cache_that_would_be_another_file_of_the_build_is_refused(tmp_path, cache):
    """On the row of TensorRT 10, as TensorRT for RTX takes no timing cache."""
    net, backend = conv_net(tmp_path / "net.onnx"), trt_rtx.load()
    backend._library = dataclasses.replace(backend._library, row=row_of("trt", "10.0"))
    options = BuildOptions(timing_cache=tmp_path / "." / cache)
    with pytest.raises(
        InputError, match="is the model, the engine or its manifest; name another timing cache"
    ):
        check_request(net, None, options, backend)
    assert check_request(net, None, BuildOptions(timing_cache=tmp_path / "t.cache"), backend)
