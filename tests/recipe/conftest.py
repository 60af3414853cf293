"""Child processes find the package of this checkout."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _package_for_child_processes(monkeypatch):
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.fixture
def project(tmp_path):
    """Give a folder with a dense model, labelled data, and a recipe from one to the other."""
    import numpy as np
    from onnx import helper, numpy_helper

    from tests.engine.nets import conv_net, save, two_of_four  # noqa: F401 - conv_net is for the tests

    weight = np.random.default_rng(3).standard_normal((10, 16)).astype("float32")
    conv = np.random.default_rng(4).standard_normal((16, 16, 3, 3)).astype("float32") / 12
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["c"], name="conv", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "head.weight"], ["y"], name="head", transB=1),
    ]
    weights = [numpy_helper.from_array(conv, "conv.weight"), numpy_helper.from_array(weight, "head.weight")]
    inputs, outputs = {"x": ("float32", ("n", 16, 8, 8))}, {"y": ("float32", ("n", 10))}
    save(tmp_path / "model.onnx", nodes, inputs, outputs, weights, None)
    generator = np.random.default_rng(5)
    np.savez(
        tmp_path / "test.npz",
        x=generator.standard_normal((64, 16, 8, 8)).astype("float32"),
        labels=generator.integers(0, 10, 64),
    )
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


RECIPE = """\
version: 1
model: model.onnx
stages:
  prune: {pattern: "2:4"}
  fuse:
  verify:
  validate: {data: test.npz, runs: 5, warmup: 1}
  report: {formats: [html, md]}
"""
