"""What README says of other tools: it is run beside them, or read from the committed results."""

import json
import re
from pathlib import Path

import pytest

from nm2trt.cli import main
from tests import forked
from tests.engine.nets import conv_net

ROOT = Path(__file__).parents[2]
README = " ".join((ROOT / "README.md").read_text().split())


def test_polygraphy_lets_a_dense_model_pass_and_verify_does_not(tmp_path, capsys):
    pytest.importorskip("polygraphy")
    net = tmp_path / "dense.onnx"
    conv_net(net, sparse=False)
    done = forked.polygraphy(tmp_path, "inspect", "sparsity", str(net))
    assert done.returncode == 0, done.stderr
    assert main(["verify", str(net)]) == 3
    assert "`inspect sparsity` ends with status 0 on a dense model" in README


def test_what_is_said_of_others_links_to_sources_that_stay():
    sources = re.findall(r"https://github.com/NVIDIA/[\w-]+/blob/([^/]+)/", README)
    assert len(sources) == 6
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in sources)


def test_the_times_of_the_check_are_those_measured():
    times = json.loads((ROOT / "benchmarks/results/verify.json").read_text())["models"]["resnet50"]
    assert f"| {times['polygraphy_s']:.1f} s (`benchmarks/results/verify.json`) |" in README
    assert f"| {times['process_s']:.1f} s, the process included |" in README


def test_the_picture_is_there_and_small():
    picture = ROOT / "docs" / "images" / "report.png"
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size < 200_000
