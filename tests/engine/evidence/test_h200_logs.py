"""Builds of TensorRT 8.6.0 on an H200: the verbose log against the inspector's JSON of the same engine, and cut logs."""

import gzip
from pathlib import Path

import pytest

from nm2trt.engine.evidence.build_log import parse_build_log
from nm2trt.engine.evidence.evidence import is_sparse_kernel
from nm2trt.engine.evidence.inspector_json import parse_layer_information

LOGS = Path(__file__).parent / "logs"
RUN = Path(__file__).parents[3] / "benchmarks/results/gpu/h200_second/trt"


def cut(name):
    return parse_build_log(
        (LOGS / f"trt_8_6_h200_{name}.log").read_text().splitlines(), builder="trt", version="8.6.0"
    )


def whole(name):
    log, layers = (
        gzip.decompress((RUN / f"{name}.flag_on.{x}.gz").read_bytes()).decode()
        for x in ("log", "layers.json")
    )
    return parse_build_log(log.splitlines(), builder="trt", version="8.6.0"), parse_layer_information(
        layers, version="8.6.0"
    )


def times(evidence):
    return {item.nodes[-2]: (item.sparse_ms, item.dense_ms) for item in evidence.autotuned}


def test_both_times_of_an_int8_layer():
    assert times(cut("int8")) == {
        "layer1.0.conv1": (0.0108752, 0.00883032),
        "layer1.0.conv2": (0.0118566, 0.0164592),
        "fc.bias": (None, 0.00644369),
    }


def test_a_float_output_is_listed_and_gets_no_sparse_kernel():
    found = cut("int8")
    (fc,) = [item for item in found.autotuned if "fc.weight" in item.nodes]
    assert fc.dense_only
    assert any(name.startswith("fc.weight + ") for name in found.eligible.layers)
    assert not any(name.startswith("fc.weight + ") for name in found.chosen.layers)


def test_a_dense_gemm_is_read_with_its_parameters():
    """The name is followed by numSplitK and others; without these lines a sparse convolution seems to be faster."""
    sparse, dense = times(cut("fp16"))["layer1.0.conv1"]
    assert (sparse, dense) == (0.00916295, 0.00906753)


def test_a_layer_that_the_cache_answers_for():
    int8, fp16 = cut("int8"), cut("fp16")
    assert set(int8.cached) >= {"layer1.1.conv2"}
    assert set(fp16.cached) >= {"layer3.1.conv3"}
    assert not {"layer1.0.conv2", "layer1.0.conv1"} & {*int8.cached, *fp16.cached}


def test_a_foreign_node_is_one_layer_without_a_sparse_tactic():
    found = cut("foreign_node")
    assert [layer.name for layer in found.layers] == [
        "{ForeignNode[words...(Unnamed Layer* 430) [Normalization]]}"
    ]
    assert (found.eligible.count, found.chosen.count) == (0, 0)


@pytest.mark.parametrize(
    ("name", "eligible", "chosen", "layers"),
    [
        ("conv-int8", 4, 0, 5),
        ("wide-int8", 4, 0, 9),
        ("minilm-fp16", 0, 0, 1),
        ("resnet50-fp16", 39, 17, 86),
        ("resnet50-int8", 53, 22, 62),
    ],
)
def test_the_log_and_the_inspector_agree(name, eligible, chosen, layers):
    log, inspected = whole(name)
    assert (log.eligible.count, log.chosen.count, len(log.layers), len(inspected.layers)) == (
        eligible,
        chosen,
        layers,
        layers,
    )
    sparse = {layer.name for layer in inspected.layers if is_sparse_kernel(layer.tactic)}
    assert set(log.chosen.layers) == sparse
    assert set(log.chosen.layers) <= set(log.eligible.layers)


@pytest.mark.parametrize("name", ["conv-int8", "wide-int8", "resnet50-fp16", "resnet50-int8"])
def test_a_sparse_kernel_is_chosen_where_it_was_timed_faster(name):
    """The oracle is the builder's own choice: a timing that is not read shows here as a choice against the times."""
    log, _ = whole(name)
    timed = {item.layer: item.speedup for item in log.autotuned if item.speedup is not None}
    against = {layer: ratio for layer, ratio in timed.items() if (ratio > 1) != (layer in log.chosen.layers)}
    assert against == {}
    assert len(timed) >= 1
