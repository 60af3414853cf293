"""sparsify -> finalise -> export -> verify: the plan arrives under the names of the ONNX tensors."""

import onnx
import pytest
import torch
from torch import nn

import nm2trt
from nm2trt.errors import SparsifyError
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.nm.plan import METADATA_KEY


class Mixed(nn.Module):
    """A stem too narrow to be sparse, a conv and a head that stay as they are, a transposed Linear."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.conv = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(32)
        self.tokens = nn.Linear(32, 16, bias=False)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(torch.relu(self.stem(x)))))
        return self.head(torch.relu(self.tokens(x.flatten(2).transpose(1, 2))).mean(1))


def attached():
    torch.manual_seed(0)
    model = Mixed()
    return model, nm2trt.sparsify(model, method="magnitude", pattern="2:4")


@pytest.mark.parametrize("dtype", [None, "float16"], ids=["fp32", "fp16"])
def test_plan_and_mask_hash_travel_with_the_file(dtype, tmp_path):
    model, session = attached()
    session.finalize()
    result = nm2trt.export(
        model, torch.rand(2, 3, 8, 8), tmp_path / "model.onnx", dtype=dtype, dynamic_batch=False
    )

    report = verify_model(result.path)
    assert report.plan == result.plan
    assert report.missing == ()
    assert report.recorded_mask_sha256 == report.mask_sha256 == result.mask_sha256
    by_weight = {verdict.weight: verdict.pattern for verdict in report.weights}
    assert by_weight == {
        "stem.weight": "dense-by-plan",
        "conv.weight": "holds",
        "tokens.weight": "holds",
        "head.weight": "holds",
    }
    assert list(tmp_path.iterdir()) == [result.path]


@pytest.mark.parametrize("dtype", [None, "float16"], ids=["fp32", "fp16"])
def test_equal_weights_that_pytorch_stores_once_are_one_weight_of_the_plan(tmp_path, dtype):
    """A new TransformerEncoder: its layers are copies of one, and small tensors that are equal are merged."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    session = nm2trt.sparsify(model, method="magnitude")
    session.finalize()
    assert len(session.plan) == 8
    result = nm2trt.export(
        model, torch.randn(3, 8, 32), tmp_path / "model.onnx", dtype=dtype, dynamic_batch=False
    )
    report = verify_model(result.path)
    assert report.missing == ()
    assert [row.pattern for row in report.weights] == ["holds"] * 8
    assert {row.weight for row in report.weights} == {entry.weight for entry in result.plan}
    assert len(result.plan) < 8, "nothing was merged, and this test shows nothing"


def test_an_attached_model_is_refused(tmp_path):
    model, _ = attached()
    with pytest.raises(SparsifyError, match=r"magnitude is still attached to conv; call finalize\(\)"):
        nm2trt.export(model, torch.rand(2, 3, 8, 8), tmp_path / "model.onnx")


def test_a_model_without_plan_gets_the_hash_alone(tmp_path):
    result = nm2trt.export(Mixed(), torch.rand(2, 3, 8, 8), tmp_path / "model.onnx", dynamic_batch=False)

    written = {prop.key: prop.value for prop in onnx.load(result.path).metadata_props}
    assert METADATA_KEY not in written
    assert written["nm2trt.mask_sha256"] == result.mask_sha256


class NeverCalled(Mixed):
    def __init__(self):
        super().__init__()
        self.pooler = nn.Linear(16, 16)


class Unreturned(NeverCalled):
    def forward(self, x):
        y = super().forward(x)
        self.pooler(y.new_zeros(1, 16))
        return y


@pytest.mark.parametrize("make", [NeverCalled, Unreturned])
def test_a_layer_whose_result_the_model_does_not_return_leaves_the_plan(tmp_path, make):
    torch.manual_seed(0)
    model = make()
    session = nm2trt.sparsify(model, method="magnitude")
    session.finalize()
    assert any(entry.weight == "pooler.weight" for entry in session.plan)
    result = nm2trt.export(model, torch.rand(2, 3, 8, 8), tmp_path / "model.onnx", dynamic_batch=False)
    report = verify_model(result.path)
    assert report.missing == ()
    assert report.passed()
    assert all(entry.weight != "pooler.weight" for entry in report.plan)


def test_zeros_that_training_filled_after_finalize_are_told(tmp_path):
    model, session = attached()
    session.finalize()
    assert nm2trt.export(model, torch.rand(2, 3, 8, 8), tmp_path / "a.onnx", dynamic_batch=False).filled == ()
    with torch.no_grad():
        model.tokens.weight.add_(1.0)
    result = nm2trt.export(model, torch.rand(2, 3, 8, 8), tmp_path / "b.onnx", dynamic_batch=False)
    assert result.filled == ("tokens.weight",)
    assert "1 weight has fewer zeros than planned, tokens.weight first: training after" in str(result)
    assert [row.weight for row in verify_model(result.path).weights if row.pattern == "broken"] == [
        "tokens.weight"
    ]
