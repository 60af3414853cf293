"""Builders' logs: two wordings, captured and quoted ones, and versions that nobody here has seen."""

from pathlib import Path

import pytest

from nm2trt.engine.evidence.build_log import identify_log, parse_build_log

LOGS = Path(__file__).parent / "logs"

# NVIDIA/TensorRT issue 4056 (shortened): trtexec --fp16 --sparsity=enable --verbose.
ISSUE_4056 = """\
[08/05/2024-12:06:54] [I] [TRT] (Sparsity) Layers eligible for sparse math: MatMul_401, Conv_619 + Relu_620, Conv_626
[08/05/2024-12:06:54] [I] [TRT] (Sparsity) TRT inference plan picked sparse implementation for layers: Conv_619 + Relu_620
[08/05/2024-12:06:54] [I] [TRT] Total Host Persistent Memory: 160"""

# NVIDIA/TensorRT issue 2169: a terminal folded the list in the middle of a name; nothing was picked.
ISSUE_2169 = """\
[07/19/2022-11:58:20] [I] [TRT] (Sparsity) Layers eligible for sparse math: Conv_22, MatMul_51, Mat
Mul_139, Gemm_725
[07/19/2022-11:58:20] [I] [TRT] (Sparsity) TRT inference plan picked sparse implementation for layers:"""

# NVIDIA/TensorRT issue 1403: the logger of the Python API.
ISSUE_1403 = """\
[TensorRT] INFO: (Sparsity) Layers eligible for sparse math: Conv_0
[TensorRT] INFO: (Sparsity) TRT inference plan picked sparse implementation for layers:"""

# NVIDIA/TensorRT issue 2271: Gemms hold 2:4, and the list is empty.
ISSUE_2271 = """\
[08/23/2022-16:18:06] [I] [TRT] (Sparsity) Layers eligible for sparse math:
[08/23/2022-16:18:06] [I] [TRT] (Sparsity) TRT inference plan picked sparse implementation for layers:"""

# NVIDIA/Model-Optimizer pull request 1664, TensorRT 10.14: the later wording; a first pass chose nothing.
PULL_1664 = """\
[V] [TRT] (Sparsity) Found 3 layer(s) eligible to use sparse tactics: /q/MatMul, /k/MatMul, /o/MatMul
[V] [TRT] (Sparsity) Chose 0 layer(s) using sparse tactics:
[V] [TRT] (Sparsity) Found 3 layer(s) eligible to use sparse tactics: /q/MatMul, /k/MatMul, /o/MatMul
[V] [TRT] (Sparsity) Chose 2 layer(s) using sparse tactics: /q/MatMul, /o/MatMul"""

# The table of TensorRT's sample_editable_timing_cache, with a sparse kernel's name in it.
AUTOTUNED = """\
[V] [TRT] Autotuning op fc1(key: 0x1814870c44ff0f8574df6e3dda04cbd7): [ONNX Layer: /fc1/MatMul]
[V] [TRT] Sorted table of all evaluated tactics:
[V] [TRT] tactic_id, cost(in ms), cost/fastest_cost, prediction_correlation, kernel_name, tactic_hash, tunable_parameter
[V] [TRT]    3, 0.0100000, 1.00000, 0.50673, sm80_xmma_gemm_i8i8_i8i32_f32_tn_n_tilesize128x64x64, 0x665ded9abbf88,
[V] [TRT]    5, 0.0125000, 1.25000, 0.51157, sm80_xmma_sparse_gemm_i8i8_i8i32_f32_tn_n_tilesize128x64x128, 0x393e4ef8ad243,
[V] [TRT]    6, 0.0130000, 1.30000, 0.51157, sm80_xmma_sparse_gemm_i8i8_i8i32_f32_tn_n_tilesize64x64x128, 0x2ad3a182fb05c,
[V] [TRT] The selected tactic is (tactic hash, cost(in ms)):0x665ded9abbf88,  0.01
[V] [TRT] Writing the best tactic (0x665ded9abbf88) to cache"""


def read(text, builder="trt", version="8.6.1"):
    return parse_build_log(text.splitlines(), builder=builder, version=version)


@pytest.mark.parametrize(
    ("text", "eligible", "chosen"),
    [
        pytest.param(
            ISSUE_4056, ("MatMul_401", "Conv_619 + Relu_620", "Conv_626"), ("Conv_619 + Relu_620",), id="4056"
        ),
        pytest.param(ISSUE_2169, ("Conv_22", "MatMul_51", "MatMul_139", "Gemm_725"), (), id="2169-folded"),
        pytest.param(ISSUE_1403, ("Conv_0",), (), id="1403-python-logger"),
        pytest.param(ISSUE_2271, (), (), id="2271-both-empty"),
    ],
)
def test_wording_of_tensorrt_8(text, eligible, chosen):
    found = read(text)
    assert (found.eligible.layers, found.eligible.count) == (eligible, len(eligible))
    assert (found.chosen.layers, found.chosen.count) == (chosen, len(chosen))
    assert found.notes == ()


@pytest.mark.parametrize(
    ("builder", "version"), [("trt", "10.14.1.48"), ("trt", "11.1.0"), ("trt-rtx", "1.7.1.116")]
)
def test_later_wording_the_last_pass_counts(builder, version):
    found = read(PULL_1664, builder, version)
    assert found.eligible.layers == ("/q/MatMul", "/k/MatMul", "/o/MatMul")
    assert found.chosen.layers == ("/q/MatMul", "/o/MatMul")


def test_numbers_without_names():
    found = read(
        "[V] (Sparsity) Found 39 layer(s) eligible to use sparse tactics\n[V] (Sparsity) Chose 7 layer(s) using sparse tactics",
        version="10.3",
    )
    assert (found.eligible.count, found.eligible.layers) == (39, None)
    assert (found.chosen.count, found.chosen.layers) == (7, None)


def test_what_the_builder_timed():
    (timed,) = read(AUTOTUNED, version="10.14").autotuned
    assert (timed.layer, timed.nodes) == ("fc1", ("/fc1/MatMul",))
    assert (timed.dense_ms, timed.sparse_ms) == (0.01, 0.0125)
    assert timed.speedup == pytest.approx(0.8)


def test_a_layer_timed_in_two_formats_counts_its_best():
    slower = AUTOTUNED.replace("0.0125000", "0.0200000").replace("0.0130000", "0.0300000")
    (timed,) = read(f"{slower}\n{AUTOTUNED}", version="10.14").autotuned
    assert (timed.dense_ms, timed.sparse_ms) == (0.01, 0.0125)


def test_captured_log_of_tensorrt_for_rtx_names_no_kernel():
    found = read((LOGS / "rtx_1_7_conv.log").read_text(), "trt-rtx", "1.7.1.116")
    assert [layer.nodes for layer in found.layers if layer.multiplies] == [
        ("conv0", "relu0"),
        ("conv1", "relu1"),
    ]
    assert found.deferred
    assert found.eligible is found.chosen is None
    assert "no (Sparsity) line" in found.notes[0]


def test_captured_log_with_unnamed_nodes_and_int8():
    found = read((LOGS / "rtx_1_7_mlp.log").read_text(), "trt-rtx", "1.7.1.116")
    products = [layer for layer in found.layers if layer.multiplies]
    assert [layer.nodes[0] for layer in products] == ["/fc1/MatMul", "node_of_a1", "/fc3/MatMul"]
    # The parts that Myelin split off the third product are not products.
    assert ["/fc3/MatMul" in layer.nodes and layer.computes for layer in found.layers].count(True) == 1


@pytest.mark.parametrize(
    ("builder", "version"), [("trt", "12.0.1"), ("trt", "9.2"), ("trt-rtx", "2.0"), ("ort", "1.31")]
)
def test_of_an_unknown_version_nothing_is_read(builder, version):
    found = read(f"{ISSUE_4056}\n{AUTOTUNED}", builder, version)
    assert found.chosen is found.eligible is None
    assert found.layers == found.autotuned == ()
    (note,) = found.notes
    assert version in note
    assert "does not know" in note
    assert "nothing was read" in note


def test_a_log_that_does_not_say_its_version():
    (note,) = read(ISSUE_4056, version="").notes
    assert "does not say which version wrote it" in note


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v8601] # trtexec --onnx=m.onnx", "8.6.1"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v100600] [b26] # trtexec", "10.6.0"),
        ("&&&& RUNNING TensorRT.trtexec [TensorRT v101401]", "10.14.1"),
        ("[08/05/2024-12:06:54] [I] TensorRT version: 8.5.2", "8.5.2"),
        ("[I] nothing of the kind", ""),
    ],
)
def test_a_log_of_trtexec_names_its_version(line, version):
    assert identify_log(["=== Model Options ===", line]) == version


def test_names_are_not_split_inside_brackets():
    text = (
        "(Sparsity) Layers eligible for sparse math: PWN(PWN(relu_1), add_1), {ForeignNode[a, b...c]}, conv"
    )
    assert read(text).eligible.layers == ("PWN(PWN(relu_1), add_1)", "{ForeignNode[a, b...c]}", "conv")


@pytest.mark.parametrize("prefix", ["", "2026-11-22 10:00:00,123 VERBOSE [TRT] "], ids=["none", "unknown"])
@pytest.mark.parametrize(
    ("listed", "picked"),
    [
        ("Found 2 layer(s) eligible to use sparse tactics", "Chose 1 layer(s) using sparse tactics"),
        ("Layers eligible for sparse math", "TRT inference plan picked sparse implementation for layers"),
    ],
    ids=["later", "eight"],
)
def test_what_follows_in_a_log_without_a_known_prefix_is_no_part_of_a_name(prefix, listed, picked):
    lines = (
        "[V] Loaded",
        f"(Sparsity) {listed}: a, b",
        f"(Sparsity) {picked}: b",
        "Engine generation completed",
    )
    found = read("\n".join(prefix + line for line in lines))
    assert found.eligible.layers == ("a", "b")
    assert found.chosen.layers == ("b",)
