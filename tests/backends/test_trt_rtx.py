"""TensorRT for RTX, the real library: parsing, building ahead of time, stopping, and reading headers."""

import contextlib
import dataclasses
import os
import signal
import threading
import time
import types

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from nm2trt.backends import _trt_session, _trt_shared, trt_rtx
from nm2trt.backends._trt_versions import row_of
from nm2trt.backends.options import BuildOptions, ShapeRange
from nm2trt.backends.protocol import Backend
from nm2trt.errors import BackendError, BackendMissingError, InputError, Interrupted, ModelError
from tests.engine.nets import conv_net, elementwise_net, save, two_of_four

pytest.importorskip("tensorrt_rtx")

BATCHES = ((ShapeRange("x", (1, 16, 8, 8), (8, 16, 8, 8), (32, 16, 8, 8)),),)


@pytest.fixture(scope="module")
def backend():
    return trt_rtx.load()


@pytest.fixture
def net(tmp_path):
    return conv_net(tmp_path / "net.onnx")


def options(**fields):
    return BuildOptions(**{"targets": ("sm80",), "profiles": BATCHES, **fields})


def test_it_is_a_backend(backend):
    assert isinstance(backend, Backend)


def test_inputs_and_outputs_come_from_the_parser(backend, net):
    network = backend.parse(net)
    assert [(i.name, i.dtype, i.shape) for i in network.inputs] == [("x", "float16", ("n", 16, 8, 8))]
    assert [o.name for o in network.outputs] == ["y"]


@pytest.mark.parametrize("sparsity", ["disable", "enable"])
def test_a_plan_is_built_for_the_targets_asked_for(backend, net, tmp_path, sparsity):
    engine = backend.build(backend.parse(net), options(sparsity=sparsity, targets=("sm86", "sm89")))
    path = tmp_path / "net.rtx"
    path.write_bytes(engine.data)
    header = trt_rtx.read_header(path)
    assert header.targets == ("sm86", "sm89")
    assert header.file_bytes == path.stat().st_size == engine.data.nbytes
    assert header.version == backend.version
    assert header.weights_bytes >= 2 * 16 * 16 * 9 * 2


def test_each_target_sets_its_own_bit(backend, net, tmp_path):
    network, path = backend.parse(net), tmp_path / "net.rtx"
    for target in backend.targets:
        path.write_bytes(backend.build(network, options(targets=(target,))).data)
        assert trt_rtx.read_header(path).targets == (target,)


def test_static_shapes_leave_nothing_dynamic(backend, net):
    network = backend.fix(backend.parse(net), {"x": (4, 16, 8, 8)})
    assert network.inputs[0].shape == network.outputs[0].shape == (4, 16, 8, 8)
    log = "\n".join(backend.build(network, options(profiles=())).log)
    assert "Name: y, IOMode: Output, DataType: Half, Dimensions: [4,16,8,8]" in log


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"tf32": False}, id="no-tf32"),
        pytest.param({"strict_nans": True}, id="strict-nans"),
        pytest.param({"effort": 0}, id="effort"),
        pytest.param({"library_tactics": False}, id="no-library-tactics"),
    ],
)
def test_what_the_library_has_is_set(backend, net, fields):
    backend.check(options(**fields))
    assert backend.build(backend.parse(net), options(**fields)).data.nbytes > 0


def test_flags_and_effort_reach_the_builder(backend, net):
    """Read back from the configuration that the builder is given."""
    trt, seen = backend._module, {}

    def read(module, config, asked):
        seen["tf32"] = config.get_flag(trt.BuilderFlag.TF32)
        seen["sparse"] = config.get_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
        seen["nans"] = config.get_flag(trt.BuilderFlag.STRICT_NANS)
        seen["effort"] = config.builder_optimization_level
        trt_rtx._set_targets(module, config, asked)

    library = dataclasses.replace(backend._library, configure=read)
    _trt_shared.build(library, backend.parse(net), options())
    assert (seen["tf32"], seen["sparse"], seen["nans"]) == (True, False, False)
    asked = options(tf32=False, sparsity="enable", strict_nans=True, effort=1)
    _trt_shared.build(library, backend.parse(net), asked)
    assert seen == {"tf32": False, "sparse": True, "nans": True, "effort": 1}


def test_a_timing_cache_is_refused_before_the_build(backend, tmp_path):
    with pytest.raises(BackendError, match="has no timing cache: kernels are chosen on the GPU"):
        backend.check(options(timing_cache=tmp_path / "t.cache"))


@pytest.mark.parametrize(
    ("dtype", "flags"),
    [("float16", ("FP16",)), ("float32", ()), ("int8", ("INT8",))],
    ids=["fp16", "fp32", "int8-qdq"],
)
def test_a_weakly_typed_builder_gets_the_flags_of_the_graph_s_own_types(backend, tmp_path, dtype, flags):
    """The row of TensorRT 8.6, asked about real networks that TensorRT for RTX has parsed."""
    path = tmp_path / "net.onnx"
    library = dataclasses.replace(backend._library, row=row_of("trt", "8.6.0"))
    if dtype == "int8":
        quantized_product(path)
    else:
        conv_net(path, dtype=dtype)
    # EXPLICIT_BATCH is 8.6's own; the network here is made by the real library's row.
    parsed = backend.parse(path)
    assert _trt_shared.needed_flags(library, parsed) == flags
    assert _trt_shared.needed_flags(backend._library, parsed) == ()


def quantized_product(path, element=onnx.TensorProto.INT8):
    """x -> Q -> DQ -> MatMul with DQ of a quantised weight."""
    weight = helper.make_tensor("w", element, (64, 64), bytes(64 * 64), raw=True)
    scale = numpy_helper.from_array(np.float32(0.1), "s")
    zero = helper.make_tensor("z", element, (), bytes(1), raw=True)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["e"]),
        helper.make_node("MatMul", ["d", "e"], ["y"], name="product"),
    ]
    value = {"x": ("float32", (32, 64))}, {"y": ("float32", (32, 64))}
    save(path, nodes, *value, [weight, scale, zero], None)
    model = onnx.load(path)
    model.opset_import[0].version = 19
    onnx.save(model, path)


def test_fp8_is_refused_where_the_target_has_none(backend, tmp_path):
    quantized_product(tmp_path / "net.onnx", onnx.TensorProto.FLOAT8E4M3FN)
    network = backend.parse(tmp_path / "net.onnx")
    with pytest.raises(
        BackendError, match=r"FP8 tensors, which sm80, sm86 cannot compute; choose --target sm89"
    ):
        backend.check(options(targets=("sm80", "sm86", "sm89")), network)
    backend.check(options(targets=("sm89", "sm120")), network)


def test_fp32_products_are_refused_on_turing(backend, tmp_path):
    save_external(tmp_path)
    network = backend.parse(tmp_path / "net.onnx")
    with pytest.raises(
        BackendError, match=r"fp32 matrix products, which .* does not do on sm75; leave sm75 out"
    ):
        backend.check(options(targets=("sm75", "sm80")), network)
    backend.check(options(targets=("sm80",)), network)


def test_a_plugin_that_is_none_is_refused(backend, net, tmp_path):
    with pytest.raises(InputError, match=r"gone\.so does not exist; give the path of a plugin library"):
        backend.parse(net, [tmp_path / "gone.so"])
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(BackendError, match=r"cannot load the plugin .*text\.so"):
        backend.parse(net, [tmp_path / "text.so"])


def test_the_whole_log_is_kept(backend, net):
    log = backend.build(backend.parse(net), options(sparsity="enable")).log
    assert any("conv1" in line and line.startswith("verbose: ") for line in log)
    assert any("Engine generation completed" in line for line in log)


def test_two_profiles_are_two_profiles(backend, net):
    one = ShapeRange("x", (1, 16, 8, 8), (1, 16, 8, 8), (1, 16, 8, 8))
    log = "\n".join(backend.build(backend.parse(net), options(profiles=(*BATCHES, (one,)))).log)
    assert "profile number 1 [2/2]" in log


def test_an_attention_of_opset_23_without_a_fused_kernel_is_built(backend, tmp_path):
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], "attention", is_causal=1)
    sized = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 4, 8, 8]) for name in "qkvy"]
    graph = helper.make_graph([node], "g", sized[:3], sized[3:])
    opset = [helper.make_opsetid("", 23)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "a.onnx")
    network = backend.parse(tmp_path / "a.onnx")
    assert backend.build(network, options(profiles=())).data.nbytes > 0


def test_external_data_is_found_beside_the_model(backend, tmp_path):
    save_external(tmp_path)
    assert backend.parse(tmp_path / "net.onnx").inputs[0].name == "x"


def test_external_data_is_found_beside_the_real_file_of_a_link(backend, tmp_path):
    (tmp_path / "cache").mkdir()
    save_external(tmp_path / "cache")
    (tmp_path / "link.onnx").symlink_to(tmp_path / "cache" / "net.onnx")
    assert backend.parse(tmp_path / "link.onnx").outputs[0].name == "y"


def test_missing_external_data_is_one_sentence(backend, tmp_path):
    save_external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises((ModelError, BackendError), match=r"net\.onnx: .*weights\.bin"):
        backend.parse(tmp_path / "net.onnx")


def save_external(folder):
    weight = numpy_helper.from_array(two_of_four((64, 64), axis=0).astype(np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    shapes = {"x": ("float32", ("n", 64))}, {"y": ("float32", ("n", 64))}
    save(folder / "net.onnx", [node], *shapes, [weight], None, external=True)
    assert (folder / "weights.bin").stat().st_size == 64 * 64 * 4


@pytest.mark.parametrize(
    ("operator", "domain"),
    [pytest.param("Det", "", id="not-implemented"), pytest.param("Wavelet", "custom", id="unknown-domain")],
)
def test_a_refused_operator_is_named_with_its_node(backend, tmp_path, operator, domain):
    path = elementwise_net(tmp_path / "odd.onnx", {"x": (4, 4)}, operator, domain=domain)
    message = rf"refuses node 'odd_one', operator {operator}, of .*odd\.onnx: it has no implementation"
    with pytest.raises(BackendError, match=message):
        backend.parse(path)


def test_a_node_without_a_name_is_named_by_its_number(backend, tmp_path):
    path = elementwise_net(tmp_path / "odd.onnx", {"x": (4, 4)}, "Det")
    model = onnx.load(path)
    model.graph.node[0].name = ""
    onnx.save(model, path)
    with pytest.raises(BackendError, match=r"refuses node number 0, operator Det"):
        backend.parse(path)


def test_a_dangling_input_is_named(backend, net):
    model = onnx.load(net)
    model.graph.node[3].input[0] = "nowhere"
    onnx.save(model, net)
    with pytest.raises(BackendError, match=r"node 'relu1', operator Relu.*Node input was not registered"):
        backend.parse(net)


@pytest.mark.parametrize("content", [b"no protobuf at all " * 9, "half"], ids=["garbage", "truncated"])
def test_a_file_that_is_no_onnx_is_refused(backend, net, content):
    data = net.read_bytes()
    net.write_bytes(data[: len(data) // 2] if content == "half" else content)
    with pytest.raises(ModelError, match=r"net\.onnx is not a readable ONNX file"):
        backend.parse(net)


def test_too_little_workspace_says_so(backend, net):
    with pytest.raises(
        BackendError, match=r"could not build .*net\.onnx: .*64 bytes of workspace are too few"
    ):
        backend.build(backend.parse(net), options(workspace_bytes=64))


def test_a_failed_build_gives_the_library_s_reason(backend, net):
    with pytest.raises(BackendError, match="no optimization profile has been defined"):
        backend.build(backend.parse(net), options(profiles=()))
    with pytest.raises(BackendError, match="no optimization profile") as failed:
        backend.build(backend.parse(net), options(profiles=(), workspace_bytes=1 << 30))
    assert "too few" not in str(failed.value)


def test_unknown_targets_are_refused_with_the_known_ones(backend):
    with pytest.raises(
        InputError, match=r"cannot build for sm90; it builds for sm75, sm80, sm86, sm89, sm120"
    ):
        backend.choose_targets(("sm80", "sm90"))


def test_ampere_is_the_default(backend):
    assert backend.choose_targets(()) == ("sm80", "sm86")


def test_ctrl_c_stops_the_builder_through_its_monitor(backend, net, monkeypatch):
    """A real SIGINT while the real builder works, sent by the bar's first step, which then waits."""
    steps = []

    class Bar:
        def update(self, done, total=None, description=None):
            steps.append(done)
            if len(steps) == 1:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.5)

    network = backend.parse(net)
    monkeypatch.setattr(_trt_shared, "bar", lambda *_: contextlib.nullcontext(Bar()))
    with pytest.raises(
        Interrupted, match=r"stopped while an engine was built from .*net\.onnx; nothing was written"
    ):
        backend.build(network, options())
    assert steps[0] < 0.5
    assert max(steps) < 0.5, "the builder went on after its monitor had said no"
    assert not [thread for thread in threading.enumerate() if thread.name == "nm2trt-builder"]


def test_progress_only_grows_and_ends_full(backend, net, monkeypatch):
    seen = []

    class Bar:
        def update(self, done, total=None, description=None):
            seen.append((done, total))

    network = backend.parse(net)
    monkeypatch.setattr(_trt_shared, "bar", lambda *_: contextlib.nullcontext(Bar()))
    backend.build(network, options())
    shares = [done for done, _ in seen]
    assert len(set(shares)) > 20
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert {total for _, total in seen} == {1.0}


def test_builds_in_two_threads_keep_their_logs_apart(backend, tmp_path):
    nets = [conv_net(tmp_path / f"{name}.onnx", layers=count) for name, count in (("two", 2), ("five", 5))]
    logs = {}

    def work(path):
        logs[path.stem] = "\n".join(backend.build(backend.parse(path), options()).log)

    threads = [threading.Thread(target=work, args=(path,)) for path in nets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "conv4" in logs["five"]
    assert "conv4" not in logs["two"]


def test_a_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    with pytest.raises(BackendMissingError, match=r"TensorRT for RTX .*: pip install .*\[rtx\]'"):
        trt_rtx.load()


@pytest.fixture(scope="module")
def plan(backend, tmp_path_factory):
    path = conv_net(tmp_path_factory.mktemp("plan") / "net.onnx")
    return bytes(backend.build(backend.parse(path), options()).data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda plan: plan[:-1], r"damaged: it has \d+ bytes, its header says \d+", id="one-byte-short"
        ),
        pytest.param(lambda plan: plan + b"x", "damaged", id="one-byte-more"),
        pytest.param(
            lambda plan: plan[:40], "cut short: 40 bytes are less than a plan's header", id="header-cut"
        ),
        pytest.param(lambda plan: b"x" + plan, "is not a plan of TensorRT for RTX", id="magic"),
        pytest.param(lambda _: b"", "is not a plan of TensorRT for RTX", id="empty"),
    ],
)
def test_a_damaged_plan_is_recognised(plan, tmp_path, change, message):
    path = tmp_path / "net.rtx"
    path.write_bytes(change(plan))
    with pytest.raises(InputError, match=message):
        trt_rtx.read_header(path)


def test_only_the_version_is_read_of_a_plan_of_another_version(plan, tmp_path):
    path = tmp_path / "net.rtx"
    path.write_bytes(plan[:24] + bytes([2, 0, 1, 9]) + plan[28:100])
    header = trt_rtx.read_header(path)
    assert header == trt_rtx.PlanHeader("2.0.1.9", None, None, None)


def test_an_engine_is_not_opened_without_a_gpu(backend, net, tmp_path, monkeypatch):
    monkeypatch.setattr(_trt_session, "require_gpu", no_gpu)
    path = tmp_path / "net.rtx"
    path.write_bytes(backend.build(backend.parse(net), options()).data)
    with pytest.raises(
        BackendMissingError, match=r"running net\.rtx, an engine of TensorRT for RTX 1.*takes a GPU"
    ):
        backend.open(path)


def no_gpu(what):
    raise BackendMissingError(f"{what} takes a GPU")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda data: data[:-100], "is damaged: it has", id="truncated"),
        pytest.param(lambda data: b"GIF8" + data[4:], "is not a plan of TensorRT for RTX", id="other-file"),
    ],
)
def test_a_damaged_engine_is_told_before_the_gpu_is_asked_for(backend, net, tmp_path, damage, message):
    path = tmp_path / "net.rtx"
    path.write_bytes(damage(bytes(backend.build(backend.parse(net), options()).data)))
    with pytest.raises(InputError, match=message):
        backend.open(path)


@pytest.mark.parametrize("version", ["8.6.0", "10.0.1"])
def test_a_library_without_strict_nans_refuses_them(backend, version):
    """8.6 has no such flag in its row, and the first releases of 10 none in their module."""
    flags = types.SimpleNamespace(SPARSE_WEIGHTS=0, TF32=1)
    module = types.SimpleNamespace(BuilderFlag=flags)
    library = dataclasses.replace(backend._library, module=module, row=row_of("trt", version))
    with pytest.raises(BackendError, match="has no strict NaNs, later releases of TensorRT have"):
        _trt_shared.check(library, options(strict_nans=True))
