"""Sample 01 end to end, in its quick form, and its reader of IDX files."""

import gzip
import importlib.util
import json
import re
import runpy
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from nm2trt.graph.verify.verify_model import verify_model

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples" / "01_digits"


def test_quick_run_goes_all_the_way(tmp_path, monkeypatch, capfd):
    """The sample itself, in this process, which has torch; its commands are processes of their own."""
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["train.py", "--quick"])
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(SAMPLE / "train.py"), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
        sys.modules.pop("data", None)
    stdout = capfd.readouterr().out

    out = tmp_path / "results" / "01_digits"
    models = {f"{kind}_{dtype}.onnx" for kind in ("dense", "sparse") for dtype in ("fp32", "fp16")}
    assert models <= {path.name for path in out.iterdir()}
    for line in (
        "$ nm2trt verify",
        "$ nm2trt build",
        "$ nm2trt validate",
        "$ nm2trt fuse",
        "$ nm2trt report",
        "dense ",
        "sparse - dense:",
    ):
        assert line in stdout
    for dtype in ("fp32", "fp16"):
        sparse, dense = (verify_model(out / f"{kind}_{dtype}.onnx") for kind in ("sparse", "dense"))
        statuses = [verdict.pattern for verdict in sparse.weights]
        assert statuses == ["dense-by-plan", "holds", "holds", "holds", "holds"]
        assert "holds" not in {verdict.pattern for verdict in dense.weights}
    branches, fused = (verify_model(out / f"spre_{name}.onnx") for name in ("branches", "fused"))
    assert (len(branches.weights), len(fused.weights)) == (8, 5)
    assert fused.counts == {"dense-by-plan": 1, "holds": 4}
    with np.load(out / "test.npz") as test:
        assert test["image"].shape == (397, 1, 8, 8)
        assert sorted(set(test["labels"].tolist())) == list(range(10))
    if importlib.util.find_spec("tensorrt_rtx"):
        assert json.loads((out / "sparse_fp16.rtx.json").read_text())
    page = (tmp_path / "results" / "report.html").read_text()
    assert "digits, SR-STE 2:4" in page
    assert all(
        f'id="{section}"' in page for section in ("accuracy", "weights", "latency", "curves", "lineage")
    )
    assert stdout.count("zeros bring no speed here") == 1
    assert "zeros bring no speed here" in page
    stages = {path.stem: json.loads(path.read_text()) for path in (out / "stages").iterdir()}
    validated = next(stage for stage in stages.values() if stage["stage"] == "validate")
    for side, latency in validated["result"]["benchmark"]["latencies"].items():
        p50 = latency["p50_ms"]
        # One run: what the console printed is what the page shows.
        assert re.search(rf"^{side} .*{p50:.3f}", stdout, re.MULTILINE)
        assert f"<b>{p50:.3g}</b>" in page
    if importlib.util.find_spec("matplotlib"):
        assert (out / "training.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def sample_data():
    spec = importlib.util.spec_from_file_location("digits_sample_data", SAMPLE / "data.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_missing_fashion_mnist_says_where_to_get_it(sample_data, tmp_path):
    with pytest.raises(SystemExit, match="install the Debian package dataset-fashion-mnist"):
        sample_data.fashion_mnist(tmp_path)


IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def idx(array, kind=8):
    header = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    return header + array.astype(">u1").tobytes()


@pytest.mark.parametrize("zipped", [True, False], ids=["gz", "plain"])
def test_reads_idx(sample_data, tmp_path, zipped):
    path = tmp_path / ("images.gz" if zipped else "images")
    path.write_bytes(gzip.compress(idx(IMAGES)) if zipped else idx(IMAGES))
    np.testing.assert_array_equal(sample_data.read_idx(tmp_path, "images"), IMAGES)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        pytest.param(idx(IMAGES)[:-1], r"images is not a sound IDX file", id="truncated"),
        pytest.param(idx(IMAGES, kind=13), r"first bytes", id="floats"),
        pytest.param(b"\x00", r"not a sound IDX file", id="too-short"),
    ],
)
def test_refuses_idx(sample_data, tmp_path, content, match):
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(SystemExit, match=match):
        sample_data.read_idx(tmp_path, "images")
