"""What TensorRT for RTX refuses, said in one sentence with the next step; the library's own text stays out."""

import json
import re

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.backends._trt_words import clean, first_error, in_words
from nm2trt.cli import main

NODE = helper.make_node
ROWS = np.ones((16, 16, 1, 1), np.float32)
PAIR = [NODE("QuantizeLinear", ["x", "s", "z"], ["q"]), NODE("DequantizeLinear", ["q", "s", "z"], ["d"])]
SCALE = {"s": np.float32(0.1)}
INTS = np.ones((16, 16, 1, 1), np.int8)


def write(path, nodes, stored, *, kind=TensorProto.FLOAT, shape=(1, 16, 8, 8), opset=17, outputs=None):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", outputs or TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return path


PACKED = [
    NODE("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=32, N=16, bits=4, block_size=32)
]
NO_IMPLEMENTATION = "it has no implementation of this operator; export the model without it"
REFUSED = {
    "an int32 bias": (
        [*PAIR, NODE("DequantizeLinear", ["w", "s"], ["v"]), NODE("DequantizeLinear", ["b", "s"], ["c"]),
         NODE("Conv", ["d", "v", "c"], ["y"])],
        SCALE | {"z": np.int8(0), "w": INTS, "b": np.ones(16, np.int32)}, {}, "it dequantises Int32"),
    "uint8 around 128": (
        [*PAIR, NODE("Relu", ["d"], ["y"])], SCALE | {"z": np.uint8(128)}, {}, "quantise the float model with nm2trt"),
    "asymmetric int8": (
        [*PAIR, NODE("Relu", ["d"], ["y"])], SCALE | {"z": np.int8(3)}, {}, "its zero point is not 0"),
    "uint8 weights": (
        [*PAIR, NODE("DequantizeLinear", ["w", "s", "u"], ["v"]), NODE("Conv", ["d", "v"], ["y"])],
        SCALE | {"z": np.int8(0), "u": np.uint8(0), "w": INTS.astype(np.uint8)}, {}, "it reads uint8"),
    "int16": (
        [*PAIR, NODE("Relu", ["d"], ["y"])], SCALE | {"z": np.int16(0)}, {"opset": 21}, "stored tensor 'z' has an element"),
    "uint4 weights": (
        [NODE("DequantizeLinear", ["w", "s"], ["v"]), NODE("Conv", ["x", "v"], ["y"])],
        SCALE | {"w": INTS.astype(ml_dtypes.uint4)}, {"opset": 21}, "such as uint4; quantise to int4 or int8"),
    "packed weights beside float32": (
        PACKED, {"w": np.zeros((16, 1, 16), np.uint8), "s": np.ones(16, np.float32)}, {"shape": (2, 32)},
        "it does not take weights that are packed for onnxruntime; export the model in float"),
    "packed weights beside float16": (
        PACKED, {"w": np.zeros((16, 1, 16), np.uint8), "s": np.ones(16, np.float16)},
        {"shape": (2, 32), "kind": TensorProto.FLOAT16, "outputs": TensorProto.FLOAT16},
        "it does not take weights that are packed for onnxruntime; export the model in float"),
    "NonZero": (
        [NODE("Greater", ["x", "s"], ["g"]), NODE("NonZero", ["g"], ["y"])], SCALE, {"outputs": TensorProto.INT64},
        f"operator NonZero, of {{model}}: {NO_IMPLEMENTATION}"),
    "Unique": ([NODE("Unique", ["x"], ["y"])], {}, {}, f"operator Unique, of {{model}}: {NO_IMPLEMENTATION}"),
    "text": (
        [NODE("StringNormalizer", ["x"], ["y"])], {},
        {"kind": TensorProto.STRING, "shape": (4,), "outputs": TensorProto.STRING}, "input 'x' has an element type"),
}  # fmt: skip
RAW = re.compile(r"creator|\.cpp|/_src|Assertion|kENABLE|Error Code|Plugin|In \w+ at|Invalid Node")


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_of_the_parser_is_in_our_words(case, tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx")
    nodes, stored, how, words = REFUSED[case]
    model = write(tmp_path / "m.onnx", nodes, stored, **how)
    assert main(["build", str(model), "--backend", "trt-rtx", "-o", str(tmp_path / "m.rtx")]) in (2, 4)
    said = capsys.readouterr().err
    assert words.format(model=model) in said
    assert not RAW.search(said), said


def test_an_operator_without_a_kernel_and_a_copy_are_named(tmp_path, capsys):
    """NonMaxSuppression is parsed and then has no kernel; the int8 copy is gone when the message is read."""
    pytest.importorskip("tensorrt_rtx")
    nodes = [
        NODE("Conv", ["x", "w"], ["c"]),
        NODE("Reshape", ["c", "to"], ["boxes"]),
        NODE("NonMaxSuppression", ["boxes", "scores", "most"], ["y"], name="nms"),
    ]
    stored = {"w": np.ones((16, 16, 1, 1), np.float32), "to": np.array([1, 256, 4]), "most": np.array([5])}
    stored |= {"scores": np.ones((1, 1, 256), np.float32)}
    model = write(tmp_path / "m.onnx", nodes, stored, outputs=TensorProto.INT64)
    np.savez(tmp_path / "s.npz", x=np.random.default_rng(0).random((2, 16, 8, 8), np.float32))
    words = ["--precision", "int8", "--calib", str(tmp_path / "s.npz"), "-o", str(tmp_path / "m.rtx")]
    assert main(["build", str(model), "--backend", "trt-rtx", *words]) == 4
    said = capsys.readouterr().err
    assert f"could not build m.int8.onnx, made from {model}: it has no kernel for the node" in said
    assert not RAW.search(said), said


def test_a_kernel_that_was_tried_in_vain_is_not_why_a_build_failed():
    """The lines of NVIDIA/TensorRT issue 4258, TensorRT 10.3, without the first, of the memory."""
    tried = (
        "error: Error Code: 9: Skipping tactic 0x0000000000000000 due to exception [tunable_graph.cpp:create:117] "
        "autotuning: User allocator error allocating 15485030400-byte buffer"
    )
    fatal = (
        "error: IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation "
        "for node {ForeignNode[/1/Constant_36_output_0.../1/Slice_4]}.)"
    )
    assert first_error([tried, fatal]).startswith(
        "Internal Error (Could not find any implementation for node {Foreign"
    )
    assert "allocating 15485030400-byte buffer" in first_error([tried])


def test_a_failed_check_of_the_compiler_is_one_sentence():
    """What TensorRT for RTX 1.7.1 logs for a decoder whose two branches, with and without a past, differ in shape."""
    raw = (
        "error: IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([myelin_graph.h:1295: "
        "attachExceptionMsgToGraph] MyelinCheckException: utils.cpp:3613: CHECK(static_cast<size_t>(i) < "
        "op->input_size()) failed.  In compileGraph at /_src/optimizer/myelin/codeGenerator.cpp:2012)"
    )
    assert in_words(first_error([raw])) == (
        "a check inside its compiler failed, CHECK(static_cast<size_t>(i) < op->input_size()); split a model that "
        "branches into one file per branch, or choose another builder with --backend"
    )


@pytest.mark.parametrize(
    "condition", ["nbInputs", "a.at(0).nbDims == a.at(1).nbDims && a.at(0).nbDims == b(2).nbDims"]
)
def test_an_assertion_s_condition_is_left_out(condition):
    """The longer is what TensorRT for RTX 1.7.1 says of an Attention of ONNX Runtime's."""
    sentence = "Q, K, and V inputs must have the same number of dimensions"
    assert clean(f"Assertion failed: {condition}: {sentence}.") == sentence


def test_what_is_not_known_stays_without_positions():
    raw = (
        "Invalid thing ITensor::getDimensions: Error Code 4: API Usage Error (node: wrong. In checkType at "
        "/_src/optimizer/common/nodeBase.cpp:456) [checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda"
    )
    said = in_words(clean(raw))
    assert said.endswith("API Usage Error (node: wrong.)")
    assert "cpp" not in said


@pytest.mark.parametrize(("batch", "mark"), [(1, "?"), ("?", "?"), ("", ""), (1, "-1"), ("None", "None")])
def test_free_sizes_that_an_exporter_calls_by_one_mark_are_not_tied(batch, mark, tmp_path, capsys):
    """paddle2onnx names every free size "?", which TensorRT would tie; it takes an empty name for a size of 0."""
    pytest.importorskip("tensorrt_rtx")
    model = write(
        tmp_path / "m.onnx", [NODE("Conv", ["x", "w"], ["y"])], {"w": ROWS}, shape=(batch, 16, mark, mark)
    )
    # Height and width differ, and the height is one size only: refused while the two are tied.
    profile = "x:1x16x32x48,1x16x32x64,1x16x32x128"
    words = ["--backend", "trt-rtx", "-o", str(tmp_path / "m.rtx"), "--profile", profile]
    assert main(["build", str(model), *words]) == 0, capsys.readouterr().err
    assert onnx.load(model).graph.input[0].type.tensor_type.shape.dim[2].dim_param == mark
    (given,) = json.loads((tmp_path / "m.rtx.json").read_text())["inputs"]
    assert given["shape"][1:] == [16, None, None]


def test_the_blocked_layout_of_onnx_runtime_is_refused_and_not_misread(tmp_path, capsys):
    """TensorRT for RTX looks at a node's type and not at its domain: it builds this Conv as ONNX's own."""
    pytest.importorskip("tensorrt_rtx")
    model = write(
        tmp_path / "m.onnx", [NODE("Conv", ["x", "w"], ["y"], domain="com.microsoft.nchwc")], {"w": ROWS}
    )
    proto = onnx.load(model)
    proto.opset_import.append(helper.make_opsetid("com.microsoft.nchwc", 1))
    onnx.save(proto, model)
    assert main(["build", str(model), "--backend", "trt-rtx", "-o", str(tmp_path / "m.rtx")]) == 4
    assert "Conv at Conv#0 in ONNX Runtime's blocked layout" in capsys.readouterr().err
    assert not (tmp_path / "m.rtx").exists()
