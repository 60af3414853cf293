"""Tactic timings and layers of 8.x and 10.x: the log is written by hand in the wording of 8.6.0's own strings."""

from pathlib import Path

import pytest

from nm2trt.engine.evidence.build_log import parse_build_log
from nm2trt.engine.evidence.evidence import Evidence, is_sparse_kernel
from nm2trt.engine.ladder.builder_rungs import asked, gained

LOG = (Path(__file__).parent / "logs" / "trt_8_6_conv.log").read_text()

# The wording of 8.0 to 8.4, quoted with other names from public logs of 8.2: a kernel's name comes first, its time on the next line.
EARLIER = """\
[V] [TRT] --------------- Timing Runner: fc (CaskGemmConvolution)
[V] [TRT] fc Set Tactic Name: sm80_xmma_gemm_f16f16_f16f16_f16_tn_n_tilesize128x64x32_stage4 Tactic: 0x4c17dc9d992e6a1d
[V] [TRT] Tactic: 0x4c17dc9d992e6a1d Time: 0.0231476
[V] [TRT] fc Set Tactic Name: sm80_xmma_sparse_gemm_f16f16_f16f32_f32_tn_n_tilesize128x64x64_stage3 Tactic: 0xc399fdbffdc34032
[V] [TRT] Tactic: 0xc399fdbffdc34032 Time: 0.0162451
[V] [TRT] Fastest Tactic: 0xc399fdbffdc34032 Time: 0.0162451
[V] [TRT] >>>>>>>>>>>>>>> Chose Runner Type: CaskGemmConvolution Tactic: 0xc399fdbffdc34032
[V] [TRT] Engine Layer Information:
Layer(CaskGemmConvolution): fc, Tactic: 0xc399fdbffdc34032, x[Half(8,64,1,1)] -> y[Half(8,64,1,1)]"""


def read(text, version="8.6.1"):
    return parse_build_log(text.splitlines(), builder="trt", version=version)


@pytest.mark.parametrize("version", ["8.6.0", "10.4.0"])
def test_both_times_of_every_layer_are_read(version):
    timed = {item.layer: item for item in read(LOG, version).autotuned}
    assert set(timed) == {"conv0 + relu0", "conv1 + relu1"}, "reformatting is not a product"
    assert timed["conv0 + relu0"].nodes == ("conv0", "relu0")
    assert (timed["conv0 + relu0"].dense_ms, timed["conv0 + relu0"].sparse_ms) == (0.0521752, 0.0401211)
    assert (timed["conv1 + relu1"].dense_ms, timed["conv1 + relu1"].sparse_ms) == (0.01, 0.0125)


def test_every_layer_has_its_tactic():
    kernels = {layer.name: layer.tactic for layer in read(LOG).layers if layer.multiplies}
    assert is_sparse_kernel(kernels["conv0 + relu0"])
    assert kernels["conv1 + relu1"].startswith("sm80_xmma_fprop_implicit_gemm")


def test_the_rungs_follow_without_the_sparsity_lines():
    lines = "\n".join(line for line in LOG.splitlines() if "(Sparsity)" not in line)
    found = read(lines)
    assert found.chosen is None
    assert asked("conv0", found).answer == "yes"
    assert "sparse_conv" in asked("conv0", found).detail
    assert asked("conv1", found).answer == "no"
    assert (gained("conv0", found).answer, gained("conv0", found).detail[:5]) == ("yes", "1.30x")
    assert gained("conv1", found).answer == "no"


def test_the_wording_before_8_5():
    found = read(EARLIER, "8.2.1")
    (timed,), (layer,) = found.autotuned, found.layers
    assert (timed.dense_ms, timed.sparse_ms) == (0.0231476, 0.0162451)
    assert is_sparse_kernel(layer.tactic)


def test_a_layer_that_the_timing_cache_answered_takes_the_kernel_of_the_same_tactic():
    lines = LOG.splitlines()
    begin = next(i for i, line in enumerate(lines) if "Computing costs for conv1" in line)
    end = next(i for i, line in enumerate(lines) if i > begin and "Chose Runner" in line)
    found = read("\n".join(lines[:begin] + lines[end + 1 :]))
    (layer,) = [layer for layer in found.layers if layer.name == "conv1 + relu1"]
    assert layer.tactic.startswith("sm80_xmma_fprop_implicit_gemm")
    assert gained("conv1", found).answer == "not measured"


def test_a_tactic_that_nobody_named_proves_nothing():
    found = read("[V] Engine Layer Information:\nLayer(CaskConvolution): conv0, Tactic: 0x1, x -> y")
    assert [(layer.name, layer.tactic) for layer in found.layers] == [("conv0", "")]
    assert asked("conv0", found).answer == "not measured"
    assert asked("conv0", Evidence()).answer == "not measured"


def test_one_tactic_with_two_kernels_is_not_guessed():
    text = LOG.replace("Layer(CaskConvolution): conv1 + relu1", "Layer(CaskConvolution): conv9").replace(
        "tilesize128x128x32_stage4_warpsize2x2x1_g1_tensor16x8x16 Tactic: 0x5deb29b7a8e275f7 Time: 0.0100000",
        "another Tactic: 0x5deb29b7a8e275f7 Time: 0.0100000",
    )
    assert {layer.name: layer.tactic for layer in read(text).layers}["conv9"] == ""


def test_timings_and_layers_of_later_profiles_change_nothing():
    """The two layers and their timings once more, named as those of a second profile, the winners exchanged."""
    later = LOG.replace("conv1 + relu1", "conv2 + relu2").replace(
        "conv0 + relu0", "conv1 + relu1 [profile 1]"
    )
    later = later.replace("conv2 + relu2", "conv0 + relu0 [profile 1]")
    both = read(f"{LOG}\n{later}")
    assert both.layers == read(LOG).layers
    assert both.autotuned == read(LOG).autotuned
