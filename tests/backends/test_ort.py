"""ONNX Runtime as a backend: what it builds opens again and computes the same."""

import itertools
import os
import re
import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from nm2trt.backends import ort
from nm2trt.backends.choice import identify
from nm2trt.backends.options import BuildOptions
from nm2trt.backends.ort import open_onnx
from nm2trt.backends.protocol import Backend, Session
from nm2trt.errors import BackendError, DataError, InputError, ModelError
from nm2trt.limits import bounds, run_watch
from nm2trt.limits.run_watch import watched
from nm2trt.onnx_bytes.turned_products import crashing_optimisers
from nm2trt.serving import python_model
from tests.engine.nets import conv_net, endless_net
from tests.serving.served_nets import turned_products

onnxruntime = pytest.importorskip("onnxruntime")


def make(nodes, inputs, outputs, stored):
    """Return a model; inputs and outputs are (name, element type, shape)."""
    infos = [[helper.make_tensor_value_info(*one) for one in side] for side in (inputs, outputs)]
    graph = helper.make_graph(nodes, "g", *infos, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture(scope="module")
def backend():
    return ort.load()


@pytest.fixture
def net(tmp_path):
    return conv_net(tmp_path / "net.onnx", dtype="float32")


def test_it_is_a_backend(backend):
    assert isinstance(backend, Backend)


def test_what_it_builds_computes_what_the_model_does(backend, net, tmp_path):
    engine = backend.build(backend.parse(net), BuildOptions())
    path = tmp_path / "net.ort"
    path.write_bytes(engine.data)
    assert identify(path) == "ort"
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 16, 8, 8)).astype(np.float32)}
    with backend.open(path) as built, ort.open_onnx(net, optimize=False) as plain:
        assert isinstance(built, Session)
        assert built.inputs == plain.inputs
        np.testing.assert_allclose(built.run(feeds)["y"], plain.run(feeds)["y"], rtol=1e-5, atol=1e-5)


def test_its_file_needs_no_model_beside_it(backend, net, tmp_path):
    path = tmp_path / "net.ort"
    path.write_bytes(backend.build(backend.parse(net), BuildOptions()).data)
    net.unlink()
    with backend.open(path) as built:
        assert built.outputs[0].name == "y"


def test_an_onnx_model_opens_too(backend, net):
    with backend.open(net) as session:
        assert session.inputs[0].shape == ("n", 16, 8, 8)


@pytest.fixture
def moved_pair(tmp_path):
    """Save a pair of opset 21 with a Transpose after it: ONNX Runtime 1.31.1 refuses what it makes of it."""
    graph = onnx.parser.parse_graph("""
        g (float[2, 3] x) => (float[3, 2] y) <float scale = {0.5}, int8 zero = {0}> {
            q = QuantizeLinear(x, scale, zero)
            d = DequantizeLinear(q, scale, zero)
            y = Transpose<perm = [1, 0]>(d)
        }
    """)
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def test_a_quantised_model_loads_whatever_the_optimiser_makes_of_it(backend, moved_pair, tmp_path):
    x = np.array([[-3, -0.4, 1], [0, 0.6, 7]], np.float32)
    expected = np.round(x * 2).T / 2
    (tmp_path / "m.ort").write_bytes(backend.build(backend.parse(moved_pair), BuildOptions()).data)
    for opened in (open_onnx(moved_pair), backend.open(tmp_path / "m.ort")):
        with opened as session:
            np.testing.assert_array_equal(session.run({"x": x})["y"], expected)
    served = python_model._open(tmp_path, 1, [])
    np.testing.assert_array_equal(served({"x": x})["y"], expected)


def test_a_model_with_a_cast_that_changes_nothing_loads(backend, tmp_path):
    """ONNX Runtime 1.31.1 removes the Cast, and then refuses the Mul that it made a Div of and that reads it."""
    graph = onnx.parser.parse_graph("""
        g (float[2, 3] x) => (float[3, 2] y) <float one = {1}> {
            turned = Transpose<perm = [1, 0]>(x)
            same = Cast<to = 1>(turned)
            shifted = Add(turned, one)
            inverse = Div(one, shifted)
            y = Mul(same, inverse)
        }
    """)
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    with open_onnx(path) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], (x / (x + 1)).T, rtol=1e-6)
    np.testing.assert_allclose(python_model._open(tmp_path, 1, [])({"x": x})["y"], (x / (x + 1)).T, rtol=1e-6)


def test_a_served_model_knows_the_same_optimisers():
    assert python_model.BREAKING == ort.BREAKING  # a served model cannot import them
    assert python_model.ONE_ROUND == ort.ONE_ROUND


def test_transposed_products_end_no_process(tmp_path):
    """ONNX Runtime 1.31.1 ends the process at each with its own settings, before any can be caught."""
    made = {path.stem: path for path in turned_products(tmp_path)}
    code = """
import sys
from pathlib import Path
from nm2trt.backends import ort
from nm2trt.backends.options import BuildOptions
for path in map(Path, sys.argv[1:]):
    ort.open_onnx(path)
    ort.open_onnx(path.read_bytes())
    backend = ort.load()
    path.with_suffix(".ort").write_bytes(backend.build(backend.parse(path), BuildOptions()).data)
    ort.open_onnx(path.with_suffix(".ort"))
    print(path.stem, flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *made.values()], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, list(made)), done.stderr
    x = np.random.default_rng(1).standard_normal((4, 3, 16)).astype(np.float16)
    for path in made.values():
        weight = numpy_helper.to_array(onnx.load(path).graph.initializer[0]).astype(np.float64)
        with open_onnx(path) as session, open_onnx(path.with_suffix(".ort")) as built:
            found = [
                one.run({"x": np.stack([x, x]) if path.stem == "taken" else x})["y"]
                for one in (session, built)
            ]
        expected = x.swapaxes(0, 1).astype(np.float64) @ weight
        for one in found:
            assert np.abs(one - expected).max() < 4e-3 * np.abs(expected).max(), path.stem


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("t = Transpose(x) c = Cast<to = 1>(t) y = MatMul(c, w)", True),
        ("t = Transpose(x) c = Cast<to = 1>(t) i = Identity(c) y = MatMul(w, i)", True),
        ("t = Transpose(x) y = MatMul(t, w)", False),
        ("c = Cast<to = 1>(x) t = Transpose(c) y = MatMul(t, w)", False),
        ("t = Transpose(x) y = MatMul(t, w) c = Cast<to = 1>(t) z = Relu(c)", False),
        ("t = Transpose(x) s = Shape(t) c = Cast<to = 1>(s) y = MatMul(c, w)", False),
    ],
)
def test_float32_models_keep_every_optimiser(nodes, expected):
    graph = onnx.parser.parse_graph("g (float[n, 4] x, float[4, 4] w) => (float[n, 4] y) {" + nodes + "}")
    data = helper.make_model(graph).SerializeToString()
    assert crashing_optimisers(data) == (["MatmulTransposeFusion"] if expected else [])


def test_what_is_no_model_crashes_no_optimiser(tmp_path):
    data = onnx.load(next(iter(turned_products(tmp_path)))).SerializeToString()
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "cut").write_bytes(data[:100])
    for name in ("nowhere", "empty", "cut", "."):
        assert crashing_optimisers(str(tmp_path / name)) == []
    for rubbish in (b"", b"\xff" * 40, bytes(1 << 28), data[:-1]):
        assert crashing_optimisers(rubbish) == []


def test_a_truncated_file_is_refused(backend, net, tmp_path):
    path = tmp_path / "net.ort"
    data = backend.build(backend.parse(net), BuildOptions()).data
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"ONNX Runtime cannot load .*net\.ort"):
        backend.open(path)


def test_a_target_is_refused(backend):
    with pytest.raises(InputError, match="runs on the CPU; leave --target sm80 out"):
        backend.choose_targets(("sm80",))


def test_prepared_feeds_are_checked_once_and_run_again_and_again(tmp_path):
    path = tmp_path / "m.onnx"
    graph = onnx.parser.parse_graph(
        "g (float[n, 2] x, int64[k] at) => (float[m, 2] y) { y = Gather<axis=0>(x, at) }"
    )
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), path
    )
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    with open_onnx(path, threads=1) as session:
        call = session.prepare({"x": x, "at": np.array([2])})
        for _ in range(2):
            np.testing.assert_array_equal(call()[0], x[2:])
        with pytest.raises(DataError, match="takes float32, the data has float64"):
            session.prepare({"x": x.astype(np.float64), "at": np.array([2])})
        with pytest.raises(BackendError, match="ONNX Runtime failed"):
            session.prepare({"x": x, "at": np.array([7])})()


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ("MatMul(x, v)", "one of the MatMul nodes: MatMul dimension mismatch"),
        ("Add(x, v)", "one of the Add nodes: Attempting to broadcast an axis by a dimension other than 1. 2 by 3"),
        ("Concat<axis=0>(x, v)", "one of the Concat nodes: Non concat axis dimensions must match: Axis 1 has mismatched dimensions of 3 and 2"),
        ("Gather(x, at)", "one of the Gather nodes: indices element out of data bounds, idx=9 must be within the inclusive range [-1,0]"),
        ("Reshape(x, at)", "one of the Reshape nodes: The input tensor cannot be reshaped to the requested shape. Input shape:{1,2}, requested shape:{9}"),
    ],
)  # fmt: skip
def test_a_failing_node_is_told_without_places_in_the_library(tmp_path, node, sentence):
    graph = onnx.parser.parse_graph(
        f"g (float[n, m] x, float[k, l] v, int64[j] at) => (float[a, b] y) {{ y = {node} }}"
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    feeds = {"x": np.ones((1, 2), np.float32), "v": np.ones((1, 3), np.float32), "at": np.array([9])}
    with open_onnx(tmp_path / "m.onnx", threads=1) as session, pytest.raises(BackendError) as caught:
        session.run(feeds)
    assert str(caught.value) == f"ONNX Runtime failed: {sentence}"
    model.graph.node[0].name = "the_node"
    onnx.save(model, tmp_path / "m.onnx")
    with open_onnx(tmp_path / "m.onnx", threads=1) as session, pytest.raises(BackendError, match="node 'the_node', operator"):  # fmt: skip
        session.run(feeds)


def test_of_a_failing_body_the_node_inside_is_told(tmp_path):
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 18]>
        g (float[n, m] x, float[k, l] v, bool c) => (float[a, b] y) {
            [outer] y = If (c) <then_branch = t () => (float[a, b] p) { [inner] p = Add(x, v) },
                                else_branch = e () => (float[a, b] q) { q = Identity(x) }>
        }""")
    onnx.save(model, tmp_path / "m.onnx")
    feeds = {"x": np.ones((1, 2), np.float32), "v": np.ones((1, 3), np.float32), "c": np.array(True)}
    with open_onnx(tmp_path / "m.onnx", threads=1) as session, pytest.raises(BackendError) as caught:
        session.run(feeds)
    told = "Attempting to broadcast an axis by a dimension other than 1. 2 by 3"
    assert str(caught.value) == f"ONNX Runtime failed: node 'inner', operator Add: {told}"


def test_a_model_that_does_not_load_is_told_without_the_library_s_code(tmp_path):
    graph = onnx.parser.parse_graph("g (float[n, 2] x) => (float[n, 2] y) { y = Nope(x) }")
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"cannot load \S*m\.onnx: [^\[]*No Op registered for Nope"):
        open_onnx(tmp_path / "m.onnx")


def test_a_loop_of_more_turns_than_time_ends_at_the_bound(tmp_path):
    path = endless_net(tmp_path / "net.onnx")
    bounds.use(run_seconds=0.3)
    try:
        with (
            open_onnx(path) as session,
            pytest.raises(BackendError, match=r"longer than 0\.3 s \(nm2trt --run-time\)"),
        ):
            session.run({"x": np.ones((1, 16), "f4")})
    finally:
        bounds.use()


def test_a_run_ends_if_the_machines_memory_does(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 15 kB\nSwapFree: 4 kB\n")
    told = []
    with watched(lambda: told.append(1)) as watch:
        monkeypatch.setattr("nm2trt.limits.run_watch._MEMORY", tmp_path / "meminfo")
        while not told:
            pass
    assert "less than 2 % of the machine's memory" in watch.reason


def test_a_run_that_fails_is_told_once(tmp_path, capfd):
    """ONNX Runtime's own red line beside the exception would come from each guess of a shape."""
    graph = onnx.parser.parse_graph("""
        g (float[n, 4] x) => (float[a, b] y) { to = Constant<value_ints=[3, 4]>()
          y = Reshape(x, to) }""")
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, tmp_path / "m.onnx")
    with open_onnx(tmp_path / "m.onnx") as session, pytest.raises(BackendError, match="Reshape"):
        session.run({"x": np.zeros((5, 4), np.float32)})
    assert capfd.readouterr().err == ""


def test_an_operator_that_asks_for_more_memory_than_is_free_fails_at_once(monkeypatch, tmp_path):
    # 512 MB free: an Expand to 1 GB.
    (tmp_path / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 524288 kB\nSwapFree: 0 kB\n")
    nodes = [helper.make_node("Expand", ["x", "s"], ["y"])]
    shape = numpy_helper.from_array(np.array([1 << 8, 1 << 20]), "s")
    model = make(nodes, [("x", 1, [1])], [("y", 1, None)], [shape])
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with open_onnx(model.SerializeToString()) as session:
        monkeypatch.setattr("nm2trt.limits.run_watch._MEMORY", tmp_path / "meminfo")
        with pytest.raises(BackendError, match="more memory than the machine has free"):
            session.run({"x": np.ones(1, "f4")})
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_what_the_process_has_is_not_taken_from_what_is_free():
    status = Path("/proc/self/status").read_text()
    data, stack = (int(re.search(rf"{name}:\s*(\d+) kB", status)[1]) << 10 for name in ("VmData", "VmStk"))
    assert abs(run_watch._data_bytes() - data - stack) < 64 << 20 < data


def test_an_array_too_many_is_told_apart_from_labels():
    model = make([helper.make_node("Relu", ["x"], ["y"])], [("x", 1, [1])], [("y", 1, [1])], [])
    with open_onnx(model.SerializeToString()) as session, pytest.raises(DataError, match=r"leave out 'z'$"):
        session.run({"x": np.ones(1, "f4"), "z": np.ones(1, "f4")})


def slow_to_load(values):
    """Return a model of which ONNX Runtime computes constants while it loads."""
    shape = numpy_helper.from_array(np.array([1000, 1000]), "s")
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["a"], value=numpy_helper.from_array(np.ones(1, "f4")))
    ]
    nodes += [helper.make_node("MatMul", [a, "a"], [b]) for a, b in itertools.pairwise(values)]
    nodes.append(helper.make_node("MatMul", ["x", values[-1]], ["y"]))
    return make(nodes, [("x", 1, [1, 1000])], [("y", 1, None)], [shape]).SerializeToString()


@pytest.mark.skipif(
    not hasattr(onnxruntime.SessionOptions, "set_load_cancellation_flag"), reason="ONNX Runtime before 1.22"
)
def test_a_model_that_loads_for_too_long_is_refused():
    bounds.use(run_seconds=0.05)
    try:
        with pytest.raises(ModelError, match=r"cannot load the model: the run took longer than 0\.05 s"):
            open_onnx(slow_to_load("abcdefghijklmnopq"), threads=1)
    finally:
        bounds.use()


def test_where_no_load_can_be_stopped_the_next_calls_are_still_watched(monkeypatch):
    class Earlier(onnxruntime.SessionOptions):
        """Those before ONNX Runtime 1.22."""

        set_load_cancellation_flag = property()

    monkeypatch.setattr(onnxruntime, "SessionOptions", Earlier)
    bounds.use(run_seconds=0.001)
    try:
        with open_onnx(slow_to_load("abcdef"), threads=1):
            assert run_watch._thread.is_alive()
    finally:
        bounds.use()


def test_an_operator_that_cannot_be_stopped_is_given_up_after_a_while(monkeypatch):
    given_up = threading.Event()
    monkeypatch.setattr("nm2trt.limits.run_watch._GRACE_S", 0.2)
    monkeypatch.setattr("nm2trt.limits.run_watch._give_up", lambda reason: (given_up.set(), reason))
    bounds.use(run_seconds=0.1)
    try:
        with watched(lambda: None):
            assert given_up.wait(30)
    finally:
        bounds.use()


def test_nothing_is_said_where_no_identifier_can_be_stored(net):
    words = [sys.executable, "-m", "nm2trt", "infer", str(net), "--batch", "2"]
    environment = {**os.environ, "XDG_CACHE_HOME": os.devnull}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    ran = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, cwd=net.parent)
    assert (ran.returncode, ran.stderr) == (0, "")
