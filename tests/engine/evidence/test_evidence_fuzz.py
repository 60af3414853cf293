"""Whatever text is given as a log, a layer information or a trace: evidence, or one sentence."""

import json

import pytest

from nm2trt.engine.evidence.build_log import identify_log, parse_build_log
from nm2trt.engine.evidence.evidence import Evidence
from nm2trt.engine.evidence.inspector_json import parse_layer_information
from nm2trt.engine.evidence.kernel_trace import parse_kernel_trace
from nm2trt.engine.evidence.layer_names import onnx_nodes
from nm2trt.errors import InputError

hypothesis = pytest.importorskip("hypothesis")
given, st = hypothesis.given, hypothesis.strategies

PIECES = st.sampled_from(
    ["(Sparsity) Found ", "3", " layer(s) eligible to use sparse tactics", ":", "Chose ", " layer(s) using sparse tactics",
     "(Sparsity) Layers eligible for sparse math:", " a + b", ", ", "Autotuning op x(key: 0x1)", "Layers:", "Name: c",
     ", LayerType: gemm", ", TacticName: k", ", Metadata: [ONNX Layer: a]", "\n", "[V] [TRT] ", "(", ")", "PWN(", "  1, 0.5, 1, 1, k, 0x2,"]
)  # fmt: skip
# What a file can hold; asking the codec about each of a million characters would take a second.
ANY = st.characters(exclude_categories=["Cs"])
TEXTS = st.one_of(st.text(ANY, max_size=200), st.lists(PIECES, max_size=40).map("".join))
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(ANY, max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["Layers", "Name", "LayerType", "TacticName", "Metadata", "HasSparseWeights", "Bindings", "I/O Tensors",
                         "traceEvents", "cat", "name", "dur", "kernel"]), inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


@given(TEXTS)
def test_any_log(text):
    found = parse_build_log(text.splitlines(), builder="trt", version="10.14")
    assert isinstance(found, Evidence)
    for named in (found.eligible, found.chosen):
        assert named is None or named.layers is None or len(named.layers) == named.count
    identify_log(text.splitlines())
    onnx_nodes(text, text)


def read(parse, text):
    """What a parser makes of a text: evidence, or its one sentence."""
    try:
        return parse(text)
    except InputError as error:
        return str(error)


@given(st.one_of(TEXTS, VALUES.map(json.dumps)))
def test_any_layer_information(text):
    found = read(parse_layer_information, text)
    assert isinstance(found, Evidence) or "layer information" in found


@given(st.one_of(TEXTS, VALUES.map(json.dumps), TEXTS.map(lambda text: f"Total Time (ns),Name\n{text}")))
def test_any_trace(text):
    found = read(parse_kernel_trace, text)
    assert "trace" in found if isinstance(found, str) else found.kernels


def test_a_name_nested_too_deep_names_nothing():
    assert onnx_nodes("PWN(" * 100_000 + "a" + ")" * 100_000) in (
        (),
        ("PWN(" * 100_000 + "a" + ")" * 100_000,),
    )


def test_a_long_log_takes_no_longer_than_its_length():
    constants = "{ Name: w, Dimensions: [64,64] }, " * 20_000
    line = f"verbose: Layers:\nName: conv_myl0_1, LayerType: gemm, Constants: [{constants}], TacticName: k, Metadata: "
    (layer,) = parse_build_log([line + "[ONNX Layer: conv]"], builder="trt", version="10.14").layers
    assert (layer.tactic, layer.nodes) == ("k", ("conv",))
    assert parse_build_log([constants * 2], builder="trt", version="10.14").layers == ()


def test_a_field_too_long_for_a_table():
    with pytest.raises(InputError, match=r"trace's table cannot be read .* write it again with nsys stats"):
        parse_kernel_trace("Total Time (ns),Name\n1," + "k" * 200_000)


@pytest.mark.parametrize(
    "text",
    [
        "[ONNX Layer: " * 100_000,
        "{ForeignNode[" + "..." * 100_000,
        "Autotuning op " * 100_000,
        "Name: " * 100_000 + ", TacticName: " * 100_000,
    ],
    ids=["metadata", "region", "autotuning", "layer"],
)
def test_no_text_takes_longer_than_its_length(text):
    onnx_nodes(text, text)
    parse_build_log([text], builder="trt", version="10.14")
