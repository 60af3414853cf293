"""From an engine's layers back to ONNX nodes."""

import pytest

from nm2trt.engine.evidence.layer_names import is_region, onnx_nodes


@pytest.mark.parametrize(
    ("name", "metadata", "nodes"),
    [
        pytest.param("conv1", "", ("conv1",), id="plain"),
        pytest.param("Conv_276 + Add_277 + Relu_278", "", ("Conv_276", "Add_277", "Relu_278"), id="fused"),
        pytest.param("q_proj || k_proj + bias_k", "", ("q_proj", "k_proj", "bias_k"), id="side-by-side"),
        pytest.param("PWN(PWN(relu_1), add_1)", "", ("relu_1", "add_1"), id="point-wise"),
        pytest.param(
            "{ForeignNode[/a/MatMul.../b/Add]}", "", ("/a/MatMul", "/b/Add"), id="region-names-its-ends"
        ),
        pytest.param("conv0_myl0_1", "", ("conv0",), id="myelin-suffix"),
        pytest.param("Conv_1 + Relu_2 [profile 12]", "", ("Conv_1", "Relu_2"), id="of-a-profile"),
        pytest.param("__myl_FcCastAddErf_myl0_3", "", (), id="myelin-own-name"),
        pytest.param("Reformatting CopyNode for Input Tensor 0 to conv1", "", (), id="reformat"),
        pytest.param("(Unnamed Layer* 3) [Convolution]", "", (), id="unnamed"),
        pytest.param(
            "__myl_FcAdd_myl0_3",
            "[ONNX Layer: /fc/MatMul]\x1f[ONNX Layer: /fc/Add]\x1e[ONNX Layer: /act/Relu]",
            ("/fc/MatMul", "/fc/Add", "/act/Relu"),
            id="metadata-with-separators",
        ),
        pytest.param("x", "[ONNX Layer: q][ONNX Layer: k]", ("q", "k"), id="metadata-without-separators"),
        pytest.param("x", "[ONNX Layer: a[0]]", ("a[0]",), id="bracket-in-a-name"),
    ],
)
def test_nodes_of_a_layer(name, metadata, nodes):
    assert onnx_nodes(name, metadata) == nodes


def test_a_region_hides_what_lies_between_its_ends():
    assert is_region("{ForeignNode[a...b]}")
    assert not is_region("a + b")
