"""`nm2trt build --require-sparse` and the plan of work of a dry run."""

import json

import pytest

from nm2trt.cli import main
from tests.engine.nets import conv_net


@pytest.fixture
def net(tmp_path):
    return conv_net(tmp_path / "net.onnx")


def test_an_ahead_of_time_build_can_never_know(net, capsys):
    assert main(["build", str(net), "--sparsity", "--backend", "trt-rtx", "--require-sparse", "80%"]) == 3
    captured = capsys.readouterr()
    assert "can never be answered by an ahead-of-time build" in captured.err
    assert "w0" in captured.out  # the ladder, as far as it is known
    assert [path.name for path in net.parent.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("share", ["0.8", "0", "120%", "most", "-3"])
def test_what_is_no_share(net, capsys, share):
    assert main(["build", str(net), "--sparsity", f"--require-sparse={share}"]) == 2
    assert "is not a share of the work; write a percentage over 0, as in 80%" in capsys.readouterr().err


def test_a_dry_run_refuses_what_the_build_would(net, capsys):
    words = ["build", str(net), "--sparsity", "--backend", "trt-rtx", "--require-sparse", "80%", "--dry-run"]
    assert main(words) == 3
    assert "can never be answered" in capsys.readouterr().err


def test_a_dry_run_tells_the_work_and_its_share(net, capsys):
    assert main(["build", str(net), "--sparsity", "--dry-run", "--backend", "trt-rtx"]) == 0
    out = capsys.readouterr().out
    assert "1. take the weights as they are: 2 of 2 weights hold 2:4" in out
    assert "2. build for sm80, sm86 with sparse kernels allowed" in out
    # Two convolutions, 8 x 8 x 8 places, 16 x 16 channels, 9 taps.
    assert "work: 2.36 M multiply-accumulates at the optimum profile; 100 % is 2:4" in out


def test_the_forecast_as_json(net, capsys):
    assert main(["build", str(net), "--sparsity", "--dry-run", "--backend", "trt-rtx", "--json"]) == 0
    work = json.loads(capsys.readouterr().out)["forecast"]
    macs = 2 * 8 * 64 * 16 * 16 * 9
    assert work == {"macs": macs, "holding": macs, "eligible": 0, "likely": 0, "unknown_weights": 0}
