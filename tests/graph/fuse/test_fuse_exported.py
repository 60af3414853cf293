"""Networks built in torch, written by both exporters, BatchNorms folded or not: one convolution a block."""

import collections
import importlib.util

import numpy as np
import onnx
import pytest

from nm2trt.graph.fuse.fuse_model import fuse_model
from nm2trt.graph.prune.prune_model import prune_model
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.nm.pattern import NMPattern

torch = pytest.importorskip("torch")
if importlib.util.find_spec("onnxscript") is None:  # imported by what needs it, which is half a second
    pytest.skip("onnxscript is not installed", allow_module_level=True)
nn = torch.nn

# The exporters warn about themselves and about packages that are not there.
pytestmark = pytest.mark.filterwarnings("ignore")

EXPORTERS = [
    pytest.param({"dynamo": True}, id="dynamo"),
    pytest.param({"dynamo": True, "optimize": False}, id="dynamo-unfolded"),
    pytest.param({"dynamo": False}, id="torchscript"),
    pytest.param(
        {"dynamo": False, "do_constant_folding": False, "preserve": True}, id="torchscript-unfolded"
    ),
]


def randomise(model):
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


class SpReBlock(nn.Module):
    """BN(conv(x, W1 * mask)) + BN(conv(x, W2 * mask * spatial)), as SpRe trains it."""

    def __init__(self, channels, stride):
        super().__init__()
        from nm2trt.nm.torch_mask import nm_mask

        self.main = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.branch = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.norm_main, self.norm_branch = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        mask = nm_mask(self.main.weight.detach().abs(), NMPattern(2, 4), axis=1)
        self.register_buffer("mask", mask)
        self.register_buffer("spatial", torch.tensor([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=torch.bool))

    def forward(self, x):
        stride = self.main.stride
        a = torch.conv2d(x, self.main.weight * self.mask, None, stride, 1)
        b = torch.conv2d(x, self.branch.weight * (self.mask & self.spatial), None, stride, 1)
        return torch.relu(self.norm_main(a) + self.norm_branch(b))


class RepVggBlock(nn.Module):
    """3x3, 1x1 and identity, each with its BatchNorm."""

    def __init__(self, channels):
        super().__init__()
        self.three = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.one = nn.Conv2d(channels, channels, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(3))

    def forward(self, x):
        a, b, c = self.norms
        return torch.relu(a(self.three(x)) + b(self.one(x)) + c(x))


def export(model, path, x, options):
    options = dict(options)
    if options.pop("preserve", False):
        options["training"] = torch.onnx.TrainingMode.PRESERVE
    with torch.no_grad():  # PyTorch 2.9 cannot export a bool mask times a weight that needs a gradient
        torch.onnx.export(model, (x,), str(path), opset_version=18, verbose=False, **options)


def operators(path):
    return collections.Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


@pytest.mark.parametrize("options", EXPORTERS)
def test_a_spre_network_becomes_one_sparse_convolution_a_block(tmp_path, options):
    model = randomise(nn.Sequential(SpReBlock(16, 1), SpReBlock(16, 2)))
    x = torch.randn(1, 16, 12, 12)
    export(model, tmp_path / "a.onnx", x, options)
    report = fuse_model(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert operators(tmp_path / "b.onnx")["Conv"] == 2
    assert set(operators(tmp_path / "b.onnx")) <= {"Conv", "Relu", "Constant"}
    assert report.branches_merged == 2
    assert report.declined == ()
    assert report.differences[0].max_relative < 1e-5
    verified = verify_model(tmp_path / "b.onnx")
    assert verified.counts == {"holds": 2}
    wanted = np.concatenate([block.mask.numpy() for block in model])
    left = np.concatenate([weight_of(tmp_path / "b.onnx", v.weight) for v in verified.weights])
    assert ((left != 0) == wanted).all()


def weight_of(path, name):
    model = onnx.load(path)
    return next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


@pytest.mark.parametrize("options", EXPORTERS)
def test_a_repvgg_network_becomes_plain(tmp_path, options):
    model = randomise(nn.Sequential(RepVggBlock(16), RepVggBlock(16)))
    export(model, tmp_path / "a.onnx", torch.randn(1, 16, 10, 10), options)
    report = fuse_model(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert (operators(tmp_path / "b.onnx")["Conv"], report.branches_merged) == (2, 4)
    assert set(operators(tmp_path / "b.onnx")) <= {"Conv", "Relu", "Constant"}
    assert prune_model(tmp_path / "b.onnx", tmp_path / "c.onnx").counts["pruned"] == 2
    assert verify_model(tmp_path / "c.onnx").counts == {"holds": 2}
