"""Can it run sparse? Six commands, twenty files, one answer; and what a message advises works on its file."""

import json
import re
import shlex

import numpy as np
import onnx
import pytest

import nm2trt
from nm2trt.backends.choice import place_of
from nm2trt.backends.options import BuildOptions
from nm2trt.cli import main
from nm2trt.errors import BackendError, InputError, SparsityError
from nm2trt.nm.eligibility import can_run_sparse
from nm2trt.nm.verdict import WeightVerdict
from nm2trt.recipe.starter import write_recipe
from nm2trt.reporting.collect import collect
from nm2trt.reporting.folder import RunFolder
from tests.pipeline.twenty_files import FILES, HALF, save, weight

# Of each file, in the order of its weights, for TensorRT for RTX on sm80 and sm86: by hand, from docs/eligibility.md.
EXPECTED = {
    "conv fp32": ["no"],
    "conv fp16": ["unknown"],
    "conv bf16": ["unknown"],
    "conv fp32 opset 11": ["no"],
    "conv dense": ["no"],
    "matmul fp64": ["no"],
    "matmul fp16": ["unknown"],
    "gemm fp16": ["unknown"],
    "left operand": ["unknown"],
    "grouped": ["no"],
    "transposed": ["unknown"],
    "einsum": ["no"],
    "six channels": ["no"],
    "int8 end to end": ["yes"],
    "int8 in, float out": ["no"],
    "int8 asymmetric": ["no"],
    "uint8": ["no"],
    "int8 beside fp32": ["yes", "no"],
    "QLinearConv": ["no"],
    "chosen by an input": ["unknown"],
}
TARGET = "sm86"


@pytest.fixture
def table(tmp_path):
    rows = [
        {"m": m, "n": 32, "k": 32, "dtype": dtype, "dense_ms": 1.0, "sparse_ms": 0.8}
        for dtype in ("float16", "int8")
        for m in (1, 16)
    ]
    path = tmp_path / "gain.json"
    path.write_text(json.dumps({"schema": 1, "device": {"name": "G", "target": TARGET}, "rows": rows}))
    return path


def asked(capsys, *words):
    main([*map(str, words), "--json"])
    return json.loads(capsys.readouterr().out)


def answer_of(row):
    rungs = {row[rung]["answer"] for rung in ("pattern", "fits", "dtype")}
    return "no" if "no" in rungs else "unknown" if "unknown" in rungs else "yes"


@pytest.mark.parametrize("name", FILES)
def test_six_commands_give_one_answer(name, tmp_path, capsys, table):
    pytest.importorskip("tensorrt_rtx")
    path = FILES[name](tmp_path / "model.onnx")
    where = ["--backend", "trt-rtx", "--target", TARGET]
    verified = asked(capsys, "verify", path, *where)
    expected = EXPECTED[name]
    assert [row["eligible"] for row in verified["weights"]] == expected
    assert (verified["builder"], verified["targets"]) == ("trt-rtx", [TARGET])
    explained = asked(capsys, "explain", path, *where)
    assert [answer_of(row) for row in explained["ladder"]] == expected
    gained = asked(capsys, "gain", path, "--table", table, "--device", TARGET, "--backend", "trt-rtx")
    traced = [answer for answer, row in zip(expected, verified["weights"], strict=True) if row["facts"]]
    assert [layer["eligible"] for layer in gained["layers"]] == traced
    report = tmp_path / "run"
    RunFolder(report).start("r", ["verify"])
    # The report asks the rules itself: answers that a record carries are not read.
    facts = [{**row, "eligible": "yes", "reason": ""} for row in verified["weights"]]
    (report / "stages" / "verify.json").write_text(json.dumps({**verified, "weights": facts, "outlook": ""}))
    collected = collect(report)
    assert collected.outlook == verified["outlook"]
    held = [row["pattern"] == "holds" for row in verified["weights"]]
    reported = [row.rungs["fits"].answer for row in collected.weights]
    assert reported == [answer if holds else "" for answer, holds in zip(expected, held, strict=True)]
    started = write_recipe(path, tmp_path / "r.yaml", backend="trt-rtx", targets=TARGET)
    if "yes" in expected:
        assert started.outlook.endswith(verified["outlook"])
    try:
        built = nm2trt.build(path, BuildOptions(targets=(TARGET,)), backend="trt-rtx", dry_run=True)
    except BackendError:
        assert "yes" not in expected  # the builder does not read the file at all
        return
    assert [row.answer for row in built.ladder] == expected
    assert built.outlook == verified["outlook"]


def test_a_quantisation_aware_export_is_told_as_what_it_is(tmp_path, capsys):
    """Float weights behind pairs of their own, as pytorch-quantization exports them."""
    pytest.importorskip("tensorrt_rtx")
    node = onnx.helper.make_node

    def pair(value, scale, zero, **axis):
        quantized, back = f"{value}_q", f"{value}_d"
        return [
            node("QuantizeLinear", [value, scale, zero], [quantized], **axis),
            node("DequantizeLinear", [quantized, scale, zero], [back], **axis),
        ]

    nodes = [
        *pair("x", "s", "z"),
        *pair("w", "sw", "zw", axis=0),
        node("Conv", ["x_d", "w_d"], ["c"]),
        *pair("c", "s", "z"),
    ]
    stored = {"w": weight()[..., None, None], "s": np.float32(0.05), "z": np.int8(0)}
    stored |= {"sw": np.full(32, 0.03, np.float32), "zw": np.zeros(32, np.int8)}
    nodes[-1].output[0] = "y"
    path = save(tmp_path / "qat.onnx", nodes, stored)
    np.savez(tmp_path / "s.npz", x=np.zeros((4, 32, 4, 4), np.float32))
    where = ["--backend", "trt-rtx", "--target", "sm86"]
    assert main(["verify", str(path), *where]) == 0
    assert "float32 as int8" in capsys.readouterr().out
    built = nm2trt.build(
        path, BuildOptions(sparsity="enable", targets=(TARGET,)), backend="trt-rtx", dry_run=True
    )
    assert [(row.answer, row.dtype.detail) for row in built.ladder] == [("yes", "int8")]
    assert not [said for said in built.notes if "float32" in said or "quantise" in said]
    samples, out = str(tmp_path / "s.npz"), str(tmp_path / "o.onnx")
    assert main(["quantize", str(path), "--calib", samples, "-o", out]) == 2
    assert "is quantised already" in capsys.readouterr().err
    assert main(["prune", str(path), "--calib", samples, "-o", out]) == 2
    assert "is quantised" in capsys.readouterr().err
    assert main(["init", str(path), "-o", str(tmp_path / "r.yaml"), *where]) == 0
    recipe = (tmp_path / "r.yaml").read_text()
    assert not [line for line in recipe.splitlines() if line.strip().startswith(("quantize:", "cast:"))]


def test_several_targets_say_yes_only_together(tmp_path):
    path = FILES["int8 end to end"](tmp_path / "m.onnx")
    found = {t: nm2trt.verify(path, backend="trt-rtx", targets=t) for t in ("sm80,sm86", "sm80,sm89", "sm89")}
    answers = {targets: report.weights[0].eligible for targets, report in found.items()}
    assert answers == {"sm80,sm86": "yes", "sm80,sm89": "unknown", "sm89": "unknown"}
    assert nm2trt.verify(path, backend="ort").weights[0].eligible == "no"


def test_verify_imports_no_engine_library(tmp_path):
    import subprocess
    import sys

    path = FILES["conv fp32"](tmp_path / "m.onnx")
    code = (
        "import sys; from nm2trt.cli import main; main(['verify', sys.argv[1], '--fail-on', 'none']);"
        "print([m for m in sys.modules if m.startswith('tensorrt')])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert f"on {', '.join(place_of().targets)}" in done.stdout


def advised(text):
    """Return the commands that a text recommends, as the words of each."""
    found = re.findall(
        r"nm2trt (cast|quantize|prune|fuse|init)((?: (?:--[a-z-]+|[A-Z]+(?:\.npz)?|/\S+))*)", text
    )
    return [[command, *shlex.split(rest)] for command, rest in found]


# Nothing is recommended for the others, since no command makes them sparse.
RECOMMENDED = {
    **{(name, "trt"): {"cast", "quantize"} for name in ("conv fp32", "conv fp32 opset 11")},
    **{(name, "trt-rtx"): {"quantize", "init"} for name in ("conv fp32", "conv fp32 opset 11")},
    ("conv dense", "trt"): {"prune"},
    ("conv dense", "trt-rtx"): {"prune", "init"},
}


@pytest.mark.parametrize("place", ["trt", "trt-rtx"])
@pytest.mark.parametrize("name", FILES)
def test_every_command_that_is_recommended_works_on_its_file(name, place, tmp_path, capsys):
    path = FILES[name](tmp_path / "model.onnx")
    shape = [size.dim_value for size in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
    kind = np.float64 if name == "matmul fp64" else np.float16 if "fp16" in name else np.float32
    samples = tmp_path / "samples.npz"
    np.savez(samples, x=np.random.default_rng(0).standard_normal((2, *shape[1:])).astype(kind))
    where = ["--backend", place, "--target", TARGET]
    main(["verify", str(path), *where])
    main(["explain", str(path), *where])
    main(["init", str(path), *where])
    said = capsys.readouterr()
    found = advised(" ".join((said.out + said.err).split()))
    assert {command for command, *_ in found} == RECOMMENDED.get((name, place), set())
    for number, (command, *options) in enumerate(dict.fromkeys(map(tuple, found))):
        words = [
            str(samples) if word == "SAMPLES" or word.startswith("SAMPLES") else word for word in options
        ]
        words = [word for word in words if word.startswith("-") or word == str(samples)]
        output = [] if command == "init" else ["-o", str(tmp_path / f"{number}.onnx")]
        assert main([command, str(path), *words, *output]) == 0, (command, said.out)
    capsys.readouterr()


def test_a_build_without_sparse_weights_recommends_prune_only_if_prune_can(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    narrow = save(tmp_path / "narrow.onnx", [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
                  {"w": np.ones((8, 8), np.float16)}, shape=(1, 8), kind=HALF)  # fmt: skip
    wide = FILES["conv dense"](tmp_path / "wide.onnx")
    options = BuildOptions(sparsity="enable")
    with pytest.raises(SparsityError) as error:
        nm2trt.build(narrow, options, backend="trt-rtx")
    assert "nm2trt prune" not in str(error.value)
    with pytest.raises(SparsityError, match="nm2trt prune"):
        nm2trt.build(wide, options, backend="trt-rtx")
    nm2trt.prune(wide, tmp_path / "pruned.onnx")


def relu_net(path):
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["a"], name="first"),
        onnx.helper.make_node("Relu", ["a"], ["b"]),
        onnx.helper.make_node("Conv", ["b", "v"], ["y"], name="last"),
    ]
    stored = {"w": weight(sparse=False)[..., None, None], "v": weight(sparse=False)[..., None, None]}
    return save(path, nodes, stored)


def test_init_with_samples_writes_a_recipe_that_runs_sparse(tmp_path, capsys):
    path = relu_net(tmp_path / "net.onnx")
    np.savez(tmp_path / "s.npz", x=np.random.default_rng(0).standard_normal((4, 32, 4, 4)).astype(np.float32))
    where = ["--backend", "trt-rtx", "--target", "sm80,sm86"]
    assert main(["init", str(path), *where]) == 0
    said = capsys.readouterr().out
    assert "nothing is known to run sparse on sm80, sm86 with trt-rtx" in said
    assert "int8 is needed" in said
    assert main(["init", str(path), *where, "--calib", str(tmp_path / "s.npz"), "--force"]) == 0
    assert "up to 100 % of the work can run sparse" in capsys.readouterr().out
    assert main(["run", str(tmp_path / "net.yaml"), "--until", "verify"]) == 0
    assert "50 % of the work can run sparse" in capsys.readouterr().out


def test_a_first_recipe_compares_no_weight_with_all_others(tmp_path, monkeypatch):
    compared, equal = [], WeightVerdict.__eq__
    monkeypatch.setattr(WeightVerdict, "__eq__", lambda *two: compared.append(two) or equal(*two))
    write_recipe(relu_net(tmp_path / "net.onnx"), tmp_path / "r.yaml")
    assert not compared


def test_samples_must_lie_beside_the_recipe(tmp_path):
    (tmp_path / "a").mkdir()
    path = relu_net(tmp_path / "a" / "net.onnx")
    np.savez(tmp_path / "s.npz", x=np.zeros((1, 32, 4, 4), np.float32))
    with pytest.raises(InputError, match="is not below"):
        write_recipe(path, calib=tmp_path / "s.npz")


def test_the_function_behind_all_is_one(tmp_path):
    report = nm2trt.verify(FILES["int8 beside fp32"](tmp_path / "m.onnx"), backend="trt-rtx")
    for verdict in report.weights:
        assert can_run_sparse(verdict.facts, place_of("trt-rtx")).answer == verdict.eligible
