"""`nm2trt infer`: inputs from every kind of file, random ones, and outputs under any name."""

import json

import numpy as np
import onnx
import pytest

from nm2trt.backends.feeds import random_feeds
from nm2trt.backends.protocol import TensorSpec
from nm2trt.cli import main
from nm2trt.errors import DataError
from nm2trt.validation.inference import save_arrays, summarise


def model(path, signature="float[n, 3] x", output="y", result="float[n, 3] y", body=None):
    text = f"g ({signature}) => ({result}) {{ {body or f'{output} = Add(x, x)'} }}"
    graph = onnx.parser.parse_graph(text)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), path
    )
    return str(path)


X = np.arange(15, dtype=np.float32).reshape(5, 3)


def npz(path):
    np.savez(path, x=X, labels=np.zeros(5))


def npy(path):
    np.save(path, X)


def polygraphy(path):
    pytest.importorskip("polygraphy.json").save_json([{"x": X[:2]}, {"x": X[2:]}], str(path))


def recipe(path):
    pytest.importorskip("pydantic")
    np.savez(path.with_suffix(".npz"), x=X)
    path.write_text(f"source: {{kind: npz, path: {path.with_suffix('.npz').name}}}\ncount: 5\n")


@pytest.mark.parametrize(
    ("suffix", "write"),
    [(".npz", npz), (".npy", npy), (".json", polygraphy), (".yaml", recipe)],
    ids=["npz", "npy", "polygraphy", "recipe"],
)
@pytest.mark.parametrize("batch", [[], ["--batch", "2"]], ids=["at-once", "by-two"])
def test_outputs_of_every_kind_of_file(suffix, write, batch, tmp_path, capsys):
    data = tmp_path / f"in{suffix}"
    write(data)
    out = tmp_path / "out.npz"
    assert main(["infer", model(tmp_path / "m.onnx"), "--data", str(data), "-o", str(out), *batch]) == 0
    np.testing.assert_array_equal(np.load(out)["y"], 2 * X)
    assert "5x3" in capsys.readouterr().out


def test_the_first_thing_to_try_needs_a_model_alone(tmp_path, capsys):
    path = model(
        tmp_path / "m.onnx",
        "float[n, 3] x, int64[n] k",
        body="f = Cast<to=1>(k)\n s = Unsqueeze(f, axes)\n y = Add(x, s)",
    )
    proto = onnx.load(path)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axes"))
    onnx.save(proto, path)
    assert main(["infer", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["source"], found["output"]) == ("random, seed 0", str(tmp_path / "m.outputs.npz"))
    first = np.load(tmp_path / "m.outputs.npz")["y"]
    assert (first.shape, found["tensors"][0]["shape"]) == ((1, 3), [1, 3])
    assert main(["infer", path]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "m.outputs.npz")["y"], first)
    assert main(["infer", path, "--seed", "1", "--batch", "4"]) == 0
    assert np.load(tmp_path / "m.outputs.npz")["y"].shape == (4, 3)


def test_conversion_is_said(tmp_path, capsys):
    np.savez(tmp_path / "d.npz", x=X.astype(np.float64))
    assert main(["infer", model(tmp_path / "m.onnx"), "--data", str(tmp_path / "d.npz")]) == 0
    assert "converted: x: float64 -> float32" in capsys.readouterr().out


def test_an_input_without_batch_is_fed_as_it_is(tmp_path):
    path = model(tmp_path / "m.onnx", "float x", result="float y")
    np.savez(tmp_path / "d.npz", x=np.float32(3))
    assert main(["infer", path, "--data", str(tmp_path / "d.npz"), "-o", str(tmp_path / "o.npz")]) == 0
    assert np.load(tmp_path / "o.npz")["y"] == 6


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        pytest.param(["none.onnx"], 2, "none.onnx does not exist", id="no-model"),
        pytest.param(["m.onnx", "--data", "none.npz"], 2, "none.npz does not exist", id="no-data"),
        pytest.param(["m.onnx", "--data", "bad.npz"], 2, "bad.npz is not a sound .npz", id="bad-data"),
        pytest.param(["m.onnx", "--data", "other.npz"], 2, "the model's inputs are ['x'], the data has ['z']", id="names"),
        pytest.param(["m.onnx", "--data", "wide.npy"], 2, "takes samples of shape nx3, the data has (2, 4)", id="shape"),
        pytest.param(["two.onnx", "--data", "wide.npy"], 2, "holds one array, the model's inputs are ['x', 'z']", id="one-array"),
        pytest.param(["words.onnx"], 2, "output 'y' of the model holds values of type object, not numbers", id="texts"),
        pytest.param(["free.onnx"], 2, "give it: --shape x:1x", id="free-size"),
        pytest.param(["m.onnx", "--shape", "x:2"], 2, "input 'x' takes samples of shape nx3, the data has (2,)", id="rank"),
        pytest.param(["m.onnx", "-o", "no/o.npz"], 2, "the folder no does not exist", id="output"),
        pytest.param(["http://127.0.0.1:9/m"], 7, "127.0.0.1:9", id="no-server"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(words, status, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if words[0].startswith("http"):
        pytest.importorskip("tritonclient")
    model("m.onnx")
    model("free.onnx", "float[n, k] x", result="float[n, k] y")
    model("two.onnx", "float[n, 3] x, float[n, 3] z", body="y = Add(x, z)")
    model("words.onnx", result="string[n, 3] y", body="y = Cast<to=8>(x)")
    np.savez("other.npz", z=X)
    np.save("wide.npy", np.ones((2, 4), np.float32))
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04")
    before = sorted(p.name for p in tmp_path.iterdir())
    assert main(["infer", *words]) == status
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert sentence in err
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_outputs_may_have_any_name(tmp_path):
    arrays = {"file": np.ones(2), "a/b": np.zeros(3), "..": np.arange(4)}
    save_arrays(tmp_path / "o.npz", arrays)
    loaded = np.load(tmp_path / "o.npz")
    assert set(loaded.files) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)


def test_what_is_not_finite_is_counted_apart():
    found = summarise("y", np.array([1.0, np.nan, 3.0, np.inf]))
    assert (found.low, found.high, found.mean, found.not_finite) == (1.0, 3.0, 2.0, 2)
    assert summarise("y", np.array([np.nan])).low is None


def test_random_inputs_follow_what_is_declared():
    specs = (
        TensorSpec("x", "float16", ("n", 3, None)),
        TensorSpec("ids", "int64", (2, 5)),
        TensorSpec("b", "bfloat16", (4,)),
    )
    found = random_feeds(specs, batch=2, free=7)
    assert {n: (str(a.dtype), a.shape) for n, a in found.items()} == {
        "x": ("float16", (2, 3, 7)), "ids": ("int64", (2, 5)), "b": ("bfloat16", (4,)),
    }  # fmt: skip
    assert set(np.unique(found["ids"])) == {0, 1}
    again = random_feeds(specs, batch=2, free=None, shapes={"x": (2, 3, 7)})
    np.testing.assert_array_equal(again["x"], found["x"])
    with pytest.raises(DataError, match=r"leaves the size of nx3x\? free"):
        random_feeds(specs, batch=2, free=None)


def test_an_input_may_have_the_name_of_labels(tmp_path):
    path = model(tmp_path / "m.onnx", "float[n, 3] x, float[n, 3] labels", body="y = Sub(x, labels)")
    np.savez(tmp_path / "in.npz", x=X, labels=X / 2)
    assert main(["infer", path, "--data", str(tmp_path / "in.npz"), "-o", str(tmp_path / "o.npz")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "o.npz")["y"], X / 2)


@pytest.mark.parametrize("own", ["m.onnx", "in.npz"])
def test_what_is_read_is_not_replaced(own, tmp_path, capsys):
    path, data = model(tmp_path / "m.onnx"), tmp_path / "in.npz"
    npz(data)
    before = (tmp_path / own).read_bytes()
    assert main(["infer", path, "--data", str(data), "-o", str(tmp_path / own)]) == 2
    assert f"{own} is an input, and would be replaced" in capsys.readouterr().err
    assert (tmp_path / own).read_bytes() == before


def test_a_sequence_is_no_output_to_save(tmp_path, capsys):
    body = "s = SplitToSequence<axis = 1>(x, k)"
    graph = onnx.parser.parse_graph(f"g (float[n, 3] x) => (seq(float[n, k]) s) {{ {body} }}")
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 2]), "k"))
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(made, tmp_path / "m.onnx")
    assert main(["infer", str(tmp_path / "m.onnx")]) == 2
    assert "output 's' of the model holds values of type object" in capsys.readouterr().err


def test_types_that_numpy_lacks_are_saved_as_float32(tmp_path):
    save_arrays(tmp_path / "o.npz", {"y": X.astype(pytest.importorskip("ml_dtypes").bfloat16)})
    with np.load(tmp_path / "o.npz") as saved:
        assert saved["y"].dtype == np.float32
        np.testing.assert_array_equal(saved["y"], X)
