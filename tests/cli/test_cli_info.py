"""`nm2trt info`: the kind first, then header and manifest."""

import json
import shutil

import pytest

from nm2trt.cli import main
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import Plan, PlanEntry
from tests.engine.nets import conv_net

pytest.importorskip("tensorrt_rtx")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    net = conv_net(tmp_path_factory.mktemp("built") / "net.onnx")
    assert main(["build", str(net), "--sparsity", "--target", "sm80"]) == 0
    return net.parent


@pytest.fixture
def engine(built, tmp_path, capsys):
    """Give an engine of the test's own, with its model and manifest beside it."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    capsys.readouterr()
    return tmp_path / "net.rtx"


def rows(text):
    return dict(line.split(maxsplit=1) for line in text.splitlines()[1:] if line.strip())


def test_the_kind_comes_first(engine, capsys):
    assert main(["info", str(engine)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith(
        f"{engine}: TensorRT for RTX plan: runs only in the TensorRT-RTX runtime"
    )
    told = rows(out)
    assert told["runs"].split() == ["on", "sm80"]
    assert told["manifest"].strip() == "net.rtx.json describes this very engine"
    assert told["sparsity"].strip() == "enable; 2 of 2 weights hold 2:4"
    assert told["profile"].strip() == "x: 1x16x8x8, 8x16x8x8, 32x16x8x8"


def test_json(engine, capsys):
    assert main(["info", str(engine), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == "fits"
    assert told["header"]["targets"] == ["sm80"]
    assert told["manifest"]["schema"] == 1


def test_a_manifest_of_another_engine_is_told(engine, capsys):
    data = bytearray(engine.read_bytes())
    data[200] ^= 1
    engine.write_bytes(data)
    assert main(["info", str(engine)]) == 0
    out = capsys.readouterr().out
    assert "net.rtx.json describes another engine than net.rtx; build it again" in out
    assert "sparsity" not in out


def test_the_header_of_an_unknown_version_is_not_guessed(engine, capsys):
    data = bytearray(engine.read_bytes())
    data[24:28] = bytes([9, 9, 9, 9])
    engine.write_bytes(data)
    assert main(["info", str(engine)]) == 0
    out = capsys.readouterr().out
    assert "TensorRT for RTX 9.9.9.9" in out
    assert "the layout of this version is unknown" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda path: path.write_bytes(path.read_bytes()[:-5]), "is damaged: it has", id="truncated"
        ),
        pytest.param(lambda path: path.write_bytes(b"vtrt"), "is cut short", id="header-only"),
        pytest.param(lambda path: path.write_bytes(b""), "is empty", id="empty"),
        pytest.param(lambda path: path.write_bytes(b"hello" * 99), "is neither an engine", id="neither"),
        pytest.param(lambda path: path.unlink(), "does not exist", id="missing"),
        pytest.param(
            lambda path: path.with_name("net.rtx.json").write_text("{"),
            "is damaged: it is not JSON",
            id="json",
        ),
    ],
)
def test_damaged_files_are_exit_2(engine, capsys, change, message):
    change(engine)
    assert main(["info", str(engine)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


PLAN = Plan((PlanEntry("w0", NMPattern(2, 4), "wide enough"), PlanEntry("w1", None, "excluded")), "sr-ste")


def test_an_onnx_file_is_told_with_its_plan(tmp_path, capsys):
    net = conv_net(tmp_path / "net.onnx", plan=PLAN)
    assert main(["info", str(net)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"{net}: ONNX model, opset 18"
    told = rows(out)
    assert told["input"].strip() == "x: float16 nx16x8x8"
    assert told["output"].strip() == "y: float16 nx16x8x8"
    assert told["plan"].strip() == "1 weight sparse, 1 dense on purpose (sr-ste)"


def test_an_onnx_file_as_json(tmp_path, capsys):
    assert main(["info", str(conv_net(tmp_path / "net.onnx")), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["opset"], told["nodes"]) == ("ONNX model", 18, 4)
    assert told["inputs"] == [{"name": "x", "dtype": "float16", "shape": ["n", 16, 8, 8]}]
    assert told["planned_sparse"] is None
