"""Random networks: a cast model is well typed, a quantised one INT8 from end to end, and both keep zeros and outputs."""

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nm2trt
from nm2trt.graph.verify.verify_model import verify_model
from tests.graph.qdq_nets import Builder, samples

SETTINGS = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def networks(draw):
    """Draw a network of layers that each read one or two of the values before them; all are (n, 8, 6, 6)."""
    b = Builder(seed=draw(st.integers(0, 99)))
    values = ["x"]
    for index in range(draw(st.integers(1, 9))):
        pick = lambda: values[draw(st.integers(max(0, len(values) - 3), len(values) - 1))]  # noqa: E731
        kind = draw(
            st.sampled_from(
                ["conv", "conv", "conv", "Relu", "Add", "Concat", "MaxPool", "Sigmoid", "Exp", "Mul"]
            )
        )
        name = f"{kind}{index}"
        if kind == "conv":
            values.append(b.conv(pick(), name, 8, 8, draw(st.sampled_from([1, 3]))))
        elif kind in ("Add", "Mul"):
            values.append(b.node(kind, [pick(), pick()], name))
        elif kind == "Concat":
            joined = b.node("Concat", [pick(), pick()], name, axis=1)
            values.append(b.conv(joined, f"{name}.conv", 16, 8))
        elif kind == "MaxPool":
            values.append(b.node("MaxPool", [pick()], name, kernel_shape=[3, 3], pads=[1] * 4))
        elif kind == "Exp":
            values.append(b.node("Exp", [b.node("Tanh", [pick()], f"{name}.tanh")], name))
        else:
            values.append(b.node(kind, [pick()], name))
    if not any(node.op_type == "Conv" for node in b.nodes):
        values.append(b.conv(values[-1], "last", 8, 8))
    more = [draw(st.sampled_from(values[1:]))] if draw(st.booleans()) else []
    return b.model(values[-1], opset=19, more=[name for name in more if name != values[-1]])


@SETTINGS
@given(networks(), st.sampled_from(["fp16", "bf16"]), st.booleans())
def test_cast(tmp_path, model, to, io):
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=samples(4))
    report = nm2trt.cast(tmp_path / "m.onnx", tmp_path / "c.onnx", to=to, io=io, calib=tmp_path / "x.npz")
    out = onnx.load(tmp_path / "c.onnx")
    if to == "fp16":
        onnx.shape_inference.infer_shapes(out, strict_mode=True, check_type=True)
    pairs = [(node.input[0], node.attribute[0].i) for node in out.graph.node if node.op_type == "Cast"]
    assert len(pairs) == len(set(pairs)) == report.casts
    assert report.relation == "equal"
    for item in report.differences:
        assert item.max_relative < (0.02 if to == "fp16" else 0.15)


@SETTINGS
@given(networks(), st.booleans())
def test_quantize(tmp_path, model, float_weights):
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=samples(4))
    (tmp_path / "q.ranges.npz").unlink(missing_ok=True)
    report = nm2trt.quantize(
        tmp_path / "m.onnx", tmp_path / "q.onnx", calib=tmp_path / "x.npz", float_weights=float_weights
    )
    out = onnx.load(tmp_path / "q.onnx")
    onnx.shape_inference.infer_shapes(out, strict_mode=True, check_type=True)
    given_back = {value.name for value in out.graph.output}
    assert all(layer.quantised for layer in report.layers)
    # What a layer gives to the outside stays float, and nothing else does.
    for island in report.islands:
        assert island.code == "output-float"
        assert "leaves the graph" in island.sentence
        assert given_back
    assert [row.pattern for row in verify_model(tmp_path / "q.onnx").weights] == ["holds"] * len(
        report.layers
    )
    for item in report.differences:
        assert item.cosine > 0.98
