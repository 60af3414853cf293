"""One open model: how often a command parses its ONNX file, and how often it reads the weights in it."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.graph.storage import external_data, model, model_hash, tensors
from nm2trt.pipeline.build import build
from nm2trt.pipeline.lowering import Lowering

PACKAGE = Path(model.__file__).parents[2]
WIDTH = 64  # a weight of 147 kB, which is left in the file


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    stored, nodes, last = {}, [], "x"
    for layer in range(3):
        weight = rng.standard_normal((WIDTH, WIDTH, 3, 3)).astype(np.float32) / 20
        weight[:, 0::4] = weight[:, 2::4] = 0
        stored[f"w{layer}"] = weight
        stored |= {f"{name}{layer}": np.ones(WIDTH, np.float32) for name in "gbmv"}
        norm = [f"{name}{layer}" for name in "gbmv"]
        nodes += [
            helper.make_node("Conv", [last, f"w{layer}"], [f"c{layer}"], f"conv{layer}", pads=[1] * 4),
            helper.make_node("BatchNormalization", [f"c{layer}", *norm], [f"n{layer}"], f"norm{layer}"),
            helper.make_node("Relu", [f"n{layer}"], [f"r{layer}"], f"relu{layer}"),
        ]
        last = f"r{layer}"
    shape = ["n", WIDTH, 8, 8]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), "m.onnx")
    np.savez("x.npz", x=rng.standard_normal((4, WIDTH, 8, 8)).astype(np.float32))
    return tmp_path


@pytest.fixture
def count(folder, monkeypatch):
    """Parses, and bytes of `m.onnx` that our readers took (pieces of tensors, whole tensors, hashes)."""
    seen = {"parses": 0, "bytes": 0}
    size = (folder / "m.onnx").stat().st_size

    def parse(original):
        def counted(*arguments, **options):
            seen["parses"] += 1
            return original(*arguments, **options)

        return counted

    monkeypatch.setattr(model, "_parse", parse(model._parse))
    for name in ("load", "load_model"):  # the others read what shape inference of onnx returns
        monkeypatch.setattr(onnx, name, parse(getattr(onnx, name)))
    read, hashed, embedded = tensors._read_fully, model_hash.sha256_file, external_data.stored_at

    def read_fully(descriptor, view, *rest):
        seen["bytes"] += len(view)
        return read(descriptor, view, *rest)

    def sha256_file(path):
        seen["bytes"] += path.stat().st_size
        return hashed(path)

    def stored_at(*arguments):
        length, place = embedded(*arguments)
        seen["bytes"] += length
        return length, place

    monkeypatch.setattr(tensors, "_read_fully", read_fully)
    monkeypatch.setattr(model_hash, "sha256_file", sha256_file)
    monkeypatch.setattr("nm2trt.graph.storage.save.stored_at", stored_at)

    return lambda: (seen["parses"], seen["bytes"] / size)


def test_nothing_else_parses_a_model():
    """The counters above see every parse: a protobuf is read in these modules only."""
    calls = re.compile(r"\.ParseFromString\(|onnx\.load\w*\(|ModelProto\.FromString\(")
    found = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if calls.search(path.read_text())
    }
    assert found == {"exporter/saving.py", "graph/storage/model.py", "graph/verify/plan_metadata.py"}


def test_build_parses_once_and_scans_twice(folder, count):
    pytest.importorskip("tensorrt_rtx")
    build("m.onnx", "m.rtx", backend="trt-rtx")
    parses, scans = count()
    assert parses == 1
    assert scans <= 2.1  # verify, and the hash in the manifest


@pytest.mark.parametrize(
    ("precision", "calib", "most"),
    [
        pytest.param("int8", "x.npz", 3.1, id="int8"),  # verify, fold, hash
        pytest.param("fp16", None, 4.1, id="fp16"),  # verify, measure what underflows, cast, hash
    ],
)
def test_build_to_a_precision_parses_once(folder, count, precision, calib, most):
    pytest.importorskip("tensorrt_rtx")
    lowering = Lowering(precision, calib=calib)
    result = build("m.onnx", "m.rtx", backend="trt-rtx", precision=lowering)
    parses, scans = count()
    assert parses == 1
    assert scans <= most
    stored = "int8" if precision == "int8" else "float16"
    assert all(row.dtype.detail.startswith(stored) for row in result.ladder)


def test_passes_in_memory_give_the_file_that_they_give_one_by_one(folder):
    """Prune, fuse and quantize on one open model against the same three with files in between."""
    from nm2trt.calibration.stream import open_samples
    from nm2trt.graph.fuse.fuse_model import fuse_model
    from nm2trt.graph.pass_frame import write_model
    from nm2trt.graph.prune.prune_model import prune_model
    from nm2trt.graph.quantize.quantize_model import quantize_model

    opened = model.load("m.onnx", leave_weights=True)
    reports = [
        prune_model(opened, None, pattern="1:4"),
        fuse_model(opened, None),
        quantize_model(opened, None, open_samples("x.npz")),
    ]
    assert opened.file is None
    write_model(opened, "memory.onnx")
    prune_model("m.onnx", "p.onnx", pattern="1:4")
    fuse_model("p.onnx", "f.onnx")
    quantize_model("f.onnx", "files.onnx", open_samples("x.npz"))
    assert reports[0].mask_sha256 == reports[1].parent_mask_sha256
    assert reports[1].mask_sha256 == reports[2].parent_mask_sha256
    assert onnx.load("memory.onnx") == onnx.load("files.onnx")
    assert Path("memory.onnx").read_bytes() == Path("files.onnx").read_bytes()


def test_a_pass_that_is_refused_in_memory_says_so(folder):
    from nm2trt.errors import LineageError
    from nm2trt.graph.pass_frame import Change, Pass, run_passes
    from nm2trt.graph.storage.save import Rewrite
    from nm2trt.graph.verify.mask_lineage import check_descent

    class Fill(Pass):
        """A planted fault: ones instead of zeros."""

        stage = "fill"

        def rewrite(self, opened, parent):
            tensor = opened.proto.graph.initializer[0]
            ones = np.ones(tensor.dims, np.float32).tobytes()
            return Change([Rewrite(tensor, lambda: iter([ones]))])

        def ensures(self, parent, child):
            return check_descent(parent, child, "fill")

    with pytest.raises(LineageError, match="w0 held 2:4 and does not any more"):
        run_passes("m.onnx", "out.onnx", [Fill()])
    assert not Path("out.onnx").exists()
    with pytest.raises(LineageError, match="w0 held 2:4"):
        run_passes(model.load("m.onnx", leave_weights=True), None, [Fill()])


def test_what_was_found_is_forgotten_when_the_model_changes(folder):
    opened = model.load("m.onnx")
    calls = []
    assert opened.once("question", lambda: calls.append(1) or "answer") == "answer"
    assert opened.once("question", lambda: calls.append(1) or "another") == "answer"
    assert (len(calls), opened.file) == (1, Path("m.onnx"))
    opened.touch()
    assert opened.once("question", lambda: "another") == "another"
    assert opened.file is None
