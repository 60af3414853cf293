"""A dry run leaves its folder byte for byte: the same names, bytes and times, whatever was there before."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.cli import COMMANDS, main
from nm2trt.options import checks, engines, models, runs, serving

NODE = helper.make_node
INT8 = ("--precision", "int8", "--calib", "x.npz")
# Command -> its words; each is run on the folder of `project`.
DRY = {
    "build": ("build", "model.onnx", "--backend", "ort"),
    "build, a name that is taken": ("build", "model.onnx", "-o", "taken.ort", "--backend", "ort"),
    "build, forced to 2:4": ("build", "model.onnx", "--backend", "trt-rtx", "--sparsity=force"),
    "build, forced from samples": (
        "build", "model.onnx", "--backend", "trt-rtx", "--sparsity=force", "--calib", "x.npz"),
    "build in fp16, kept": ("build", "model.onnx", "--backend", "ort", "--precision", "fp16", "--keep"),
    "build in int8": ("build", "model.onnx", "--backend", "ort", *INT8),
    "build in int8, kept": ("build", "model.onnx", "--backend", "ort", *INT8, "--keep"),
    "build with external data": ("build", "large.onnx", "--backend", "ort", *INT8, "--keep"),
    "build with a report": ("build", "model.onnx", "--backend", "ort", "--json"),
    "run, never run": ("run", "fresh.yaml"),
    "run, done before": ("run", "recipe.yaml"),
    "run, a stage anew": ("run", "recipe.yaml", "--from", "prune"),
}  # fmt: skip


def test_every_command_with_a_dry_run_is_here():
    found = {
        name.removesuffix("Command").lower()
        for module in (checks, engines, models, runs, serving)
        for name, options in vars(module).items()
        if name.endswith("Command") and any(item.name == "dry_run" for item in dataclasses.fields(options))
    }
    assert {words[0] for words in DRY.values()} == found & set(COMMANDS)
    assert len(found) > 1


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Give a folder as after earlier work: a calibration, a kept copy, a run, and files of such names."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        rng = np.random.default_rng(0)
        weights = {name: rng.standard_normal((16, 16, 1, 1)).astype(np.float32) for name in ("w", "v")}
        graph = helper.make_graph(
            [NODE("Conv", ["x", "w"], ["a"], "a"), NODE("Relu", ["a"], ["b"], "b"), NODE("Conv", ["b", "v"], ["y"], "c")],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16, 4, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16, 4, 4])],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        )  # fmt: skip
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(proto, "model.onnx")
        np.savez("x.npz", x=rng.standard_normal((8, 16, 4, 4)).astype(np.float32))
        assert main(["quantize", "model.onnx", "--calib", "x.npz"]) == 0  # leaves its ranges beside the model
        onnx.save(proto, "large.onnx", save_as_external_data=True, location="large.data", size_threshold=0)
        for name in ("model.fp16.onnx", "model.int8.onnx", "taken.ort", "large.int8.onnx"):
            (folder / name).write_bytes(b"precious")
        stages = 'version: 1\nmodel: model.onnx\nstages:\n  prune: {pattern: "2:4"}\n  verify:\n  report:\n'
        for name in ("fresh.yaml", "recipe.yaml"):
            (folder / name).write_text(stages)
        assert main(["run", "recipe.yaml"]) == 0
    return folder


def snapshot(folder):
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("case", DRY)
def test_a_dry_run_leaves_the_folder_as_it_was(case, project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    words = DRY[case]
    if "trt-rtx" in words:
        pytest.importorskip("tensorrt_rtx")
    before = snapshot(project)
    status = main([*words, "--dry-run"])
    assert status == 0, capsys.readouterr()
    capsys.readouterr()
    assert snapshot(project) == before
