"""The first inner tensor that differs: planted faults in real graphs, renamed and rewritten ones."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from nm2trt.errors import DifferenceError, ModelError
from nm2trt.graph.execute.bisect import bisect_models

RNG = np.random.default_rng(0)
WEIGHTS = {name: RNG.standard_normal((6, 6)).astype(np.float32) for name in ("w1", "w2", "w3")}
TEXT = """
    <ir_version: 8, opset_import: ["" : 18]>
    g (float[n, 6] x) => (float[n, 6] y)
    {
        a = MatMul(x, w1)
        b = Relu(a)
        c = MatMul(b, w2)
        d = Relu(c)
        e = MatMul(d, w3)
        f = Softmax(e)
        y = Add(f, x)
    }
"""
FEEDS = {"x": RNG.standard_normal((3, 6)).astype(np.float32)}


def saved(path, text=TEXT, *, dtype=np.float32, external=False, **changed):
    model = onnx.parser.parse_model(text)
    for name, weight in {**WEIGHTS, **changed}.items():
        model.graph.initializer.append(numpy_helper.from_array(weight.astype(dtype), name))
    if dtype is np.float16:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save_model(
        model, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0
    )
    return path


def bisected(candidate, reference, feeds=FEEDS, other=None, **options):
    return bisect_models(candidate, reference, feeds, other or feeds, **options)


@pytest.mark.parametrize(("weight", "tensor"), [("w1", "a"), ("w2", "c"), ("w3", "e")])
@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_names_the_node_of_the_changed_weight(weight, tensor, external, tmp_path):
    reference = saved(tmp_path / "r.onnx", external=external)
    candidate = saved(tmp_path / "c.onnx", external=external, **{weight: WEIGHTS[weight] * 1.01})
    found = bisected(candidate, reference)
    assert (found.first.tensor, found.first.operator, found.first.matched_by) == (tensor, "MatMul", "name")
    assert found.first.value == pytest.approx(0.01, rel=1e-3)
    assert found.first.metric == "max relative difference"
    assert f"first to differ: tensor '{tensor}', made by MatMul '{tensor}': max relative" in found.sentence
    assert (found.compared, found.by_position) == ("abcdefy".index(tensor) + 1, 0)
    assert sorted(p.name for p in tmp_path.iterdir() if "probe" in p.name or "tmp" in p.name) == []


def test_equal_models_agree_throughout(tmp_path):
    found = bisected(saved(tmp_path / "c.onnx"), saved(tmp_path / "r.onnx"))
    assert (found.first, found.compared, found.unmatched) == (None, 7, 0)
    assert "all 7 inner tensors agree" in found.sentence
    assert found.to_json()["first"] is None


def test_renamed_tensors_are_matched_by_operator_and_position(tmp_path):
    head, body = TEXT.split("{\n")
    for name in "abcdef":
        body = body.replace(f" {name} = ", f" t_{name} = ").replace(f"({name}", f"(t_{name}")
    renamed = head + "{" + body
    reference = saved(tmp_path / "r.onnx")
    found = bisected(saved(tmp_path / "c.onnx", renamed, w2=WEIGHTS["w2"] * 1.1), reference)
    assert (found.first.tensor, found.first.reference_tensor) == ("t_c", "c")
    assert (found.first.matched_by, found.by_position) == ("position", 3)
    assert "(matched by position with 'c')" in found.sentence


def test_an_extra_node_has_no_counterpart_and_is_passed_over(tmp_path):
    extra = TEXT.replace("b = Relu(a)", "i = Identity(a)\n b = Relu(i)")
    found = bisected(saved(tmp_path / "c.onnx", extra, w3=WEIGHTS["w3"] * 2), saved(tmp_path / "r.onnx"))
    assert (found.first.tensor, found.unmatched, found.compared) == ("e", 1, 5)


def test_tensors_of_text_are_passed_over_and_counted_apart(tmp_path):
    texts = TEXT.replace("b = Relu(a)", "s = Cast<to=8>(a)\n u = Cast<to=1>(s)\n b = Relu(a)")
    reference = saved(tmp_path / "r.onnx", texts)
    found = bisected(saved(tmp_path / "c.onnx", texts, w3=WEIGHTS["w3"] * 2), reference)
    # s holds texts; it has its counterpart and is not compared: a, u, b, c, d and e are.
    assert (found.first.tensor, found.compared, found.unmatched) == ("e", 6, 0)
    assert "5 tensors before it agree" in found.sentence


def test_the_first_tensor_of_all_differs(tmp_path):
    found = bisected(saved(tmp_path / "c.onnx", w1=WEIGHTS["w1"] * 2), saved(tmp_path / "r.onnx"))
    assert found.sentence.endswith("0 tensors before it agree within 0.0001 of their largest value")


def test_an_error_keeps_what_it_carries(tmp_path, monkeypatch):
    from nm2trt.errors import BackendError
    from nm2trt.graph.execute import bisect

    class Picky(BackendError):
        def __init__(self, code, text):
            super().__init__(text)
            self.code, self.partial = code, "half"

    def fail(*_):
        raise Picky(7, "out of memory")

    monkeypatch.setattr(bisect, "run_graph", fail)
    with pytest.raises(
        Picky, match=r"c\.onnx, run with its inner tensors as outputs: out of memory"
    ) as caught:
        bisected(saved(tmp_path / "c.onnx"), saved(tmp_path / "r.onnx"))
    assert (caught.value.code, caught.value.partial) == (7, "half")


def test_half_precision_is_held_to_its_own_tolerance(tmp_path):
    half = {"x": FEEDS["x"].astype(np.float16)}
    reference = saved(tmp_path / "r.onnx")
    assert bisected(saved(tmp_path / "c.onnx", dtype=np.float16), reference, half, FEEDS).first is None
    tight = bisected(tmp_path / "c.onnx", reference, half, FEEDS, tolerance=1e-6)
    assert tight.first.tensor == "a"


def test_integers_differ_by_the_share_of_unequal_values(tmp_path):
    text = TEXT.replace("y = Add(f, x)", "k = Greater(e, d)\n y = Add(f, x)")
    reference = saved(tmp_path / "r.onnx", text)
    candidate = saved(tmp_path / "c.onnx", text.replace("Greater(e, d)", "Less(e, d)"))
    found = bisected(candidate, reference)
    assert (found.first.tensor, found.first.operator) == ("k", "Less")
    assert (found.first.metric, found.first.value > 0.9) == ("share of unequal values", True)


def test_shapes_and_nan_differ_too(tmp_path):
    reference = saved(tmp_path / "r.onnx")
    wide = TEXT.replace("b = Relu(a)", "b = Concat<axis=0>(a, a)").replace("float[n, 6] y", "float[m, 6] y")
    wide = wide.replace("y = Add(f, x)", "y = Identity(f)")
    assert bisected(saved(tmp_path / "c.onnx", wide), reference).first.metric == "shape"
    nan = TEXT.replace("b = Relu(a)", "b = Sqrt(a)")
    found = bisected(saved(tmp_path / "n.onnx", nan), reference).first
    assert (found.tensor, found.metric, found.value) == ("b", "NaN or infinity", None)


def test_more_tensors_than_are_fetched_at_once(tmp_path):
    lines = "\n".join(f"v{i} = Add({'x' if i == 0 else f'v{i - 1}'}, x)" for i in range(100))
    text = TEXT.split("{\n")[0] + "{" + lines + "\n y = Add(v99, x) }"
    changed = text.replace("v77 = Add(v76, x)", "v77 = Sub(v76, x)")
    found = bisected(saved(tmp_path / "c.onnx", changed), saved(tmp_path / "r.onnx", text))
    assert (found.first.tensor, found.first.operator, found.compared) == ("v77", "Sub", 78)


def test_models_with_nothing_in_common(tmp_path):
    other = TEXT.split("{\n")[0] + "{ z = Sigmoid(x)\n y2 = Neg(z) }"
    other = other.replace("float[n, 6] y", "float[n, 6] y2")
    with pytest.raises(DifferenceError, match="have no inner tensor in common"):
        bisected(saved(tmp_path / "c.onnx", other), saved(tmp_path / "r.onnx"))


def test_a_model_that_cannot_run_is_named(tmp_path):
    broken = saved(tmp_path / "c.onnx")
    model = onnx.load(broken)
    model.graph.node[2].op_type = "NoSuchOperator"
    onnx.save(model, broken)
    with pytest.raises(ModelError, match=r"c\.onnx, run with its inner tensors as outputs"):
        bisected(broken, saved(tmp_path / "r.onnx"))


def test_the_largest_difference_before_is_told(tmp_path):
    reference = saved(tmp_path / "r.onnx")
    candidate = saved(tmp_path / "c.onnx", w1=WEIGHTS["w1"] * 1.01, w3=WEIGHTS["w3"] * 2)
    found = bisected(candidate, reference, tolerance=0.1)
    assert found.first.tensor == "e"
    assert found.largest_before == pytest.approx(0.01, rel=0.5)
    agreeing = bisected(candidate, reference, tolerance=10.0)
    assert agreeing.first is None
    assert agreeing.largest_before > 0.5  # of e, which is not the last
