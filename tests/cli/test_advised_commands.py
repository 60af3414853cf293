"""Every command that a message recommends works on the very file that got the message.

The walk below finds all texts of the package that name a command. Each is in one of two tables: advice, with
the test that runs it, or a mere mention. A new message fails the walk until it is in one of them.
"""

import ast
import json
import re
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]
NODE = helper.make_node
NAMED = re.compile(rf"nm2trt ({'|'.join(COMMANDS)})\b")

# Text, shortened, by file -> the test that follows the advice.
ADVICE = {
    ("backends/_triton_server.py", "serve"): "test_an_address_without_a_server_leads_to_serve",
    ("backends/_trt_words.py", "quantize"): "test_a_refused_zero_point_leads_to_quantize",
    ("validation/latency/benchmark.py", "bench"): "test_one_process_leads_to_several",
    ("cli/build.py", "info"): "test_a_build_leads_on",
    ("cli/build.py", "prove"): "test_a_build_leads_on",
    ("cli/build.py", "explain"): "test_a_build_leads_on",
    ("graph/storage/model.py", "info"): "test_an_engine_called_a_model_leads_to_info",
    ("graph/storage/model_info.py", "verify"): "test_info_leads_to_verify",
    ("cli/init.py", "run"): "test_a_recipe_and_its_comments",
    ("cli/prove.py", "explain"): "test_a_proof_leads_to_explain",
    ("engine/evidence/inspector_json.py", "build"): "test_layers_without_kernels_lead_to_build",
    ("engine/inspection.py", "verify"): "test_a_model_called_an_engine_leads_to_verify",
    ("engine/build_result.py", "explain"): "test_a_build_leads_on",
    ("engine/gain.py", "prove"): "test_a_table_of_gains_leads_to_prove",
    ("pipeline/next_step.py", "prune"): "test_a_dense_file_that_was_quantised_leads_back_to_the_float_one",
    ("graph/prune/dense_twin.py", "prune"): "test_a_dense_file_to_prove_leads_to_prune",
    ("engine/ladder/explain.py", "prove"): "test_what_no_build_can_tell_leads_to_prove",
    ("engine/ladder/explain.py", "build"): "test_what_no_build_can_tell_leads_to_prove",
    ("engine/ladder/explain.py", "explain"): "test_what_no_build_can_tell_leads_to_prove",
    ("engine/ladder/requirement.py", "prune"): "tests/pipeline/test_one_answer.py",
    ("engine/ladder/requirement.py", "prove"): "test_a_share_that_nobody_can_know_leads_to_prove",
    ("engine/ladder/requirement.py", "explain"): "test_too_few_sparse_kernels_lead_to_explain",
    ("graph/cast/cast_model.py", "cast"): "tests/graph/cast/test_cast_ranges.py",
    ("graph/quantize/quantize_model.py", "quantize"): "tests/graph/cast/test_cast_ranges.py",
    ("graph/verify/stored_readers.py", "fuse"): "tests/graph/prune/test_joined_weights.py",
    ("graph/quantize/pair_insertion.py", "fuse"): "test_batchnorms_left_lead_to_fuse",
    ("nm/advice.py", "quantize"): "tests/pipeline/test_one_answer.py",
    ("nm/advice.py", "cast"): "tests/pipeline/test_one_answer.py",
    ("nm/advice.py", "prune"): "tests/pipeline/test_one_answer.py",
    ("nm/eligibility_rules.py", "prune"): "tests/pipeline/test_one_answer.py",
    ("nm/gain_table.py", "gain"): "test_a_damaged_report_of_gains_leads_to_gain",
    ("pipeline/next_command.py", "build"): "test_the_chain_from_a_dense_file",
    ("pipeline/next_command.py", "explain"): "test_the_chain_from_a_dense_file",
    ("pipeline/next_command.py", "prune"): "test_the_chain_from_a_dense_file",
    ("pipeline/next_step.py", "build"): "test_the_chain_from_a_dense_file",
    ("pipeline/next_step.py", "explain"): "test_the_chain_from_a_dense_file",
    ("recipe/starter.py", "run"): "test_a_recipe_and_its_comments",
    ("recipe/starter.py", "init"): "test_a_recipe_and_its_comments",
    ("recipe/starter_outlook.py", "init"): "test_a_recipe_and_its_comments",
    ("recipe/starter.py", "sparsify"): "tests/recipe/test_training_stages.py",
    ("reporting/ship.py", "prune"): "tests/recipe/test_next_command.py",
    ("reporting/ship.py", "validate"): "tests/recipe/test_next_command.py",
    ("reporting/ship.py", "prove"): "tests/recipe/test_next_command.py",
    ("reporting/ship.py", "explain"): "tests/recipe/test_next_command.py",
    ("cli/deploy.py", "serve"): "tests/cli/test_cli_deploy.py",
    ("cli/serve.py", "probe"): "tests/cli/test_hostile_files.py",
    ("cli/deploy.py", "probe"): "tests/cli/test_cli_deploy.py",
    ("reporting/ship.py", "deploy"): "test_a_verdict_of_yes_leads_to_deploy",
    ("serving/server/start.py", "deploy"): "test_no_repository_leads_to_deploy",
    ("sparsity/semi_structured.py", "build"): "test_a_module_on_the_cpu_leads_to_build",
    ("validation/latency/bench_files.py", "bench"): "test_a_damaged_benchmark_leads_to_bench",
}
# They say who made or makes something, and advise nothing.
MENTIONS = {
    ("calibration/yaml_file.py", "init"),
    ("cli/__init__.py", "run"),
    ("nm/gain_table.py", "gain"),
    ("options/engines.py", "build"),
    ("options/models.py", "build"),
    ("options/runs.py", "build"),
    ("options/runs.py", "init"),
    ("options/runs.py", "run"),
    ("pipeline/samples.py", "samples"),
    ("pipeline/sparsify.py", "gain"),
    ("recipe/runner.py", "run"),
    ("reporting/folder.py", "run"),
    ("serving/history.py", "deploy"),
    ("serving/kubernetes.py", "deploy"),
    ("serving/staging.py", "deploy"),
}


def texts(path):
    """Yield the texts of a module but for its docstrings and the examples of its help."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    left_out = {
        id(node.body[0].value)
        for node in nodes
        if isinstance(node, documented) and isinstance(node.body[0], ast.Expr)
    }
    for node in nodes:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EPILOG":
            left_out.add(id(node.value))  # examples of the help, in which files are named that nobody has
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out:
            yield node.value


def unknown_advice():
    """Return the texts, by file and command, that are in neither table; `tests/test_collected.py` asks."""
    package = ROOT / "nm2trt"
    found = {
        (path.relative_to(package).as_posix(), match[1])
        for path in package.rglob("*.py")
        for text in texts(path)
        for match in NAMED.finditer(text)
    }
    return found - set(ADVICE) - MENTIONS


def test_the_tests_that_follow_advice_are_there():
    here = Path(__file__).read_text(encoding="utf-8")
    for test in set(ADVICE.values()):
        assert f"def {test}(" in here if test.startswith("test_") else (ROOT / test).is_file(), test


def save(path, nodes, stored, *, batch="n", outputs=(("y", 32),), kind=TensorProto.FLOAT, opset=17):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, [batch, 32, 4, 4])],
        [helper.make_tensor_value_info(name, kind, [batch, size, 4, 4]) for name, size in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return path


def filters(*, sparse, seed=0):
    made = np.random.default_rng(seed).standard_normal((32, 32)).astype(np.float32)
    if sparse:
        made.reshape(32, -1, 4)[..., 2:] = 0
    return made[..., None, None]


NODES = [
    NODE("Conv", ["x", "w"], ["a"], name="first"),
    NODE("Relu", ["a"], ["b"], name="act"),
    NODE("Conv", ["b", "v"], ["y"], name="last"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give a folder with a dense and a sparse model, a quantised one, and samples."""
    monkeypatch.chdir(tmp_path)
    save("dense.onnx", NODES, {"w": filters(sparse=False), "v": filters(sparse=False, seed=1)})
    save("sparse.onnx", NODES, {"w": filters(sparse=True), "v": filters(sparse=True, seed=1)})
    rng = np.random.default_rng(2)
    np.savez("SAMPLES.npz", x=rng.standard_normal((16, 32, 4, 4)).astype(np.float32))
    return tmp_path


@pytest.fixture
def quantised(folder, capsys):
    assert main(["quantize", "sparse.onnx", "--calib", "SAMPLES.npz", "-o", "int8.onnx"]) == 0
    capsys.readouterr()
    return "int8.onnx"


def said(capsys, *words, status=0):
    """Run a command and return all that it printed, on one line."""
    found = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert found == status, out + err
    return " ".join((out + err).split())


def following(text):
    """Return the words of the command that a command ended with."""
    return shlex.split(re.search(r"next: +nm2trt (.*?)(?: nm2trt: | note: |$)", text)[1], comments=True)


RTX = ("--backend", "trt-rtx", "--target", "sm86")


def test_the_chain_from_a_dense_file(folder, capsys):
    """verify -> prune -> build in int8 -> build that keeps the file, each word as it was printed."""
    pytest.importorskip("tensorrt_rtx")
    words = following(said(capsys, "verify", "dense.onnx", "--fail-on", "none", *RTX))
    assert words[0] == "prune"
    words = following(said(capsys, *words, "-o", "pruned.onnx"))
    assert words[:2] == ["build", "pruned.onnx"]
    text = said(capsys, *words)
    assert "of the work can run sparse" in text
    assert following(text)[0] == "build"
    said(capsys, *following(text))
    # Nothing known makes a transposed convolution of float32 sparse: the next command explains.
    node = NODE("ConvTranspose", ["x", "w"], ["y"], name="up")
    save("up.onnx", [node], {"w": filters(sparse=True).transpose(1, 0, 2, 3)})
    words = following(said(capsys, "verify", "up.onnx", "--fail-on", "none", *RTX))
    assert words[0] == "explain"
    said(capsys, *words)


def test_a_file_of_an_old_opset_is_converted_and_not_to_be_exported_again(folder, capsys):
    pytest.importorskip("tensorrt_rtx")
    save("old.onnx", NODES, {"w": filters(sparse=True), "v": filters(sparse=True, seed=1)}, opset=11)
    text = said(capsys, "verify", "old.onnx", *RTX)
    assert "quantise it to int8" in text
    assert "export" not in text
    words = following(text)
    assert words[:2] == ["build", "old.onnx"]
    assert "of the work can run sparse" in said(capsys, *words)
    said(capsys, "init", "old.onnx", "--calib", "SAMPLES.npz", *RTX)
    assert "int8" in (folder / "old.yaml").read_text()


def test_a_dense_file_that_was_quantised_leads_back_to_the_float_one(folder, capsys):
    pytest.importorskip("tensorrt_rtx")
    words = following(said(capsys, "quantize", "dense.onnx", "--calib", "SAMPLES.npz", "-o", "q.onnx"))
    assert words == ["prune", "dense.onnx", "--calib", "SAMPLES.npz", "--to", "int8"]
    assert "of the work can run sparse" in said(capsys, *words)


@pytest.mark.parametrize("pattern", ["4:8", "3:4"])
@pytest.mark.parametrize("more", [(), ("--calib", "SAMPLES.npz", "--to", "int8")], ids=["fp32", "int8"])
def test_another_pattern_leads_back_to_the_dense_file(pattern, more, folder, capsys):
    """Only 2:4 runs sparse, and what a file of another pattern has lost is still in the dense one."""
    pytest.importorskip("tensorrt_rtx")
    words = following(said(capsys, "prune", "dense.onnx", "--pattern", pattern, *more, "-o", "p.onnx"))
    assert words[:2] == ["prune", "dense.onnx"]
    assert words[-2:] == (["--to", "int8"] if more else ["--calib", "SAMPLES.npz"])
    said(capsys, *words)
    # Whoever has only that file prunes it further, or reads why it has to be made anew.
    words = following(said(capsys, "verify", "p.onnx", *RTX))
    assert words[:2] == (["explain", "p.onnx"] if more else ["prune", "p.onnx"])
    text = said(capsys, *words)
    assert more or following(text)[0] == "build"


def test_an_engine_that_was_built_without_sparsity_leads_on(folder, quantised, capsys):
    pytest.importorskip("tensorrt_rtx")
    save("dense32.onnx", NODES, {"w": filters(sparse=False), "v": filters(sparse=False, seed=1)})
    said(capsys, "quantize", "dense32.onnx", "--calib", "SAMPLES.npz", "-o", "dense8.onnx")
    for model, command in (
        ("dense.onnx", ["prune", "dense.onnx"]),
        ("sparse.onnx", ["build", "sparse.onnx"]),
        (quantised, ["build", quantised]),
        ("dense8.onnx", ["explain", "dense8.onnx"]),
    ):
        text = said(capsys, "build", model, *RTX, "-o", "m.rtx")
        assert "a dense engine: no sparse kernel was considered" in text
        words = following(text)
        assert words[:2] == command
        said(capsys, *words)


def test_a_file_of_which_more_than_the_batch_is_free_leads_on_with_profiles(folder, capsys):
    """The builder has a default for the batch only; the sizes that are guessed are there to be changed."""
    pytest.importorskip("tensorrt_rtx")
    model = onnx.load("sparse.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, "free.onnx")
    words = following(said(capsys, "verify", "free.onnx", *RTX))
    assert words[words.index("--profile") + 1] == "x:1x32x64x4,8x32x128x4,32x32x256x4"
    words = following(said(capsys, "quantize", "free.onnx", "--calib", "SAMPLES.npz", "-o", "q.onnx"))
    assert "--profile" in words
    words = following(said(capsys, *words, "--target", "sm86", "-o", "m.rtx"))
    assert words[0] == "prove"
    assert words[words.index("--target") + 1] == "sm86"
    said(capsys, *words)


def test_a_dense_file_of_a_type_without_sparse_kernels_is_not_to_be_pruned(folder, capsys):
    """Another builder may have kernels of the type; it is said before hours of pruning, not after them."""
    half = {name: filters(sparse=False, seed=seed).astype(np.float16) for seed, name in enumerate("wv")}
    save("half.onnx", NODES, half, kind=TensorProto.FLOAT16)
    text = said(capsys, "verify", "half.onnx", *RTX, status=3)
    assert "nor would it at 2:4: float16 on sm86 by trt-rtx" in text
    assert "start again from the float32 model" in text
    words = following(text)
    assert words[:2] == ["explain", "half.onnx"]
    assert "do: even at 2:4, int8 is needed: start again from the float32 model" in said(capsys, *words)
    words = following(said(capsys, "verify", "half.onnx", "--backend", "trt", "--target", "sm86", status=3))
    assert words[:2] == ["prune", "half.onnx"]
    said(capsys, *words, "-o", "p.onnx")
    text = said(capsys, "verify", "p.onnx", "--backend", "trt", "--target", "sm86")
    assert "of the work can run sparse on sm86 with trt" in text


@pytest.mark.parametrize(
    ("node", "reason", "remedy"),
    [
        (
            NODE("FusedConv", ["x", "w"], ["y"], domain="com.microsoft", activation="Relu"),
            "no TensorRT reads this model: it has FusedConv",
            "export the original model, which ONNX Runtime neither optimised nor quantised",
        ),
        (
            NODE("Conv", ["x", "w"], ["y"], group=2),
            "a convolution with 2 groups is never given a sparse kernel",
            "leave it dense: sparsity costs accuracy here and brings nothing",
        ),
    ],
    ids=["fused-by-ONNX-Runtime", "grouped"],
)
def test_a_dense_file_that_no_zeros_help_is_not_to_be_pruned(folder, capsys, node, reason, remedy):
    pytest.importorskip("tensorrt_rtx")
    channels = 32 if node.domain else 16
    save("m.onnx", [node], {"w": filters(sparse=False)[:, :channels]})
    proto = onnx.load("m.onnx")
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(proto, "m.onnx")
    text = said(capsys, "verify", "m.onnx", *RTX, status=3)
    assert f"nor would it at 2:4: {reason}" in text
    words = following(text)
    assert words[:2] == ["explain", "m.onnx"]
    assert f"do: {remedy}" in said(capsys, *words)
    if not node.domain:
        for words in (("cast", "-o", "h.onnx"), ("quantize", "--calib", "SAMPLES.npz", "-o", "q.onnx")):
            assert following(said(capsys, words[0], "m.onnx", *words[1:]))[0] == "explain"
    text = said(capsys, "build", "m.onnx", "--sparsity", *RTX, status=3)
    assert f"no sparse kernel could run; {remedy}, or build dense" in text


@pytest.mark.parametrize(
    ("command", "model", "following_word"),
    [
        ("permute", "dense.onnx", "prune"),
        ("fuse", "sparse.onnx", "build"),
        ("cast", "sparse.onnx", "explain"),
    ],
)
def test_what_prepares_a_model_leads_on(folder, capsys, command, model, following_word):
    pytest.importorskip("tensorrt_rtx")
    words = following(said(capsys, command, model, "-o", "made.onnx"))
    assert words[:2] == [following_word, "made.onnx"]
    said(capsys, *words)


def test_a_dense_file_to_prove_leads_to_prune(folder, capsys):
    """And what was pruned with samples is to be built with the same samples."""
    pytest.importorskip("tensorrt_rtx")
    assert "first (nm2trt prune --calib SAMPLES)" in said(capsys, "prove", "dense.onnx", *RTX, status=3)
    (folder / "SAMPLES.npz").rename("my inputs.npz")
    words = following(said(capsys, "prune", "dense.onnx", "--calib", "my inputs.npz"))
    assert words[words.index("--calib") + 1] == "my inputs.npz"
    assert words[0] == "build"
    said(capsys, *words)


def test_a_build_leads_on(folder, quantised, capsys):
    pytest.importorskip("tensorrt_rtx")
    for model, more, command in (
        (quantised, (), "prove"),
        ("sparse.onnx", ("--precision", "int8", "--calib", "SAMPLES.npz"), "build"),
        ("sparse.onnx", ("--precision", "int8", "--calib", "SAMPLES.npz", "--keep"), "prove"),
        ("sparse.onnx", ("--precision", "fp16"), "explain"),
    ):
        text = said(capsys, "build", model, "--sparsity", *RTX, *more, "-o", "m.rtx")
        doubted = "a dense kernel is likely to be faster for 50 % (nm2trt explain says why)"
        assert (doubted in text) == ("fp16" not in more)
        assert doubted not in text or "dense kernel is usually faster" in said(capsys, "explain", "m.rtx")
        words = following(text)
        assert words[0] == command
        said(capsys, *words)
    assert (
        following(said(capsys, "build", quantised, "--sparsity", *RTX, "-o", "m.rtx", "--dry-run"))[0]
        == "build"
    )


@pytest.mark.parametrize("command", [("verify", "sparse.onnx"), ("build", "sparse.onnx", "-o", "m.ort")])
def test_a_file_for_onnx_runtime_leads_to_explain(folder, capsys, command):
    words = following(said(capsys, *command, "--backend", "ort"))
    assert words == ["explain", "sparse.onnx", "--backend", "ort"]
    assert "ONNX Runtime has no sparse kernels" in said(capsys, *words)


def test_one_process_leads_to_several(folder, capsys):
    text = said(capsys, "bench", "dense.onnx", "sparse.onnx", "--runs", "4", "--warmup", "1")
    assert re.search(r"see nm2trt bench --processes \d+", text)
    text = said(capsys, "bench", "dense.onnx", "sparse.onnx", *"--runs 6 --warmup 1 --processes 2".split())
    assert "95 % interval" in text


def test_a_damaged_benchmark_leads_to_bench(folder, capsys):
    (folder / "old.json").write_text("{}")
    timed = ("bench", "dense.onnx", "--runs", "3", "--warmup", "1")
    assert "write one with nm2trt bench ... -o FILE.json" in said(
        capsys, *timed, "--compare", "old.json", status=2
    )
    (folder / "old.json").unlink()
    said(capsys, *timed, "-o", "old.json")
    said(capsys, *timed, "--compare", "old.json")


def test_info_leads_to_verify(folder, capsys):
    assert "nm2trt verify judges every weight" in said(capsys, "info", "sparse.onnx")
    said(capsys, "verify", "sparse.onnx")


def test_a_model_called_an_engine_leads_to_verify(folder, capsys):
    from nm2trt.engine.inspection import inspect_engine
    from nm2trt.errors import InputError

    with pytest.raises(InputError, match="for an ONNX model, use nm2trt verify"):
        inspect_engine(folder / "sparse.onnx")
    said(capsys, "verify", "sparse.onnx")


def test_an_engine_called_a_model_leads_to_info(folder, capsys):
    pytest.importorskip("tensorrt_rtx")
    said(capsys, "build", "sparse.onnx", *RTX, "-o", "m.rtx")
    assert "m.rtx is an engine, not an ONNX model; nm2trt info shows it" in said(
        capsys, "verify", "m.rtx", status=2
    )
    said(capsys, "info", "m.rtx")


def test_layers_without_kernels_lead_to_build(folder, quantised, capsys):
    pytest.importorskip("tensorrt_rtx")
    (folder / "layers.json").write_text(json.dumps({"Layers": ["first", "last"], "Bindings": ["x", "y"]}))
    text = said(capsys, "explain", quantised, *RTX, "--layers", "layers.json")
    assert "build it with nm2trt build" in text
    said(capsys, "build", quantised, *RTX, "-o", "m.rtx")


def table_of_gains(folder):
    rows = [
        {"m": m, "n": 32, "k": 32, "dtype": dtype, "dense_ms": 1.0, "sparse_ms": 0.8}
        for dtype in ("float16", "int8")
        for m in (1, 16)
    ]
    table = {"schema": 1, "device": {"name": "G", "target": "sm86"}, "rows": rows}
    table["versions"] = {"cusparselt": "800"}
    (folder / "table.json").write_text(json.dumps(table))
    return "table.json"


def test_a_damaged_report_of_gains_leads_to_gain(folder, capsys):
    from nm2trt.errors import InputError
    from nm2trt.nm.gain_table import parse_dense_names

    with pytest.raises(InputError, match="make one with nm2trt gain --table FILE --json"):
        parse_dense_names("{}", where="gains.json")
    main(
        [
            "gain",
            "dense.onnx",
            "--table",
            table_of_gains(folder),
            "--device",
            "sm86",
            "--json",
            "--shape",
            "x:1",
        ]
    )
    assert parse_dense_names(capsys.readouterr().out, where="gains.json") == {}


def test_a_table_of_gains_leads_to_prove(folder, quantised, capsys):
    pytest.importorskip("tensorrt_rtx")
    table = ("--table", table_of_gains(folder), "--device", "sm86", "--shape", "x:1", "--backend", "trt-rtx")
    assert "so nm2trt prove decides" in said(capsys, "gain", quantised, *table)
    said(capsys, "prove", quantised, "--backend", "trt-rtx")


def test_what_no_build_can_tell_leads_to_prove(folder, quantised, capsys):
    pytest.importorskip("tensorrt_rtx")
    assert "run nm2trt prove on that GPU" in said(capsys, "explain", quantised, *RTX)
    said(capsys, "prove", quantised, "--backend", "trt-rtx")
    text = said(capsys, "explain", quantised, "--backend", "trt", "--target", "sm86")
    assert "nm2trt build --sparsity on the GPU, then nm2trt explain ENGINE; or nm2trt prove" in text
    # TensorRT proper needs the GPU; the same words, for the builder that is here.
    said(capsys, "build", quantised, "--sparsity", *RTX, "-o", "m.rtx")
    said(capsys, "explain", "m.rtx")


def test_a_proof_leads_to_explain(folder, quantised, capsys, monkeypatch):
    """Without a GPU a proof repeats itself; measured, it leads to explain: the words are run as they are made."""
    pytest.importorskip("tensorrt_rtx")
    from types import SimpleNamespace

    from nm2trt.cli import prove

    words = shlex.split(
        prove._next(SimpleNamespace(measured=True, backend="trt-rtx"), SimpleNamespace(model=quantised))
    )
    said(capsys, *words[1:])
    assert following(said(capsys, "prove", quantised, "--backend", "trt-rtx"))[0] == "prove"


def test_a_share_that_nobody_can_know_leads_to_prove(folder, quantised, capsys):
    pytest.importorskip("tensorrt_rtx")
    text = said(
        capsys, "build", quantised, "--sparsity", *RTX, "--require-sparse", "80%", "-o", "m.rtx", status=3
    )
    assert "run nm2trt prove there" in text
    said(capsys, *following(text))
    said(capsys, "prove", quantised, "--backend", "trt-rtx")


def test_a_refused_zero_point_leads_to_quantize(folder, capsys):
    pytest.importorskip("tensorrt_rtx")
    pair = [NODE("QuantizeLinear", ["x", "s", "z"], ["q"]), NODE("DequantizeLinear", ["q", "s", "z"], ["d"])]
    nodes = [*pair, NODE("Conv", ["d", "w"], ["y"])]
    save("asymmetric.onnx", nodes, {"w": filters(sparse=True), "s": np.float32(0.1), "z": np.uint8(128)})
    text = said(capsys, "build", "asymmetric.onnx", *RTX, "-o", "m.rtx", status=4)
    assert "quantise the float model with nm2trt quantize" in text
    save("float.onnx", [NODE("Conv", ["x", "w"], ["y"])], {"w": filters(sparse=True)})
    said(capsys, "quantize", "float.onnx", "--calib", "SAMPLES.npz", "-o", "int8.onnx")
    said(capsys, "build", "int8.onnx", *RTX, "-o", "m.rtx")


def test_batchnorms_left_lead_to_fuse(folder, capsys):
    ones = np.ones(32, np.float32)
    nodes = [NODE("Conv", ["x", "w"], ["c"]), NODE("BatchNormalization", ["c", "g", "g", "g", "g"], ["y"])]
    save("norm.onnx", nodes, {"w": filters(sparse=True), "g": ones})
    text = said(capsys, "quantize", "norm.onnx", "--calib", "SAMPLES.npz", "-o", "int8.onnx")
    assert "run nm2trt fuse first" in text
    said(capsys, "fuse", "norm.onnx", "-o", "fused.onnx")
    assert "nm2trt fuse" not in said(
        capsys, "quantize", "fused.onnx", "--calib", "SAMPLES.npz", "-o", "q.onnx"
    )


def test_a_recipe_and_its_comments(folder, capsys):
    text = said(capsys, "init", "dense.onnx", *RTX)
    assert "nm2trt init dense.onnx --calib SAMPLES.npz --force writes a recipe that quantises" in text
    assert following(text) == ["run", "dense.yaml"]
    comments = (folder / "dense.yaml").read_text()
    assert "`nm2trt run dense.yaml`" in comments
    assert "`nm2trt init --calib SAMPLES.npz --force`" in comments
    words = following(said(capsys, "run", "dense.yaml", "--dry-run"))
    assert words == ["run", "dense.yaml"]
    text = said(capsys, "init", "dense.onnx", "--calib", "SAMPLES.npz", "--force")
    said(capsys, *words, "--until", "verify")


def test_an_address_without_a_server_leads_to_serve(folder, capsys, tritonserver):
    """`nm2trt serve` starts the server of this fixture; in the foreground it waits until it is stopped."""
    from nm2trt.backends.triton import TritonServer

    probed = (
        "probe",
        "--name",
        "advised",
        "--reference",
        "dense.onnx",
        "--requests",
        "20",
        "--concurrency",
        "2",
    )
    assert "start one, e.g. with nm2trt serve" in said(capsys, *probed, "--url", "127.0.0.1:9", status=7)
    place = ("--repository", tritonserver.repository, "--name", "advised", "--backend", "python")
    said(capsys, "deploy", "dense.onnx", *place)
    with TritonServer(f"http://{tritonserver.http}") as client:
        client.load("advised")
    said(capsys, *probed, "--url", tritonserver.http)


def test_too_few_sparse_kernels_lead_to_explain(folder, quantised, capsys):
    """The refusal needs a GPU's builder (its words: tests/engine/ladder); the command is run on the model."""
    said(capsys, "explain", quantised, "--backend", "trt", "--target", "sm86")


def test_a_module_on_the_cpu_leads_to_build(folder, capsys):
    torch = pytest.importorskip("torch")
    pytest.importorskip("tensorrt_rtx")
    import nm2trt
    from nm2trt.errors import BackendMissingError

    with pytest.raises(BackendMissingError, match="or build an engine with nm2trt build"):
        nm2trt.to_semi_structured(torch.nn.Sequential(torch.nn.Linear(64, 32)))
    # What an export of such a module looks like.
    said(capsys, "build", "sparse.onnx", *RTX, "-o", "net.rtx")


def test_no_repository_leads_to_deploy(folder, capsys):
    text = said(capsys, "serve", "--repository", "models", status=2)
    assert "give a model repository, e.g. one that nm2trt deploy made" in text
    said(capsys, "deploy", "dense.onnx", "--repository", "models", "--name", "net")
    assert (folder / "models" / "net" / "config.pbtxt").is_file()


def test_a_verdict_of_yes_leads_to_deploy(folder, capsys):
    pytest.importorskip("tensorrt_rtx")
    from dataclasses import replace

    from nm2trt.reporting.collect import collect
    from nm2trt.reporting.data import Answer
    from nm2trt.reporting.ship import ship
    from tests.reporting.runs import small_run

    small_run(folder / "run")
    data = collect(folder / "run")
    kept = next(row for row in data.accuracy if row.difference is not None)
    kept = replace(kept, difference=0.0, difference_low=0.0, difference_high=0.0)
    yes = {rung: Answer("yes", "") for rung in ("chosen", "gain")}
    weights = tuple(
        replace(row, rungs={**row.rungs, **yes}) for row in data.weights if row.status != "broken"
    )
    said(capsys, "build", "dense.onnx", *RTX, "-o", "m.rtx")
    shipped = ship(replace(data, accuracy=(kept,), weights=weights, files={"engine": "m.rtx"}))
    assert shipped.answer == "yes"
    words = shlex.split(shipped.next_step.replace("REPOSITORY", "models").replace("NAME", "net"))
    said(capsys, *words[1:])
