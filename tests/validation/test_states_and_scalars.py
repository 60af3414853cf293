"""Models whose inputs and outputs do not all have the batch first, in validate, bench and infer."""

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from nm2trt.backends.batch_axes import batch_name, fixed_batch, sample_first
from nm2trt.backends.feeds import random_feeds
from nm2trt.backends.protocol import TensorSpec
from nm2trt.cli import main
from nm2trt.errors import DataError
from nm2trt.validation.samples.feeder import Feeder
from nm2trt.validation.samples.samples import ArraySamples

RNG = np.random.default_rng(0)
X = RNG.standard_normal((5, 16)).astype(np.float32)
STATE = RNG.standard_normal((2, 5, 4)).astype(np.float32)
RATE = np.array(3)
W = RNG.standard_normal((16, 4)).astype(np.float32)


def recurrent(path, *, batch="b", scale=1.0, total=False):
    """y = rate * (x @ W) + state[0] + state[1]; stateN = 2 * state; total = the sum of all y, without a batch."""
    more = (", float t", "t = ReduceSum<keepdims=0>(y)") if total else ("", "")
    graph = parser.parse_graph(f"""
        g (float[{batch}, 16] x, float[2, {batch}, 4] state, int64 rate)
          => (float[{batch}, 4] y, float[2, {batch}, 4] stateN{more[0]}) {{
            h = MatMul(x, W)
            f = Cast<to=1>(rate)
            m = Mul(h, f)
            s = ReduceSum<keepdims=0>(state, axis)
            y = Add(m, s)
            stateN = Add(state, state)
            {more[1]}
        }}""")
    arrays = {"W": W * np.float32(scale), "axis": np.array([0])}
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path
    )
    return str(path)


@pytest.fixture
def data(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, state=STATE, rate=RATE)
    return str(tmp_path / "d.npz")


Y = 3 * (X.astype(np.float64) @ W) + STATE[0] + STATE[1]


@pytest.mark.parametrize(
    ("batch", "size"),
    [("b", []), ("b", ["--batch", "3"]), (1, []), (3, []), (3, ["--batch", "3"])],
    ids=["free", "free, by three", "fixed to one", "fixed to three", "fixed to three, by three"],
)
def test_validate_compares_every_sample_of_a_state_that_has_the_batch_second(
    batch, size, tmp_path, data, capsys
):
    reference = recurrent(tmp_path / "a.onnx", batch=batch)
    candidate = recurrent(tmp_path / "b.onnx", batch=batch, scale=1.5)
    words = ["validate", candidate, "--against", reference, "--data", data, "--runs", "0", "--json", *size]
    assert main(words) == 0
    found = {item["name"]: item for item in json.loads(capsys.readouterr().out)["differences"]}
    wanted = np.abs(1.5 * (X @ W))
    assert found["y"]["max_abs"] == pytest.approx(wanted.max(), rel=1e-4)
    assert found["y"]["mean_abs"] == pytest.approx(wanted.mean(), rel=1e-4)
    assert (found["y"]["elements"], found["stateN"]["elements"]) == (Y.size, STATE.size)
    assert found["stateN"]["max_abs"] == 0


@pytest.mark.parametrize("batch", [[], ["--batch", "2"]], ids=["at once", "by two"])
def test_infer_returns_outputs_in_the_models_own_layout(batch, tmp_path, data):
    path = recurrent(tmp_path / "m.onnx")
    assert main(["infer", path, "--data", data, "-o", str(tmp_path / "o.npz"), *batch]) == 0
    with np.load(tmp_path / "o.npz") as found:
        np.testing.assert_allclose(found["y"], Y, rtol=1e-4)
        np.testing.assert_array_equal(found["stateN"], 2 * STATE)


def test_random_inputs_take_the_batch_where_each_input_has_it(tmp_path):
    path = recurrent(tmp_path / "m.onnx")
    assert main(["infer", path, "--batch", "3", "-o", str(tmp_path / "o.npz")]) == 0
    with np.load(tmp_path / "o.npz") as found:
        assert (found["y"].shape, found["stateN"].shape) == ((3, 4), (2, 3, 4))


@pytest.mark.parametrize("real", [True, False], ids=["real samples", "random"])
def test_bench_times_a_model_with_state(real, tmp_path, data, capsys):
    path = recurrent(tmp_path / "m.onnx")
    given = ["--data", data] if real else []
    assert main(["bench", path, *given, "--batch", "1,4", "--runs", "3", "--warmup", "1", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["batch"].values()) == {1, 4}


def test_an_output_without_batch_is_compared_whole_and_never_joined(tmp_path, data, capsys):
    model, other = (
        recurrent(tmp_path / "a.onnx", total=True),
        recurrent(tmp_path / "b.onnx", total=True, scale=2),
    )
    words = ["validate", other, "--against", model, "--data", data, "--runs", "0", "--json"]
    assert main(words) == 0
    found = {item["name"]: item for item in json.loads(capsys.readouterr().out)["differences"]}
    assert found["t"]["max_abs"] == pytest.approx(abs(3 * (X.astype(np.float64) @ W).sum()), rel=1e-4)
    assert main(["infer", model, "--data", data, "-o", str(tmp_path / "o.npz"), "--batch", "2"]) == 2
    assert "output 't' of the model has no batch dimension" in capsys.readouterr().err
    assert not (tmp_path / "o.npz").exists()


def test_no_metric_reads_an_output_without_batch(tmp_path, capsys):
    graph = "g (float[n, 3] x) => (float[2, 3] y) { y = MatMul(p, x) }"
    proto = parser.parse_graph(graph)
    proto.initializer.append(numpy_helper.from_array(np.ones((2, 5), np.float32), "p"))
    path = tmp_path / "m.onnx"
    onnx.save(
        onnx.helper.make_model(proto, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path
    )
    np.savez(tmp_path / "d.npz", x=np.ones((5, 3), np.float32), labels=np.zeros(5, np.int64))
    words = ["validate", str(path), "--against", str(path), "--data", str(tmp_path / "d.npz"), "--runs", "0"]
    assert main(words) == 2
    assert "output 'y' has no batch dimension, so no metric can read it" in capsys.readouterr().err


def test_outputs_whose_size_the_data_gives_are_compared(tmp_path, capsys):
    graph = parser.parse_graph("g (float[2, 8] x) => (int64[2, k] y) { g1 = Greater(x, t)  y = NonZero(g1) }")
    graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "t"))
    path = tmp_path / "m.onnx"
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path
    )
    x = RNG.standard_normal((4, 8)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x)
    words = ["validate", str(path), "--against", str(path), "--data", str(tmp_path / "d.npz"), "--runs", "0"]
    assert main([*words, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["differences"]
    assert found["elements"] == 2 * np.count_nonzero(x > 0.5)


def spec(name, *shape):
    return TensorSpec(name, "float32", shape)


@pytest.mark.parametrize(
    ("inputs", "name"),
    [
        pytest.param([spec("x", "b", 3), spec("s", 2, "b", 4)], "b", id="shared"),
        pytest.param([spec("x", "n", 3, "h", "w")], "n", id="first"),
        pytest.param([spec("x", None, 3, "h", "w")], None, id="unnamed before named"),
        pytest.param([spec("x", None, 3)], None, id="unnamed"),
        pytest.param([spec("s", 2, "b", 4)], "b", id="only second"),
        pytest.param([spec("s", "t", "batch", 4)], "batch", id="after time"),
        pytest.param([spec("ids", 1, "seq"), spec("mask", 1, "seq")], None, id="fixed, free sequence"),
        pytest.param([spec("x", 1, 3, "h", "w")], None, id="fixed, free picture"),
    ],
)
def test_the_name_of_the_batch(inputs, name):
    assert batch_name(inputs) == name


def test_an_unnamed_first_dimension_is_the_batch_of_random_inputs():
    inputs = (spec("x", None, 3, "h", "w"),)
    assert random_feeds(inputs, batch=5, free=7)["x"].shape == (5, 3, 7, 7)


def test_samples_go_on_a_free_axis_rather_than_on_a_fixed_one_that_fits():
    # Without a name, a row of (2, 4) fits (2, ?, 4) on its first axis too, which would fix the batch to 2.
    inputs = (spec("x", None, 3), spec("state", 2, None, 4))
    arrays = {"x": np.zeros((5, 3), np.float32), "state": STATE}
    first = sample_first(inputs, arrays)
    assert first["state"].shape == (5, 2, 4)
    assert fixed_batch(inputs, {name: array.shape[1:] for name, array in first.items()}) is None


@pytest.mark.parametrize(
    ("declared", "given"),
    [
        pytest.param(["", 16], (8, 15), id="one column too few"),
        pytest.param(["", 1, 4, 4], (8, 3, 4, 4), id="colour for grey"),
        pytest.param(["", 4, 4], (8, 4), id="a rank too few"),
    ],
)
@pytest.mark.parametrize("words", [["infer"], ["validate", "--runs", "0", "--against"]], ids=lambda w: w[0])
def test_another_axis_is_no_batch_if_an_unnamed_first_one_is(words, declared, given, tmp_path, capsys):
    """Served models and engines do not name their free sizes; filled up, wrong samples would give an answer."""
    sizes = ", ".join(str(size) if size else "?" for size in declared)
    graph = parser.parse_graph(f"g (float[{sizes}] x) => (float[{sizes}] y) {{ y = Relu(x) }}")
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=np.ones(given, np.float32))
    own = str(tmp_path / "m.onnx")
    more = [own] if len(words) > 1 else []
    assert main([words[0], own, *words[1:], *more, "--data", str(tmp_path / "d.npz")]) == 2
    wanted = "x".join(map(str, ["n", *declared[1:]]))
    assert f"input 'x' takes samples of shape {wanted}, the data has {given}" in capsys.readouterr().err


class States:
    """stateN is declared without names, and h does not depend on the samples."""

    inputs = (spec("x", "n", 3), spec("state", 2, "n", 4))
    outputs = (spec("stateN", "a", "b", "c"), spec("h", 1, 1, 4))

    def run(self, feeds):
        return {"stateN": feeds["state"] + 1, "h": np.zeros((1, 1, 4), np.float32)}


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_a_state_comes_out_as_it_goes_in(count):
    data = ArraySamples({"x": X[:, :3].copy(), "state": np.moveaxis(STATE, 1, 0)})
    feeder = Feeder(States(), data, what="model")
    outputs = feeder.run(next(data.batches(count)).inputs)
    np.testing.assert_array_equal(outputs["stateN"], np.moveaxis(STATE, 1, 0)[:count] + 1)
    np.testing.assert_array_equal(feeder.as_model("stateN", outputs["stateN"]), STATE[:, :count] + 1)
    assert outputs["h"].shape == (1, 1, 4)


def test_lengths_that_differ_on_the_batch_axis_are_named(tmp_path, capsys):
    path = recurrent(tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=X, state=STATE[:, :3], rate=RATE)
    words = ["validate", path, "--against", path, "--data", str(tmp_path / "d.npz"), "--runs", "0"]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "do not hold the same number of samples on the model's batch axis" in err


@pytest.mark.parametrize(
    "words", [["validate", "--runs", "0"], ["prune"], ["quantize"], ["bench"]], ids=lambda w: w[0]
)
def test_an_input_that_the_samples_lack_is_named(words, tmp_path, capsys):
    path = recurrent(tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=X, rate=RATE)
    data, out = str(tmp_path / "d.npz"), str(tmp_path / "o.onnx")
    more = {"validate": ["--against", path, "--data", data], "bench": ["--data", data]}
    assert main([words[0], path, *words[1:], *more.get(words[0], ["--calib", data, "-o", out])]) == 2
    err = capsys.readouterr().err
    assert "'state'" in err
    assert "first dimension" not in err
    assert err.count("d.npz") == 1


@pytest.mark.parametrize("batch", ["b", 2])
def test_weights_are_rebuilt_from_samples_with_state(batch, tmp_path, capsys):
    """The state's batch is second: its fixed first size, 2, is not a batch of 2."""
    path, out = recurrent(tmp_path / "m.onnx", batch=batch), str(tmp_path / "o.onnx")
    rng = np.random.default_rng(1)
    np.savez(
        tmp_path / "d.npz", x=rng.standard_normal((33, 16)).astype(np.float32),
        state=rng.standard_normal((2, 33, 4)).astype(np.float32), rate=RATE,
    )  # fmt: skip
    assert main(["prune", path, "--calib", str(tmp_path / "d.npz"), "-o", out, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == (33 if batch == "b" else 32)
    kept = numpy_helper.to_array(next(t for t in onnx.load(out).graph.initializer if t.name == "W"))
    assert (np.count_nonzero(kept.reshape(4, 4, 4), axis=1) <= 2).all()


def test_one_value_for_all_samples_may_not_differ_between_them():
    inputs = (spec("x", "n", 3), spec("k", 2))
    data = ArraySamples({"x": X[:, :3].copy(), "k": np.arange(10, dtype=np.float32).reshape(5, 2)})
    session = States()
    session.inputs, session.outputs = inputs, ()
    feeder = Feeder(session, data, what="model")
    with pytest.raises(DataError, match="input 'k' is one for the whole batch"):
        feeder.run(next(data.batches(5)).inputs)
