"""Saliency of weights on samples, against its definition; what is left out of it changes no result."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import nm2trt
from nm2trt.backends.ort import open_onnx
from nm2trt.calibration.stream import open_sample_stream
from nm2trt.graph.permute import channel_spaces
from nm2trt.graph.reconstruct.report import ReconstructOptions
from nm2trt.graph.reconstruct.saliency import weight_saliency
from nm2trt.graph.reconstruct.statistics import _through_weight
from nm2trt.nm.solver import kept_rows
from nm2trt.nm.solver.layer_moments import sums_of
from tests.graph.reconstruct.test_reconstruct_model import network, samples

MOVABLE = {"w3", "w4", "w5", "w6"}  # w1 reads the model's input, w2 is depthwise


def saliency(model, calib, wanted):
    return weight_saliency(model, open_sample_stream(calib), ReconstructOptions(), wanted)


@pytest.mark.parametrize("count", [64, 16], ids=["sums", "kept rows"])
def test_saliency_is_the_loss_of_removing_a_weight(tmp_path, monkeypatch, count):
    model, calib = network(tmp_path / "a.onnx"), samples(tmp_path / "s.npz", count)
    if count < 32:
        monkeypatch.setattr(kept_rows, "_MANY_INPUTS", 32)
        monkeypatch.setattr(kept_rows, "_FEW_ROWS", 0.5)
    found = saliency(model, calib, {"w5"})["w5"]
    shown = onnx.load(model)
    shown.graph.output[0].name = "f"
    onnx.save(shown, tmp_path / "f.onnx")
    (weight,) = (numpy_helper.to_array(t) for t in shown.graph.initializer if t.name == "w5")
    with open_onnx(tmp_path / "f.onnx") as session:
        x = session.run({"x": np.load(calib)["x"]})["f"].astype(np.float64)
    x = x - x.mean(0)
    h = x.T @ x / len(x)
    scale = np.sqrt(np.diag(h) + 1e-3 * np.diag(h).mean() + 1e-10)
    ridge = 0.01 + 0.2 * h.shape[0] / len(x)
    inverse = np.linalg.inv(h / scale / scale[:, None] + ridge * np.eye(len(h)))
    variance = ((x @ weight) ** 2).sum(1).mean()
    wanted = (weight * scale[:, None]) ** 2 / np.diag(inverse)[:, None] / variance
    np.testing.assert_allclose(found, wanted, rtol=2e-4)


def test_only_wanted_weights_are_scored_and_with_the_same_bits(tmp_path):
    model, calib = network(tmp_path / "a.onnx"), samples(tmp_path / "s.npz")
    every = saliency(model, calib, {"w1", "w2", *MOVABLE})
    assert set(every) == {"w1", *MOVABLE}
    some = saliency(model, calib, {"w2", "w4", "w6"})
    assert set(some) == {"w4", "w6"}
    assert all((some[name] == every[name]).all() for name in some)


def test_weights_whose_channels_may_not_move_need_no_saliency(tmp_path, monkeypatch):
    model, calib = network(tmp_path / "a.onnx"), samples(tmp_path / "s.npz")
    nm2trt.prune(model, tmp_path / "b.onnx", calib=calib)
    real = channel_spaces.find_spaces
    monkeypatch.setattr(
        channel_spaces, "find_spaces", lambda model: [replace(s, obstacle="") for s in real(model)]
    )
    nm2trt.prune(model, tmp_path / "c.onnx", calib=calib)
    assert (tmp_path / "b.onnx").read_bytes() == (tmp_path / "c.onnx").read_bytes()


@pytest.mark.parametrize("same", [True, False], ids=["one stream", "two streams"])
def test_moments_through_the_weight_are_those_of_the_outputs(same):
    random = np.random.default_rng(0)
    x, other = random.normal(size=(2, 50, 8)).astype(np.float32)
    weight = random.normal(size=(24, 8)).astype(np.float32)
    x_dense = x if same else other
    found, wanted = _through_weight(x, x_dense, weight), sums_of(x, x_dense @ weight.T)
    for name in ("xx", "yx", "x", "y", "yy", "rows"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-5, atol=1e-4)
    assert not sums_of(x, x_dense @ weight.T, crossed=False).yx.any()
