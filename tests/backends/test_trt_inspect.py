"""Loading a plan after the build: the inspector is asked on every build, and its silence costs a line of the log."""

import json

import pytest

from nm2trt.backends import _trt_shared, trt
from nm2trt.backends._trt_versions import row_of
from nm2trt.backends.options import BuildOptions
from nm2trt.backends.protocol import Engine
from nm2trt.engine.ladder.requirement import read_evidence
from tests.backends.gpu_double import Module

KERNEL = "sm80_xmma_fprop_sparse_conv_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x128x64_g1_sptensor16x8x32"
LAYERS = json.dumps(
    {"Layers": [{"Name": "conv0", "LayerType": "CaskConvolution", "TacticName": KERNEL}], "Bindings": []}
)


class Library(Module):
    """TensorRT's module as far as a plan is loaded and inspected; `text` is what the inspector says."""

    __version__ = "10.3.0"
    text = LAYERS

    class LayerInformationFormat:
        JSON = "json"

    class Runtime:
        def __init__(self, logger):
            self.logger = logger

        def deserialize_cuda_engine(self, data):
            if bytes(data) != b"plan":
                self.logger.log("Severity.ERROR", "no more room")
                return None
            return self

        def create_engine_inspector(self):
            return self

        def get_engine_information(self, kind):
            assert kind == "json"
            return Library.text


@pytest.fixture
def backend(monkeypatch):
    def build(library, network, options):
        return Engine(memoryview(b"plan" if network == "good" else b"bad"), ("verbose: built",), 1.0)

    monkeypatch.setattr(_trt_shared, "build", build)
    monkeypatch.setattr(_trt_shared, "own", lambda network: network)
    return trt.TrtBackend(Library())


def test_every_build_asks_the_inspector(backend):
    built = backend.build("good", BuildOptions())
    assert built.layers == LAYERS
    found = read_evidence(built.log, built.layers, builder=backend.name, version=backend.version)
    assert [layer.tactic for layer in found.layers] == [KERNEL]


def test_an_engine_that_does_not_load_again_is_built_all_the_same(backend):
    built = backend.build("bad", BuildOptions())
    assert built.layers == ""
    assert built.log[-1] == "warning: the engine could not be loaded again to be inspected: no more room"


def test_an_inspector_without_an_answer_is_told(monkeypatch):
    monkeypatch.setattr(Library, "text", "")
    library = _trt_shared.Library(Library(), "TensorRT 10.3.0", row_of("trt", "10.3.0"), lambda *_: None)
    assert trt._inspected(library, memoryview(b"plan")) == (
        "",
        "the inspector of TensorRT 10.3.0 says nothing of the engine",
    )
