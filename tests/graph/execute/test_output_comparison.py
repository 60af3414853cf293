"""Outputs before and after a pass, from runs that go on while the model is changed or verified."""

import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.backends.ort import OrtSession
from nm2trt.errors import BackendError, DifferenceError, ModelError
from nm2trt.graph.execute import model_session
from nm2trt.graph.execute.output_comparison import run_reference, start_reference
from nm2trt.graph.storage.model import Model, load
from nm2trt.limits import bounds


def product(factor, *, operator="Mul", domain=""):
    """Return a model that multiplies its input, with a Relu on the way."""
    node, value = helper.make_node, helper.make_tensor_value_info
    proto = helper.make_model(
        helper.make_graph(
            [node("Relu", ["x"], ["inner"]), node(operator, ["inner", "factor"], ["y"], domain=domain)],
            "product",
            [value("x", TensorProto.FLOAT, [1, 8])],
            [value("y", TensorProto.FLOAT, [1, 8])],
            [numpy_helper.from_array(np.full(8, factor, np.float32), "factor")],
        ),
        opset_imports=[helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])],
    )
    proto.ir_version = 8
    return proto


@pytest.fixture
def beside(monkeypatch):
    """Names of the threads in which sessions were opened."""
    seen = []
    from nm2trt.backends import ort

    opened = ort.open_onnx
    monkeypatch.setattr(
        ort,
        "open_onnx",
        lambda *given, **options: (seen.append(threading.current_thread().name), opened(*given, **options))[
            1
        ],
    )
    return seen


@pytest.fixture
def closed(monkeypatch):
    """Sessions that were closed, and so have no run to do."""
    seen = []
    close = OrtSession.close
    monkeypatch.setattr(OrtSession, "close", lambda session: (close(session), seen.append(session)))
    return seen


@pytest.mark.parametrize("stored", [True, False], ids=["file", "memory"])
def test_a_model_that_changes_meanwhile_is_run_as_it_was(tmp_path, beside, stored):
    onnx.save(product(3.0), tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx") if stored else Model(product(3.0), None, tmp_path)
    pending = start_reference(model, ["inner"])
    model.proto.graph.initializer[0].raw_data = np.full(8, 7.0, np.float32).tobytes()
    reference = pending()
    given = np.maximum(reference.feeds["x"], 0)
    assert np.array_equal(reference.outputs["y"], 3 * given)
    assert np.array_equal(reference.inside["inner"], given)
    assert len(model.proto.graph.output) == 1
    assert set(beside) != {threading.main_thread().name}


@pytest.mark.parametrize(
    ("odd", "why"), [(-np.inf, ""), (np.inf, "NaN or infinity"), (np.nan, "NaN or infinity")]
)
def test_scores_of_masked_classes_leave_the_others_to_compare(odd, why, tmp_path):
    def masked(factor):
        proto = product(factor)
        numbers = np.where(np.arange(8) == 3, odd, 0).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(numbers, "mask"))
        proto.graph.node.append(helper.make_node("Add", ["y", "mask"], ["z"]))
        proto.graph.output[0].name = "z"
        return Model(proto, None, tmp_path)

    reference = run_reference(masked(2.0))
    assert why in reference.sentence
    found = reference.compare(masked(2.0)).differences
    assert [(one.max_abs, one.infinite_in_both) for one in found] == ([] if why else [(0, 1)])
    if not why:
        with pytest.raises(DifferenceError, match="differs by"):
            reference.compare(masked(3.0))


def test_a_value_inside_that_no_session_gives_leaves_the_outputs(tmp_path):
    model = Model(product(3.0), None, tmp_path)
    reference = start_reference(model, ["missing"])()
    assert set(reference.outputs) == {"y"}
    assert reference.inside == {}


def test_a_difference_is_raised_by_whoever_waits(tmp_path):
    reference = run_reference(Model(product(3.0), None, tmp_path))
    waiting = reference.start_compare(Model(product(4.0), None, tmp_path))
    with pytest.raises(DifferenceError, match="output 'y' differs by"):
        waiting()
    same = reference.start_compare(Model(product(3.0), None, tmp_path))()
    assert same.differences[0].max_relative == 0


def test_a_difference_inside_is_raised_too(tmp_path):
    reference = start_reference(Model(product(0.0), None, tmp_path), ["inner"])()
    other = product(0.0)
    other.graph.node[0].op_type = "Neg"
    with pytest.raises(DifferenceError, match="where the graph was changed"):
        reference.start_compare(Model(other, None, tmp_path))()


def test_a_model_that_is_refused_is_told_by_whoever_waits(tmp_path):
    reference = run_reference(Model(product(3.0), None, tmp_path))
    waiting = reference.start_compare(Model(product(3.0, operator="Mine", domain="mine"), None, tmp_path))
    with pytest.raises((ModelError, BackendError), match="ONNX Runtime cannot load the model"):
        waiting()
    told = start_reference(Model(product(3.0, operator="Mine", domain="mine"), None, tmp_path))().sentence
    assert told.startswith("outputs were not compared: ONNX Runtime cannot load the model")


@pytest.mark.parametrize("why", ["bound", "size", "apart"])
def test_no_model_is_run_during_other_work_if_memory_is_bounded_or_it_is_large(
    tmp_path, beside, closed, monkeypatch, why
):
    onnx.save(
        product(3.0),
        tmp_path / "m.onnx",
        save_as_external_data=why == "apart",
        size_threshold=0,
        location="d",
    )
    if why == "bound":
        monkeypatch.setattr(model_session, "bounds", lambda: bounds.Bounds(run_bytes=1 << 33))
    elif why == "size":
        monkeypatch.setattr(model_session, "_BESIDE_BYTES", 10)
    model = load(tmp_path / "m.onnx", leave_weights=True)
    pending = start_reference(model)
    assert (len(beside), len(closed)) == (1, 1)
    waiting = pending().start_compare(model)
    assert len(beside) == 1
    waiting()
    assert (len(beside), len(closed)) == (2, 2)


def test_an_output_of_maps_as_scikit_learn_models_have_is_not_compared(tmp_path):
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"]),
            helper.make_node("ZipMap", ["y"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_value_info("maps", helper.make_sequence_type_proto(kind))],
        [numpy_helper.from_array(np.ones((4, 2), np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "a.onnx")
    found = run_reference(tmp_path / "a.onnx")
    assert found.sentence == "outputs were not compared: 'maps' is of type seq(map(int64,tensor(float)))"
