"""One open model: how often a command parses its ONNX file, and how often it reads the weights in it."""

import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.graph.storage import model, model_hash, tensors
from nm2trt.pipeline.build import build
from nm2trt.pipeline.deploy import deploy
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
    read, hashed, embedded = tensors._read_fully, model_hash.sha256_file, tensors.stored_at

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
    """The counters above see every parse: a protobuf is read in these modules only.

    `light_onnx` reads what ONNX's shape inference returns, which holds no weight.
    """
    calls = re.compile(r"\.ParseFromString\(|onnx\.load\w*\(|ModelProto\.FromString\(")
    found = {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if calls.search(path.read_text())
    }
    assert found == {
        "exporter/saving.py",
        "graph/storage/light_onnx.py",
        "graph/storage/model.py",
        "graph/verify/plan_metadata.py",
    }


def test_build_parses_once_and_scans_twice(folder, count):
    pytest.importorskip("tensorrt_rtx")
    build("m.onnx", "m.rtx", backend="trt-rtx")
    parses, scans = count()
    assert parses == 1
    assert scans <= 2.1  # verify, and the hash in the manifest


@pytest.mark.parametrize("named", [False, True], ids=["by default", "named again"])
def test_deploy_hands_what_it_read_of_the_model_to_the_probe(folder, count, monkeypatch, named):
    """Placing a model and probing it as its own reference parses it once; no server runs here."""
    probed = []

    def probe_model(url, name, reference, **_rest):
        probed.append(reference)
        return SimpleNamespace(require_passed=lambda: None)

    monkeypatch.setattr("nm2trt.serving.probe.probe_model", probe_model)
    monkeypatch.setattr("nm2trt.pipeline.deploy._server_version", lambda url: "2.64.0")
    monkeypatch.setattr("nm2trt.backends._triton_server.TritonServer.load", lambda server, name: None)
    deploy(
        "m.onnx",
        "repository",
        "net",
        canary="localhost:8000",
        reference=folder / "m.onnx" if named else None,
    )
    assert [artefact.path.resolve() for artefact in probed] == [(folder / "m.onnx").resolve()]
    assert count()[0] == 1


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


def test_build_that_forces_scans_three_times(folder, count):
    """Judge, prune, hash: what `build` asks of the pruned weights was found when they were pruned."""
    pytest.importorskip("tensorrt_rtx")
    dense = onnx.load("m.onnx")
    for tensor in dense.graph.initializer[::5]:
        tensor.raw_data = np.ones(tensor.dims, np.float32).tobytes()
    onnx.save(dense, "m.onnx")
    before = count()[0]
    build("m.onnx", "m.rtx", backend="trt-rtx", sparsity="force")
    parses, scans = count()
    assert parses - before == 1
    assert scans <= 3.1


@pytest.mark.parametrize(
    ("words", "most"),
    [
        pytest.param(["prune"], 2.1, id="prune"),
        pytest.param(["quantize", "--calib", "x.npz"], 3.1, id="int8"),
    ],
)
def test_the_verdict_of_a_command_costs_no_scan(folder, count, words, most, capsys):
    """`prune` and `quantize` say whether the result can run sparse from what they found of it."""
    from nm2trt.cli import main

    main([words[0], "m.onnx", "-o", "o.onnx", *words[1:]])
    parses, scans = count()
    assert parses == 2  # the second is of the result, without its weights, for the inputs of the next command
    assert scans <= most
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("verdict:")]
    main(["verify", "o.onnx"])
    assert said == [line for line in capsys.readouterr().out.splitlines() if line.startswith("verdict:")]


@pytest.mark.parametrize("threshold", [None, 1024, 20000], ids=["inline", "outside", "weights-outside"])
@pytest.mark.parametrize(
    "names", ["prune", "permute prune fuse quantize", "fuse quantize cast", "prune cast"]
)
def test_passes_in_memory_give_the_file_that_they_give_one_by_one(folder, names, threshold):
    """Passes on one open model against the same with files in between; also with weights in a data file."""
    from nm2trt.calibration.stream import open_sample_stream
    from nm2trt.graph.cast.cast_model import cast_model
    from nm2trt.graph.fuse.fuse_model import fuse_model
    from nm2trt.graph.pass_frame import write_model
    from nm2trt.graph.permute.permute_model import permute_model
    from nm2trt.graph.prune.prune_model import prune_model
    from nm2trt.graph.quantize.quantize_model import quantize_model

    passes = {
        "prune": lambda *paths: prune_model(*paths, pattern="1:4"),
        "fuse": fuse_model,
        "permute": permute_model,
        "quantize": lambda *paths: quantize_model(*paths, open_sample_stream("x.npz"), compare=False),
        "cast": lambda *paths: cast_model(*paths, compare=False),
    }
    proto = onnx.load("m.onnx")
    rng = np.random.default_rng(1)
    for tensor in proto.graph.initializer[::5]:
        tensor.raw_data = rng.standard_normal(tensor.dims).astype(np.float32).tobytes()
    keywords = {"save_as_external_data": True, "location": "m.data", "size_threshold": threshold}
    onnx.save(proto, "m.onnx", **({} if threshold is None else keywords))
    opened, source, reports = model.load("m.onnx", leave_weights=True), "m.onnx", []
    for number, name in enumerate(names.split()):
        reports.append(passes[name](opened, None))
        passes[name](source, f"{number}.onnx")
        source = f"{number}.onnx"
    assert opened.file is None
    assert all(a.mask_sha256 == b.parent_mask_sha256 for a, b in itertools.pairwise(reports))
    write_model(opened, "memory.onnx")
    assert onnx.load("memory.onnx") == onnx.load(source)
    beside = [Path(f"{name}.data") for name in ("memory.onnx", source)]
    assert beside[0].exists() == beside[1].exists()
    if not beside[0].exists():
        assert Path("memory.onnx").read_bytes() == Path(source).read_bytes()
    else:
        assert beside[0].read_bytes() == beside[1].read_bytes()


@pytest.mark.parametrize("where", ["m.onnx", "m.data"])
@pytest.mark.parametrize("use", ["verify", "hash", "write"])
def test_a_file_that_changes_while_it_is_open_is_refused(folder, where, use):
    """Weights are read at the places that the file named: in another file they would be other numbers."""
    from nm2trt.errors import InputError
    from nm2trt.graph.pass_frame import write_model
    from nm2trt.graph.verify.verify_model import verify_model

    if where == "m.data":
        onnx.save(onnx.load("m.onnx"), "m.onnx", save_as_external_data=True, location="m.data")
    opened = model.load("m.onnx", leave_weights=True)
    Path(where).write_bytes(b"\0" * Path(where).stat().st_size)
    uses = {
        "verify": verify_model,
        "hash": model_hash.model_hash,
        "write": lambda opened: write_model(opened, "o.onnx"),
    }
    with pytest.raises(
        InputError, match=f"{where} was changed while it was being read; run the command again"
    ):
        uses[use](opened)
    assert sorted(path.name for path in folder.iterdir()) == sorted({"m.onnx", where, "x.npz"})


def test_a_pass_that_fails_half_way_leaves_no_old_facts(folder):
    from nm2trt.graph.pass_frame import Pass, run_passes

    class Half(Pass):
        stage = "half"

        def rewrite(self, opened, parent):
            del opened.proto.graph.node[:]
            raise RuntimeError("half-way")

    opened = model.load("m.onnx", leave_weights=True)
    with pytest.raises(RuntimeError, match="half-way"):
        run_passes(opened, None, [Half()])
    assert opened.file is None
    assert not opened.facts


def test_weights_in_constant_nodes_are_not_copied_to_infer_shapes():
    from nm2trt.graph.analysis.shapes import infer_shapes

    weight = helper.make_node(
        "Constant", [], ["w"], value=numpy_helper.from_array(np.ones((64, 64), np.float32))
    )
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in ("x", "y")]
    graph = helper.make_graph(
        [weight, helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:]
    )
    opened = model.load(helper.make_model(graph))
    assert infer_shapes(opened)["w"] == (64, 64)
    assert infer_shapes(opened)["y"] == (None, 64)
    assert all(light.ByteSize() < 1000 for light in opened.facts.values())


def test_a_pass_that_is_refused_in_memory_says_so(folder):
    from nm2trt.errors import LineageError
    from nm2trt.graph.pass_frame import Change, Pass, run_passes
    from nm2trt.graph.storage.model_file import Rewrite
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

    with pytest.raises(LineageError, match="w0 held 2:4 and no longer does"):
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
