"""Polygraphy's saved inputs and outputs, written by Polygraphy itself, as data and as a reference."""

import json

import numpy as np
import onnx
import pytest

from nm2trt.cli import main
from nm2trt.errors import DataError, InputError
from nm2trt.validation.samples.polygraphy_json import load_inputs, load_outputs
from nm2trt.validation.samples.recorded_session import RecordedSession
from nm2trt.validation.samples.samples import ArraySamples

polygraphy = pytest.importorskip("polygraphy.json")


def model(path, sign):
    graph = onnx.parser.parse_graph(f"g (float[n, 2] x) => (float[n, 2] y) {{ y = {sign}(x, x) }}")
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), path
    )
    return str(path)


@pytest.fixture
def run(tmp_path, capsys):
    """What `polygraphy run --onnxrt --save-inputs --save-outputs` leaves, by its own functions."""
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.comparator import Comparator

    batches = [{"x": np.random.default_rng(i).random((i + 1, 2), np.float32)} for i in range(3)]
    runner = OnnxrtRunner(SessionFromOnnx(model(tmp_path / "reference.onnx", "Add")))
    results = Comparator.run([runner], data_loader=batches)
    polygraphy.save_json(batches, str(tmp_path / "inputs.json"))
    results.save(str(tmp_path / "outputs.json"))
    capsys.readouterr()
    return tmp_path, np.concatenate([b["x"] for b in batches])


def test_iterations_follow_one_another(run):
    folder, x = run
    np.testing.assert_array_equal(load_inputs(folder / "inputs.json")["x"], x)
    np.testing.assert_array_equal(load_outputs(folder / "outputs.json")["y"], 2 * x)


@pytest.mark.parametrize(("sign", "far"), [("Add", 0.0), ("Mul", None)])
def test_saved_outputs_stand_in_for_the_reference(run, sign, far, capsys):
    folder, x = run
    words = ["validate", model(folder / "candidate.onnx", sign), "--against", str(folder / "outputs.json")]
    assert main([*words, "--data", str(folder / "inputs.json"), "--json", "--batch", "4"]) == 0
    report = json.loads(capsys.readouterr().out)
    wanted = np.abs(x * x - 2 * x).max() if far is None else far
    assert report["differences"][0]["max_abs"] == pytest.approx(wanted)
    assert (report["n"], report["benchmark"]) == (6, None)


def test_outputs_of_other_samples_are_refused(run, capsys):
    folder, _ = run
    np.savez(folder / "d.npz", x=np.ones((5, 2), np.float32))
    words = ["validate", str(folder / "reference.onnx"), "--against", str(folder / "outputs.json")]
    assert main([*words, "--data", str(folder / "d.npz")]) == 2
    assert "the recorded output 'y' has shape (6, 2) for 5 samples" in capsys.readouterr().err


def test_a_recording_is_replayed_once():
    session = RecordedSession({"y": np.arange(4)}, ArraySamples({"x": np.ones(4)}))
    assert session.run({"x": np.ones(3)})["y"].tolist() == [0, 1, 2]
    assert session.run({"x": np.ones(1)})["y"].tolist() == [3]
    with pytest.raises(DataError, match="at their end"):
        session.run({"x": np.ones(1)})


NDARRAY = {"polygraphy_class": "ndarray", "array": "AAAA"}


@pytest.mark.parametrize(
    ("content", "load", "error", "match"),
    [
        pytest.param("not json", load_inputs, DataError, "not sound JSON of Polygraphy", id="garbage"),
        pytest.param("[]", load_inputs, DataError, "holds no sample", id="empty"),
        pytest.param("[1, 2]", load_inputs, DataError, "no inputs of Polygraphy", id="numbers"),
        pytest.param(json.dumps([{"x": NDARRAY}]), load_inputs, DataError, "not sound JSON", id="damaged-array"),
        pytest.param(json.dumps([{"x": {"polygraphy_class": "Tensor"}}]), load_inputs, DataError, "holds Tensor, which is not read", id="torch-tensor"),
        pytest.param("[{}]", load_outputs, DataError, "no outputs of Polygraphy", id="inputs-as-outputs"),
        pytest.param(None, load_inputs, InputError, "does not exist", id="missing"),
    ],
)  # fmt: skip
def test_refuses_files(content, load, error, match, tmp_path, capsys):
    if content is not None:
        (tmp_path / "f.json").write_text(content)
    with pytest.raises(error, match=match):
        load(tmp_path / "f.json")
    assert capsys.readouterr().out == ""


def test_iterations_must_be_alike(tmp_path):
    polygraphy.save_json([{"x": np.ones((1, 2))}, {"x": np.ones((1, 3))}], str(tmp_path / "f.json"))
    with pytest.raises(DataError, match="other names or shapes than the first"):
        load_inputs(tmp_path / "f.json")
