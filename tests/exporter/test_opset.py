"""Opset 17: operators rewritten without a change of what they compute, others refused by name."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import parser
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.nn import functional

from nm2trt.errors import InputError
from nm2trt.exporter.opset import lower_to_17
from nm2trt.exporter.torch_onnx import export


def lowered(text):
    before = parser.parse_model(text)
    model = ir.serde.deserialize_model(before)
    lower_to_17(model)
    after = ir.serde.serialize_model(model)
    onnx.checker.check_model(after, full_check=True)
    return before, after


@pytest.mark.parametrize(
    "operator", ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ReduceSum"]
)
@pytest.mark.parametrize("axes", [[1], [-1, 0]], ids=["one", "negative-and-first"])
def test_reductions_compute_the_same(operator, axes):
    listed = ", ".join(map(str, axes))
    before, after = lowered(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[2, 4, 6] x) => (float[i, j, k] y) '
        f"<int64[{len(axes)}] axes = {{{listed}}}> {{ y = {operator} <keepdims=1> (x, axes) }}"
    )
    x = np.random.default_rng(0).random((2, 4, 6), dtype=np.float32)
    expected = ReferenceEvaluator(before).run(None, {"x": x})[0]
    np.testing.assert_allclose(ReferenceEvaluator(after).run(None, {"x": x})[0], expected, rtol=1e-6)
    assert after.opset_import[0].version == 17
    assert after.ir_version == 8


@pytest.mark.parametrize(
    ("node", "match"),
    [
        pytest.param("y = Mish (x)", r"Mish.*operator is newer", id="new-operator"),
        pytest.param(
            "y, z = Split <axis=1, num_outputs=3> (x)", r"Split.*axis of 4 does not divide", id="split"
        ),
        pytest.param("y = ReduceMax (x, a)", r"ReduceMax.*axes are computed", id="computed-axes"),
        pytest.param("y = ReduceMean <noop_with_empty_axes=1> (x)", r"reduces nothing", id="no-axes"),
        pytest.param('y = Resize <antialias=1, mode="linear"> (x, r, s)', r"antialias", id="resize"),
        pytest.param("y = Pad (x, a, , a)", r"pads only some axes", id="pad"),
    ],
)
def test_refuses_what_opset_17_has_not(node, match):
    text = (
        '<ir_version: 10, opset_import: ["" : 18]> '
        f"g (float[2, 4, 6] x, int64[1] a, float[0] r, float[3] s) => (y) {{ {node} }}"
    )
    with pytest.raises(InputError, match=match):
        lower_to_17(ir.serde.deserialize_model(parser.parse_model(text)))


class Resampling(nn.Module):
    """Uses every operator that opset 18 changed and vision models contain."""

    def forward(self, x):
        x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        left, right = functional.pad(x, (1, 1, 0, 2)).chunk(2, 1)
        return left.amax((2, 3)) + right.mean((2, 3))


@pytest.mark.parametrize("opset", [17, 20])
def test_export_honours_the_opset(opset, tmp_path):
    result = export(Resampling(), torch.rand(3, 4, 8, 8), tmp_path / "model.onnx", opset=opset)

    written = onnx.load(result.path)
    onnx.checker.check_model(written, full_check=True)
    assert written.opset_import[0].version == opset == result.opset
    # The comparison with ONNX Runtime inside export has passed on two batch sizes.
    assert len(result.differences) == 2
