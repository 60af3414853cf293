"""--require-sparse: refused where it cannot be known, failed where too little runs sparse."""

import dataclasses

import pytest

from nm2trt.backends import trt_rtx
from nm2trt.backends.options import BuildOptions
from nm2trt.backends.protocol import Engine
from nm2trt.engine.build import ModelFacts, build_engine
from nm2trt.engine.ladder.requirement import TooFewSparseError, read_evidence
from tests.engine.ladder.test_ladder import DENSE, HOLDS, SPARSE, verdict


class OnAGpu:
    """TensorRT as it would be on a GPU: what it builds is TensorRT for RTX's, its log is planted."""

    name, kind, suffix, version, has_profiles = "trt", "TensorRT engine", ".engine", "10.14.1", True

    def __init__(self, *log, layers=""):
        self.real, self.log, self.layers = trt_rtx.load(), log, layers

    def __getattr__(self, name):
        return getattr(self.real, name)

    def build(self, network, options):
        return Engine(memoryview(b"an engine"), self.log, 1.0, self.layers)


def chose(*names):
    return (
        "verbose: (Sparsity) Found 2 layer(s) eligible to use sparse tactics: conv0 + relu0, conv1 + relu1",
        f"verbose: (Sparsity) Chose {len(names)} layer(s) using sparse tactics: {', '.join(names)}",
    )


@pytest.fixture
def net(tmp_path):
    from tests.engine.nets import conv_net

    return conv_net(tmp_path / "net.onnx")


WEIGHTS = (verdict(macs=300), verdict(macs=100, weight="w1", node="conv1"))


def build(net, backend, *, require=0.8, weights=WEIGHTS, **options):
    return build_engine(
        net,
        options=BuildOptions(**{"sparsity": "enable", **options}),
        weights=weights,
        facts=ModelFacts("m" * 64),
        backend=backend,
        require_sparse=require,
    )


def test_enough_runs_sparse(net):
    result = build(net, OnAGpu(*chose("conv0 + relu0")), require=0.75)
    assert result.engine.read_bytes() == b"an engine"
    assert [row.chosen.answer for row in result.ladder] == ["yes", "no"]


def test_too_little_runs_sparse(net):
    with pytest.raises(
        TooFewSparseError, match=r"75.0 % of the eligible work runs sparse kernels, 80 % is required"
    ) as caught:
        build(net, OnAGpu(*chose("conv0 + relu0")))
    assert caught.value.exit_status == 3
    assert [row.chosen.answer for row in caught.value.ladder] == ["yes", "no"]
    assert [path.name for path in net.parent.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    ("log", "layers", "why"),
    [
        pytest.param(("info: nothing of sparsity",), "", "has no .Sparsity. line", id="no-line"),
        pytest.param(
            chose("conv0 + relu0")[:1],
            '{"Layers": ["conv0", "conv1"], "Bindings": []}',
            "without detailed profiling verbosity",
            id="no-detailed-verbosity",
        ),
    ],
)
def test_what_cannot_be_known_fails(net, log, layers, why):
    with pytest.raises(TooFewSparseError, match=f"cannot be known here.*{why}.*no engine was written"):
        build(net, OnAGpu(*log, layers=layers))
    assert [path.name for path in net.parent.iterdir()] == ["net.onnx"]


def test_a_log_of_an_unknown_version_fails(net):
    backend = OnAGpu(*chose("conv0 + relu0", "conv1 + relu1"))
    backend.version = "12.3"
    with pytest.raises(TooFewSparseError, match=r"of TensorRT 12.3, whose wording.*nothing was read from it"):
        build(net, backend)


def test_what_could_not_be_read_is_told_without_the_gate_too(net):
    backend = OnAGpu(*chose("conv0 + relu0"))
    backend.version = "12.3"
    assert any(
        "wording this release of nm2trt does not know" in note
        for note in build(net, backend, require=None).notes
    )


def test_ahead_of_time_can_never_know(net):
    with pytest.raises(TooFewSparseError, match="can never be answered by an ahead-of-time build"):
        build(net, trt_rtx.load())


def test_without_sparsity_there_is_nothing_to_require(net):
    with pytest.raises(TooFewSparseError, match="--require-sparse needs --sparsity"):
        build(net, OnAGpu(), sparsity="disable")


def test_inspector_and_log_are_read_together():
    layers = (
        f'{{"Layers": [{{"Name": "conv0", "LayerType": "CaskConvolution", "TacticName": "{SPARSE}"}},'
        f'{{"Name": "conv1", "LayerType": "CaskConvolution", "TacticName": "{DENSE}"}}], "Bindings": []}}'
    )
    found = read_evidence(chose("conv0"), layers, builder=OnAGpu.name, version=OnAGpu.version)
    assert (found.eligible.count, found.chosen.count, len(found.layers)) == (2, 1, 2)


def test_work_counts_at_the_optimum_profile(net):
    seen = {}

    def at_shapes(shapes):
        seen.update(shapes)
        return [dataclasses.replace(HOLDS, macs=1000)]

    result = build_engine(
        net,
        options=BuildOptions(sparsity="enable"),
        weights=[HOLDS],
        facts=ModelFacts(),
        backend=trt_rtx.load(),
        dry_run=True,
        at_shapes=at_shapes,
    )
    assert seen == {"x": (8, 16, 8, 8)}
    assert (result.forecast.macs, result.forecast.holding) == (1000, 1000)
    assert result.forecast.eligible == 0  # fp16 has no named sparse kernel in TensorRT for RTX on sm80
