"""`nm2trt gain`: what would pay, on the right GPU; and a training run that keeps the rest dense."""

import json

import onnx
import pytest

import nm2trt
from nm2trt.cli import main
from nm2trt.errors import SparsifyError
from tests.engine.nets import conv_net

# Synthetic: no GPU ever took these times. Products of 16 x 16 channels, 3 x 3, on 8 x 8 places.
ROWS = [
    {"m": 64, "n": 16, "k": 144, "dtype": "float16", "dense_ms": 1.0, "sparse_ms": 2.0},
    {"m": 512, "n": 16, "k": 144, "dtype": "float16", "dense_ms": 3.0, "sparse_ms": 2.0},
    {"m": 64, "n": 16, "k": 144, "dtype": "int8", "dense_ms": 2.2, "sparse_ms": 2.0},
]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.json"
    device = {"name": "Synthetic GPU", "target": "sm86"}
    path.write_text(json.dumps({"schema": 1, "device": device, "versions": {}, "rows": ROWS}))
    return path


@pytest.fixture
def net(tmp_path):
    return conv_net(tmp_path / "net.onnx", sparse=False)


def report(capsys, *words):
    assert main(["gain", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "pays", "speedup"),
    [
        pytest.param([], "no", 0.5, id="batch-1"),
        pytest.param(["--shape", "x:8"], "yes", 1.5, id="batch-8"),
        pytest.param(["--as", "int8"], "yes", 1.1, id="int8"),
        pytest.param(["--as", "int8", "--at-least", "1.2"], "no", 1.1, id="a-higher-bar"),
        pytest.param(["--shape", "x:128"], "unknown", 1.5, id="extrapolated"),
    ],
)
def test_what_would_pay(net, table, capsys, words, pays, speedup):
    found = report(capsys, net, "--table", table, *words)
    assert [layer["pays"] for layer in found["layers"]] == [pays] * 2
    assert {layer["speedup"] for layer in found["layers"]} == {speedup}
    assert found["exclude"] == (["w0", "w1"] if pays == "no" else [])


def test_an_extrapolation_is_told(net, table, capsys):
    assert main(["gain", str(net), "--table", str(table), "--shape", "x:128"]) == 0
    captured = capsys.readouterr()
    assert (
        "extrapolated: 8192x16x144 is 16.0 times off the nearest one, 512x16x144 on Synthetic GPU"
        in captured.out
    )
    assert "2 of 2 layers are more than a factor of two" in captured.err


def test_whose_products_the_table_has_is_told(net, table, capsys):
    text = json.loads(table.read_text())
    table.write_text(json.dumps({**text, "versions": {"cusparselt": "800"}}))
    assert main(["gain", str(net), "--table", str(table), "--backend", "trt-rtx"]) == 0
    assert "TensorRT has kernels of its own" in capsys.readouterr().err


def test_a_grouped_convolution_pays_on_no_table(tmp_path, table, capsys):
    grouped = conv_net(tmp_path / "grouped.onnx", group=4)
    found = report(capsys, grouped, "--table", table)
    assert found["exclude"] == ["w0", "w1"]
    assert "groups is never given a sparse kernel" in found["layers"][0]["sentence"]


def test_a_shared_weight_is_excluded_only_where_it_pays_nowhere(tmp_path, table, capsys):
    # One convolution on 8 x 8 places, which pays at batch 8, and again on 2 x 2, for which no row is near.
    model = onnx.load(conv_net(tmp_path / "net.onnx", layers=1, sparse=False))
    model.graph.node.extend(
        [
            onnx.helper.make_node("MaxPool", ["y"], ["small"], kernel_shape=[4, 4], strides=[4, 4]),
            onnx.helper.make_node("Conv", ["small", "w0"], ["again"], name="again", pads=[1] * 4),
        ]
    )
    model.graph.output.append(onnx.helper.make_tensor_value_info("again", 10, ["n", 16, 2, 2]))
    onnx.save(model, tmp_path / "tied.onnx")
    data = json.loads(table.read_text())
    data["rows"].append({"m": 32, "n": 16, "k": 144, "dtype": "float16", "dense_ms": 1.0, "sparse_ms": 2.0})
    table.write_text(json.dumps(data))
    found = report(capsys, tmp_path / "tied.onnx", "--table", table, "--shape", "x:8")
    assert [layer["pays"] for layer in found["layers"]] == ["yes", "no"]
    assert found["exclude"] == []


def test_the_table_says_nothing_of_a_transposed_convolution(tmp_path, table, capsys):
    model = onnx.load(conv_net(tmp_path / "net.onnx", layers=1, sparse=False))
    model.graph.node[0].op_type = "ConvTranspose"
    onnx.save(model, tmp_path / "up.onnx")
    (layer,) = report(capsys, tmp_path / "up.onnx", "--table", table)["layers"]
    assert (layer["pays"], layer["speedup"]) == ("unknown", None)
    assert "nothing says that ConvTranspose has sparse kernels" in layer["sentence"]


def test_the_device_is_told_where_no_gpu_is(net, table, capsys):
    assert main(["gain", str(net), "--table", str(table)]) == 0
    assert "the table was measured on Synthetic GPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "note"), [("synthetic gpu", ""), ("sm86", "other GPUs of sm86 may gain more or less")]
)
def test_the_device_may_be_named(net, table, capsys, device, note):
    assert main(["gain", str(net), "--table", str(table), "--device", device]) == 0
    assert note in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--device", "NVIDIA L4"],
            "was measured on Synthetic GPU (sm86), the model is for NVIDIA L4; measure a table there",
        ),
        (["--table", "none.json"], "none.json does not exist; give the path of a gain table"),
        (["--as", "bf16"], "has no rows of bfloat16; it has float16, int8"),
        (["--at-least", "-1"], "--at-least -1 is out of range; give a number over 0"),
        (["--shape", "z:8"], "names input 'z'; the model's inputs are 'x'"),
        (["--shape", "x:8x3"], "rank"),
    ],
)
def test_bad_input(net, table, capsys, words, message):
    assert main(["gain", str(net), "--table", str(table), *words]) == 2
    assert message in capsys.readouterr().err


def two_layers():
    nn = pytest.importorskip("torch.nn")
    return nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))


def test_layers_that_would_not_pay_stay_dense(tmp_path):
    path = tmp_path / "gain.json"
    layers = [
        {"weight": "0.weight", "sentence": "0.50x in float16"},
        {"weight": "1.weight", "sentence": "1.5x"},
    ]
    path.write_text(json.dumps({"schema": 1, "exclude": ["0.weight"], "layers": layers}))
    model = two_layers()
    plan = nm2trt.sparsify(model, method="magnitude", gain=path).plan
    assert [entry.pattern is None for entry in plan] == [True, False]
    assert plan.get("0.weight").reason == "2:4 would not pay: 0.50x in float16"


def test_a_layer_named_in_full_is_sparse_all_the_same(tmp_path):
    path = tmp_path / "gain.json"
    path.write_text(
        json.dumps(
            {"schema": 1, "exclude": ["0.weight"], "layers": [{"weight": "0.weight", "sentence": "no"}]}
        )
    )
    model = two_layers()
    assert len(nm2trt.sparsify(model, method="magnitude", gain=path, include=["0", "1"]).plan.sparse) == 2


def test_a_report_of_another_model(tmp_path):
    path = tmp_path / "gain.json"
    path.write_text(
        json.dumps({"schema": 1, "exclude": ["other"], "layers": [{"weight": "other", "sentence": "no"}]})
    )
    with pytest.raises(
        SparsifyError, match=r"gain: none of its weights, first 'other', is one of the model's"
    ):
        nm2trt.sparsify(two_layers(), method="magnitude", gain=path)


def test_the_name_of_a_device_cannot_repaint_the_terminal(net, table, capsys):
    data = json.loads(table.read_text())
    table.write_text(json.dumps({**data, "device": {"name": "\x1b[31mGPU", "target": "sm86"}}))
    assert main(["gain", str(net), "--table", str(table)]) == 0
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "\\x1b[31mGPU" in captured.out
