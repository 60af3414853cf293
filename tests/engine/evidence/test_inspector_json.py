"""The inspector's JSON by version, and engines that were built without detailed verbosity."""

import gzip
import json
import re
from pathlib import Path

import pytest

from nm2trt.engine.evidence.evidence import is_sparse_kernel
from nm2trt.engine.evidence.inspector_json import parse_layer_information
from nm2trt.errors import InputError

DENSE = "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x64x32"
SPARSE = "sm80_xmma_fprop_sparse_conv_i8i8_i8i32_f32_nhwckrsc_nhwc_tilesize128x64x128_sptensor16x8x64"

# NVIDIA/TensorRT issue 4020, TensorRT 8.6 to 10: keys and order as there, shortened. The weights are called
# sparse, the kernel is a dense one.
ISSUE_4020 = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to conv0 + relu0",
            "LayerType": "Reformat",
            "Inputs": [{"Name": "data", "Location": "Device", "Dimensions": [1, 3, 224, 224],
                        "Format/Datatype": "Row major linear FP32"}],
            "ParameterType": "Reformat",
            "TacticValue": "0x00000000000003e8",
            "Metadata": "",
        },
        {
            "Name": "dense0_fwd",
            "LayerType": "CaskConvolution",
            "ParameterType": "Convolution",
            "Kernel": [1, 1],
            "Groups": 1,
            "HasSparseWeights": 1,
            "HasDynamicFilter": 0,
            "Activation": "NONE",
            "TacticName": "sm70_xmma_fprop_conv1x1_i8f32_f32_f32_nchw_vect_c_4kcrs_vect_c_4_nchw_simt_small_batch",
            "TacticValue": "0xc073b0053ce90eac",
            "StreamId": 0,
            "Metadata": "[ONNX Layer: dense0_fwd]",
        },
    ],
    "Bindings": ["data", "dense0_fwd"],
}  # fmt: skip

# NVIDIA/TensorRT issue 4056: a fused convolution, here with a sparse kernel.
ISSUE_4056 = {
    "Layers": [
        {
            "Name": "Conv_276 + Add_277 + Relu_278",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "onnx::Conv_1244", "Location": "Device", "Dimensions": [2, 160, 16, 30],
                        "Format/Datatype": "Channel major FP16 format where channel % 16 == 0"}],
            "ParameterType": "Convolution",
            "HasSparseWeights": 1,
            "TacticName": SPARSE,
        }
    ],
    "Bindings": ["input", "output"],
}  # fmt: skip

# TensorRT 11: `Bindings` became `I/O Tensors`, format and type stand apart (migration guide from 10 to 11).
ELEVEN = {
    "Layers": [
        {
            "Name": "/fc/MatMul_myl0_1",
            "LayerType": "gemm",
            "Inputs": [
                {"Name": "x", "Dimensions": [8, 64], "Format": "Row major linear format", "DataType": "Half"}
            ],
            "TacticName": "sm80_xmma_gemm_f16f16_f16f16_f16_nn_n_tilesize64x64x64",
            "Metadata": "[ONNX Layer: /fc/MatMul]\x1f[ONNX Layer: /fc/Add]",
        }
    ],
    "I/O Tensors": [{"Name": "x", "IOMode": "Input", "DataType": "Half", "Dimensions": [8, 64]}],
}


def read(data, **where):
    return parse_layer_information(json.dumps(data), **where)


def test_sparse_weights_beside_a_dense_kernel():
    reformat, dense = read(ISSUE_4020, version="8.6.1").layers
    assert not reformat.computes
    assert (dense.nodes, dense.sparse_weights) == (("dense0_fwd",), True)
    assert dense.tactic.startswith("sm70_xmma_fprop_conv1x1")


def test_nodes_of_a_fused_layer():
    (layer,) = read(ISSUE_4056, version="10.3").layers
    assert layer.nodes == ("Conv_276", "Add_277", "Relu_278")
    assert layer.tactic == SPARSE


def test_tensorrt_11():
    (layer,) = read(ELEVEN).layers
    assert (layer.nodes, layer.kind, layer.sparse_weights) == (("/fc/MatMul", "/fc/Add"), "gemm", None)


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param(["conv0 + relu0", "fc"], id="names"),
        pytest.param([{"Name": "conv0 + relu0"}, {"Name": "fc"}], id="records-of-names"),
    ],
)
def test_an_engine_without_detailed_verbosity(layers):
    found = read({"Layers": layers, "Bindings": ["x", "y"]}, version="10.1")
    (note,) = found.notes
    assert "without detailed profiling verbosity" in note
    assert "nm2trt build" in note


@pytest.mark.parametrize(
    ("data", "version", "named"),
    [
        pytest.param(
            {"Layers": []}, "", "does not say which version wrote it; name it with --version", id="none"
        ),
        pytest.param(ELEVEN, "12.0", "12.0, whose wording .* nothing was read", id="later"),
    ],
)
def test_of_an_unknown_version_nothing_is_read(data, version, named):
    found = read(data, version=version)
    assert found.layers == ()
    assert re.search(named, found.notes[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "no list of Layers"),
        ('{"Layers": 3}', "no list of Layers"),
        ("[" * 100_000, "is not JSON"),
    ],
    ids=["cut-short", "list", "number", "deep"],
)
def test_what_is_no_layer_information(text, message):
    with pytest.raises(InputError, match=message):
        parse_layer_information(text)


@pytest.mark.parametrize("twin", ["dense", "flag_off", "flag_on"])
def test_what_tensorrt_8_6_wrote_on_a_gpu(twin):
    """Metadata parts the names of a fused layer by a bare control character, which strict JSON forbids."""
    path = Path(__file__).parents[3] / f"benchmarks/results/gpu/h200/trt/conv-fp16.{twin}.layers.json.gz"
    found = parse_layer_information(gzip.decompress(path.read_bytes()).decode(), version="8.6.0")
    convolutions = [
        layer for layer in found.layers if "conv" in layer.name and "Reformatting" not in layer.name
    ]
    assert [layer.name for layer in convolutions] == [f"conv{i} + relu{i}" for i in range(4)]
    assert all("fprop_implicit_gemm_f16f16" in layer.tactic for layer in convolutions)
    assert not any(is_sparse_kernel(layer.tactic) for layer in convolutions)
    assert not found.notes


def test_of_several_profiles_the_first_is_looked_at():
    """TensorRT 8 lists the layers of every profile; `prove` times the first, and --require-sparse gates it."""
    layer = ISSUE_4056["Layers"][0]
    dense = {**layer, "TacticName": DENSE}
    later = {**layer, "Name": f"{layer['Name']} [profile 1]"}
    found = parse_layer_information(json.dumps({"Layers": [dense, later], "Bindings": []}), version="8.6.0")
    assert [record.tactic for record in found.layers] == [DENSE]
    assert found.notes == (
        "the engine has kernels for each profile; those of the first are looked at, and may differ from others",
    )
