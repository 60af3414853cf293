"""inspect_engine: the kind, the header and whether the pair fits."""

import json
import re
import shutil

import pytest

from nm2trt.backends import trt_rtx
from nm2trt.backends.choice import load_backend
from nm2trt.backends.cuda import Gpu
from nm2trt.backends.options import BuildOptions
from nm2trt.engine import inspection
from nm2trt.engine.build import ModelFacts, build_engine
from nm2trt.engine.inspection import inspect_engine, is_engine
from nm2trt.errors import InputError
from nm2trt.manifest import manifest_path
from tests.engine.nets import conv_net
from tests.pairs import write_pair
from tests.test_manifest import manifest_of

pytest.importorskip("tensorrt_rtx")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    net = conv_net(tmp_path_factory.mktemp("built") / "net.onnx")
    options = BuildOptions(targets=("sm86",))
    return build_engine(net, None, options, weights=(), facts=ModelFacts(), backend=trt_rtx.load()).engine


@pytest.fixture
def engine(built, tmp_path):
    """Give an engine of the test's own, with its model and manifest beside it."""
    shutil.copytree(built.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / built.name


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


@pytest.fixture
def trt_engine(tmp_path):
    """A file with the head of an engine of TensorRT 8.6.0 and a manifest; no GPU made it."""
    path = tmp_path / "net.engine"
    data = b"ftrt" + bytes(20) + bytes([8, 6, 0, 12]) + bytes(200)
    manifest = manifest_of(data, backend="trt", targets=("sm87",), device="Orin")
    write_pair(path, data, manifest)
    return path


def test_a_tensorrt_engine_says_its_version(trt_engine):
    info = inspect_engine(trt_engine)
    assert info.kind.startswith("TensorRT engine: runs in the TensorRT version that built it")
    assert (info.backend, info.header.version, info.fit.status) == ("trt", "8.6.0.12", "fits")
    assert json.loads(json.dumps(info.to_json()))["manifest"]["device"] == "Orin"


def test_a_layout_that_was_never_seen_is_not_read(trt_engine):
    data = bytearray(trt_engine.read_bytes())
    data[4] = 1
    trt_engine.write_bytes(data)
    assert inspect_engine(trt_engine).header.version is None


def test_a_truncated_tensorrt_engine_is_told_by_its_manifest(trt_engine):
    trt_engine.write_bytes(trt_engine.read_bytes()[:100])
    fit = inspect_engine(trt_engine).fit
    assert fit.status == "other"
    assert "net.engine has 100 bytes, but net.engine.json says 228: it is cut short" in fit.sentence
    trt_engine.write_bytes(trt_engine.read_bytes()[:20])
    with pytest.raises(InputError, match="is cut short: 20 bytes are less than an engine's header"):
        inspect_engine(trt_engine)


@pytest.mark.parametrize(
    ("installed", "gpus", "here"),
    [
        pytest.param(None, (), "TensorRT is not installed", id="no-library"),
        pytest.param("", (), "TensorRT is here, and its package does not tell its version", id="no-version"),
        pytest.param(
            "10.3.0", (), "built by TensorRT 8.6.0.12, here is 10.3.0: build it again", id="version"
        ),
        pytest.param("8.6.0", (), "no GPU to load it: no driver", id="no-gpu"),
        pytest.param("8.6.0.post1", (), "no GPU to load it: no driver", id="packed-again"),
        pytest.param(
            "8.6.0", (Gpu("A", "sm86", True),), "built for sm87, the GPU here is sm86", id="architecture"
        ),
        pytest.param("8.6.0", (Gpu("O", "sm87", True),), r"version and GPU \(O, sm87\) are those", id="fits"),
    ],
)
def test_what_speaks_against_loading_it_here(trt_engine, monkeypatch, installed, gpus, here):
    monkeypatch.setattr(
        inspection.importlib.util, "find_spec", lambda _: None if installed is None else object()
    )
    monkeypatch.setattr(inspection, "library_version", lambda _: installed)
    monkeypatch.setattr(inspection, "probe_gpus", lambda: (gpus, "no driver"))
    assert re.match(here, inspect_engine(trt_engine).here)


def test_an_onnx_runtime_model_is_an_engine_too(tmp_path):
    pytest.importorskip("onnxruntime")
    net = conv_net(tmp_path / "net.onnx")
    built = build_engine(
        net, None, BuildOptions(), weights=(), facts=ModelFacts(), backend=load_backend("ort")
    )
    info = inspect_engine(built.engine)
    assert (info.backend, info.header, info.fit.status) == ("ort", None, "fits")
    assert "is here and runs it on the CPU" in info.here


def test_other_files_are_no_engines(engine):
    assert is_engine(engine)
    with pytest.raises(InputError, match=r"net\.onnx is not an engine .* use nm2trt verify"):
        inspect_engine(engine.with_suffix(".onnx"))


def test_a_truncated_engine_is_damaged(engine):
    engine.write_bytes(engine.read_bytes()[:-100])
    with pytest.raises(InputError, match="is damaged: it has"):
        inspect_engine(engine)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.rtx does not exist"):
        inspect_engine(tmp_path / "gone.rtx")
