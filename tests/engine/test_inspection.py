"""inspect_engine: the kind, the header and whether the pair fits."""

import json

import pytest
from nets import conv_net

from nm2trt.backends import trt_rtx
from nm2trt.backends.options import BuildOptions
from nm2trt.engine.build import ModelFacts, build_engine
from nm2trt.engine.inspection import inspect_engine, is_engine
from nm2trt.errors import InputError
from nm2trt.manifest import manifest_path

pytest.importorskip("tensorrt_rtx")


@pytest.fixture
def engine(tmp_path):
    net = conv_net(tmp_path / "net.onnx")
    options = BuildOptions(targets=("sm86",))
    return build_engine(net, None, options, weights=(), facts=ModelFacts(), backend=trt_rtx.load()).engine


def test_kind_header_and_manifest_are_told(engine):
    info = inspect_engine(engine)
    assert info.kind.startswith("TensorRT for RTX plan: runs only in the TensorRT-RTX runtime")
    assert info.header.targets == ("sm86",)
    assert info.fit.status == "fits"
    assert json.loads(json.dumps(info.to_json()))["manifest"]["model"] == "net.onnx"


def test_an_engine_without_manifest_is_still_told(engine):
    manifest_path(engine).unlink()
    info = inspect_engine(engine)
    assert (info.fit.status, info.header.targets) == ("missing", ("sm86",))


def test_an_engine_that_is_not_the_manifest_s_is_told_apart(engine):
    data = bytearray(engine.read_bytes())
    data[-9] ^= 1
    engine.write_bytes(data)
    assert inspect_engine(engine).fit.status == "other"


def test_other_files_are_no_engines(engine):
    assert is_engine(engine)
    with pytest.raises(InputError, match=r"net\.onnx is no engine .* use nm2trt verify"):
        inspect_engine(engine.with_suffix(".onnx"))


def test_a_truncated_engine_is_damaged(engine):
    engine.write_bytes(engine.read_bytes()[:-100])
    with pytest.raises(InputError, match="is damaged: it has"):
        inspect_engine(engine)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.rtx does not exist"):
        inspect_engine(tmp_path / "gone.rtx")
