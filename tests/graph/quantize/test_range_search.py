"""quantize --max-loss: which ranges are chosen, which layers stay in float, and what is refused."""

import json

import numpy as np
import onnx
import pytest

import nm2trt
from nm2trt.backends.ort import open_onnx
from nm2trt.calibration.stream import open_sample_stream
from nm2trt.cli import main
from nm2trt.errors import InputError
from nm2trt.graph.quantize.held_out_trials import first_samples, split
from nm2trt.graph.verify.verify_model import verify_model
from tests.graph.qdq_nets import Builder

CLASSES, CHANNELS = 10, 16


def sharp_net():
    """Three products, of which the middle one takes channels of very different sizes: one scale hides most."""
    b = Builder()
    sizes = np.float32(10.0 ** np.linspace(-3, 3, CHANNELS))
    x = b.node("Relu", [b.conv("x", "first", 8, CHANNELS)], "r1")
    x = b.node("Mul", [x, b.constant("sizes", sizes.reshape(1, -1, 1, 1))], "spread")
    w = b.weight("middle.weight", CHANNELS, CHANNELS, 1, 1)
    array = onnx.numpy_helper.to_array(b.weights[-1]) / sizes.reshape(1, -1, 1, 1)
    b.weights[-1].CopyFrom(onnx.numpy_helper.from_array(array, w))
    x = b.node("Relu", [b.node("Conv", [x, w], "middle")], "r2")
    x = b.node("Relu", [b.conv(x, "third", CHANNELS, CHANNELS)], "r3")
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x], "mean")], "flat")
    return b.model(b.node("Gemm", [x, b.weight("fc.weight", CLASSES, CHANNELS)], "y", transB=1))


@pytest.fixture
def folder(tmp_path):
    onnx.save(sharp_net(), tmp_path / "m.onnx")
    x = np.random.default_rng(3).standard_normal((64, 8, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    np.savez(tmp_path / "other.npz", x=-x[:, :, ::-1])
    return tmp_path


def changed(folder, one, other, samples):
    """Share of answers that differ."""
    x = dict(np.load(folder / samples))
    answers = []
    for name in (one, other):
        with open_onnx(folder / name, optimize=False) as session:
            answers.append(session.run(x)["y"].argmax(1))
    return float(np.mean(answers[0] != answers[1]))


def test_the_planted_sharp_layer_and_no_other_stays_in_float(folder):
    plain = nm2trt.quantize(folder / "m.onnx", folder / "p.onnx", calib=folder / "x.npz", compare=False)
    report = nm2trt.quantize(folder / "m.onnx", folder / "q.onnx", calib=folder / "x.npz", max_loss="5%")
    assert plain.search is None
    assert [layer.layer for layer in report.layers if not layer.quantised] == ["middle"]
    assert report.layers[1].reason.startswith("sensitive: a divergence of ")
    assert report.search.chosen.loss <= 0.05 < report.search.trials[0].loss
    assert report.search.chosen.samples == 32
    # On samples that neither chose nor judged anything, the search pays too.
    assert changed(folder, "m.onnx", "q.onnx", "other.npz") < 0.1
    assert changed(folder, "m.onnx", "p.onnx", "other.npz") > 0.2
    assert all(row.pattern == "holds" for row in verify_model(folder / "q.onnx").weights)
    json.dumps(report.to_json(), allow_nan=False)


def test_the_loss_is_that_of_the_written_file_on_the_held_out_half(folder):
    report = nm2trt.quantize(folder / "m.onnx", folder / "q.onnx", calib=folder / "x.npz", max_loss=0.05)
    np.savez(folder / "odd.npz", x=np.load(folder / "x.npz")["x"][1::2])
    assert report.search.chosen.loss == pytest.approx(changed(folder, "m.onnx", "q.onnx", "odd.npz"))


def test_a_limit_below_one_held_out_sample_is_said_and_more_samples_are_judged(folder):
    arguments = {"calib": folder / "x.npz", "max_loss": "2.5%"}
    report = nm2trt.quantize(folder / "m.onnx", folder / "q.onnx", **arguments)
    sentence = "; of 32 samples a limit of 2.50 % lets none change, as one is 3.12 %: give 80 samples or more"
    assert report.search.sentence.endswith(sentence)
    assert report.search.chosen.loss == 0
    x = np.random.default_rng(5).standard_normal((200, 8, 6, 6)).astype(np.float32)
    np.savez(folder / "x.npz", x=x)
    report = nm2trt.quantize(folder / "m.onnx", folder / "q.onnx", calib=folder / "x.npz", max_loss="1%")
    assert report.search.chosen.samples == 100
    assert "lets none change" not in report.search.sentence


def test_work_left_in_float_is_not_sparse(folder):
    plain = nm2trt.quantize(folder / "m.onnx", folder / "p.onnx", calib=folder / "x.npz", compare=False).work
    report = nm2trt.quantize(folder / "m.onnx", folder / "q.onnx", calib=folder / "x.npz", max_loss="5%")
    middle, rest = CHANNELS * CHANNELS * 36, (8 * CHANNELS + CHANNELS * CHANNELS) * 36
    fc = CHANNELS * CLASSES
    assert (plain.total, plain.low) == (middle + rest + fc, middle + rest)
    # Without the middle layer, nothing asks the first for a quantised output.
    assert report.work.low < plain.low
    assert report.work.low <= rest
    assert report.work.sparse <= report.work.low


def test_no_placement_within_the_limit_names_the_best_and_writes_nothing(folder, capsys):
    # A map has no scores: its loss is a share of the variance, which rounding never leaves at 0.
    model = sharp_net()
    model.graph.output[0].name = "mean"
    del model.graph.node[-2:]
    onnx.save(model, folder / "m.onnx")
    words = ["quantize", str(folder / "m.onnx"), "--calib", str(folder / "x.npz"), "--max-loss"]
    assert main([*words, "0.000001%"]) == 5
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "loses at most 0.0 % on 32 held-out samples; the best, " in error
    assert not list(folder.glob("*.int8.onnx"))
    assert main([*words, "2%"]) == 0
    assert "1 layer left in float" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["0.02", "2pt", "101%", 0.0, 2.0])
def test_a_loss_that_is_no_share(folder, given):
    with pytest.raises(
        InputError, match="is not a share of the samples; write a percentage over 0, as in 2%"
    ):
        nm2trt.quantize(folder / "m.onnx", folder / "q.onnx", calib=folder / "x.npz", max_loss=given)


def test_halves_share_no_sample_whatever_the_batch(folder):
    x = np.load(folder / "x.npz")["x"][:7]
    np.savez(folder / "seven.npz", x=x)
    even, odd = split(open_sample_stream(folder / "seven.npz"))
    assert (even.count, odd.count) == (4, 3)
    for size in (1, 2, 3, 8):
        for half, wanted in ((even, x[0::2]), (odd, x[1::2])):
            np.testing.assert_array_equal(np.concatenate([b["x"] for b in half.read(size)]), wanted)
        two = np.concatenate([batch["x"] for batch in first_samples(even, 2).read(size)])
        np.testing.assert_array_equal(two, x[:4:2])


def test_a_model_of_a_fixed_batch_and_a_single_sample(tmp_path):
    model = sharp_net()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.ones((1, 8, 6, 6), np.float32))
    arguments = {"calib": tmp_path / "x.npz", "max_loss": "50%"}
    report = nm2trt.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", **arguments)
    assert report.search.chosen.loss <= 0.5


@pytest.mark.parametrize(("masked", "status"), [(np.inf, 5), (-np.inf, 0)], ids=["infinite", "masked"])
def test_outputs_that_no_trial_keeps_finite_are_no_loss_in_percent(masked, status, tmp_path, capsys):
    """An additive mask of -inf on classes that may not be answered, as models of moves have it, leaves the rest."""
    b = Builder()
    x = b.node("Relu", [b.conv("x", "first", 8, CHANNELS)], "r")
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x], "mean")], "flat")
    x = b.node("Gemm", [x, b.weight("fc.weight", CLASSES, CHANNELS)], "scores", transB=1)
    mask = np.where(np.arange(CLASSES) == 3, masked, 0).astype(np.float32)
    onnx.save(b.model(b.node("Add", [x, b.constant("mask", mask)], "y")), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(3).standard_normal((16, 8, 6, 6)).astype(np.float32))
    words = ["quantize", str(tmp_path / "m.onnx"), "--calib", str(tmp_path / "x.npz"), "--max-loss", "5%"]
    assert main(words) == status
    error = capsys.readouterr().err
    assert (status == 0) is not (
        "can be judged: an output holds NaN or infinity, or changes its shape, on the 8 held-out" in error
    )
    assert "inf %" not in error
