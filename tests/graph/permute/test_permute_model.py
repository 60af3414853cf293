"""permute_model and the command: the gain against an oracle, what is written, and what is refused."""

import itertools
import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import nm2trt
from nm2trt.cli import main
from nm2trt.errors import DifferenceError, InputError, ModelError, SparsityError
from nm2trt.graph.execute.model_session import run_graph
from nm2trt.graph.execute.output_comparison import run_reference
from nm2trt.graph.permute import permute_graph
from nm2trt.graph.permute.permute_graph import find_permutation
from nm2trt.graph.permute.permute_model import permute_model
from nm2trt.graph.permute.space_search import PermuteOptions
from nm2trt.graph.storage.model import load
from nm2trt.graph.storage.stage_metadata import read_lineage
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.nm.mask import nm_mask
from nm2trt.nm.pattern import NMPattern
from tests.graph.permute.permute_nets import Net, stored
from tests.graph.permute.test_channel_spaces import residual, transformer

TWO_FOUR = NMPattern(2, 4)


def magnitude_kept(weights, names, axis=1, pattern=TWO_FOUR):
    """Share of |w| that one-shot pruning keeps, each weight counted by its elements, by the mask itself."""
    kept = size = 0.0
    for name in names:
        w = np.abs(weights[name].astype(np.float64))
        kept += (w * nm_mask(w, pattern, axis=axis)).sum() / w.mean()
        size += w.size
    return kept / size


def small(path, channels=8):
    net = Net()
    net.conv("x", "first", channels, 3)
    net.node("Relu", ["first"], "r")
    net.conv("r", "second", 5, channels)
    return net.save(path, "second")


def test_the_gain_is_that_of_the_masks_and_near_the_best_of_all_permutations(tmp_path):
    source = small(tmp_path / "m.onnx")
    options = PermuteOptions(min_channels=4)
    report = permute_model(source, tmp_path / "p.onnx", options)
    before = magnitude_kept(stored(source), ["second.weight"])
    after = magnitude_kept(stored(tmp_path / "p.onnx"), ["second.weight"])
    assert (report.kept_before, report.kept_after) == pytest.approx((before, after), rel=1e-6)
    w = np.abs(stored(source)["second.weight"][:, :, 0, 0]).astype(np.float64)
    orders = np.array(list(itertools.permutations(range(8))))
    groups = np.sort(w[:, orders].reshape(5, len(orders), 2, 4), axis=-1)
    best = groups[..., 2:].sum((0, 2, 3)).max() / w.sum()
    assert before < after <= best + 1e-9
    assert after - before >= 0.8 * (best - before)


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8", "3:4"])
def test_magnitude_kept_never_falls(pattern, tmp_path):
    net = Net()
    source = net.save(tmp_path / "m.onnx", residual(net))
    report = permute_model(source, tmp_path / "p.onnx", PermuteOptions(NMPattern.parse(pattern)))
    assert report.kept_after > report.kept_before
    names = sorted({name for space in report.spaces for name in space.weights})
    parts = [
        magnitude_kept(stored(f), names, 1, NMPattern.parse(pattern)) for f in (source, tmp_path / "p.onnx")
    ]
    assert parts == pytest.approx([report.kept_before, report.kept_after], rel=1e-6)


def test_the_same_seed_writes_the_same_file_and_the_lineage_says_permuted(tmp_path):
    net = Net()
    source = net.save(tmp_path / "m.onnx", residual(net))
    reports = [permute_model(source, tmp_path / f"{i}.onnx", PermuteOptions(seed=7)) for i in (0, 1)]
    assert (tmp_path / "0.onnx").read_bytes() == (tmp_path / "1.onnx").read_bytes()
    (entry,) = read_lineage(load(tmp_path / "0.onnx").proto)
    assert (entry.stage, entry.relation) == ("permute", "permuted")
    assert entry.child == verify_model(tmp_path / "0.onnx").mask_sha256 == reports[0].mask_sha256
    assert entry.parent == verify_model(source).mask_sha256


def test_a_saliency_of_the_callers_own_decides(tmp_path):
    net = Net()
    source = net.save(tmp_path / "m.onnx", residual(net))
    model, reference = load(source), run_reference(source)
    seen = {}

    def saliency(weight, numbers):
        seen[weight.weight] = numbers.shape
        if weight.weight != "down.weight":
            return None
        scores = np.zeros(numbers.shape, np.float32)
        scores[:, :16] = 1.0  # the first half must be spread over all groups
        return scores

    found = find_permutation(model, PermuteOptions(), saliency=saliency)
    assert {"down.weight", "up.weight", "squeeze.weight", "fc.weight"} <= set(seen)
    assert [space.weights for space in found.spaces] == [("down.weight",)]
    assert (found.kept_before, found.kept_after) == (0.5, 1.0)
    order = found.orders["down.weight"][1]
    permute_model(source, tmp_path / "out.onnx", saliency=saliency)
    model = load(tmp_path / "out.onnx")
    np.testing.assert_array_equal(stored(model.proto)["down.weight"], stored(source)["down.weight"][:, order])
    np.testing.assert_array_equal(stored(model.proto)["bn.var"], stored(source)["bn.var"][order])
    outputs = run_graph(model, reference.feeds)
    np.testing.assert_allclose(outputs["y"], reference.outputs["y"], rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"the saliency of .* has shape"):
        find_permutation(load(source), saliency=lambda weight, numbers: numbers[:1])


def test_half_precision_and_external_data_are_permuted_where_they_stand(tmp_path):
    net = Net(kind=np.float16)
    half = net.save(tmp_path / "h.onnx", residual_half(net))
    assert permute_model(half, tmp_path / "hp.onnx").moved == 1
    assert stored(tmp_path / "hp.onnx")["second.weight"].dtype == np.float16
    net = Net((2, 6, 8), opset=20)
    proto = net.proto(transformer(net))
    onnx.save(proto, tmp_path / "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    report = permute_model(tmp_path / "e.onnx", tmp_path / "ep.onnx")
    assert report.moved == 3
    assert (tmp_path / "ep.onnx.data").exists()
    inline = permute_graph.find_permutation(load(tmp_path / "e.onnx")).orders
    before, after = stored(tmp_path / "e.onnx"), stored(tmp_path / "ep.onnx")
    for name, orders in inline.items():
        for axis, order in orders.items():
            before[name] = before[name].take(order, axis)
        np.testing.assert_array_equal(after[name], before[name])


def residual_half(net):
    net.conv("x", "first", 16, 3)
    net.conv(net.node("Relu", ["first"], "r"), "second", 16, 16)
    return "second"


def test_choices_of_weights_are_those_of_prune(tmp_path):
    net = Net()
    source = net.save(tmp_path / "m.onnx", residual(net))

    def weights(**options):
        report = permute_model(source, tmp_path / "p.onnx", PermuteOptions(**options))
        return {name for space in report.spaces for name in space.weights}

    everything = {"up.weight", "fc.weight", "squeeze.weight", "down.weight", "excite.weight"}
    assert weights() == everything
    assert weights(exclude=("fc*", "up*")) == everything - {"fc.weight", "up.weight"}
    assert weights(include=("down.weight",)) == {"down.weight"}
    assert weights(min_channels=32) == {"squeeze.weight", "down.weight"}
    with pytest.raises(InputError, match="exclude: 'nothing' matches no weight"):
        weights(exclude=("nothing",))
    with pytest.raises(InputError, match="seed is -1"):
        weights(seed=-1)
    with pytest.raises(SparsityError, match="has no weight that 2:4 can prune"):
        weights(min_channels=1000)


def test_what_holds_its_pattern_stays_and_a_pruned_model_is_refused(tmp_path):
    net = Net()
    source = net.save(tmp_path / "m.onnx", residual(net))
    some = onnx.load(source)
    (tensor,) = (t for t in some.graph.initializer if t.name == "down.weight")
    weight = numpy_helper.to_array(tensor)
    held = np.where(nm_mask(np.abs(weight), TWO_FOUR, axis=1), weight, 0).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(held, "down.weight"))
    onnx.save(some, tmp_path / "some.onnx")
    report = permute_model(tmp_path / "some.onnx", tmp_path / "p.onnx")
    frozen = [space for space in report.spaces if not space.moved]
    assert [space.reason for space in frozen] == ["down.weight holds 2:4 already"]
    assert frozen[0].weights == ("squeeze.weight", "down.weight")
    assert verify_model(tmp_path / "p.onnx").counts["holds"] == 1
    nm2trt.prune(source, tmp_path / "all.onnx")
    with pytest.raises(SparsityError, match="holds 2:4 already"):
        permute_model(tmp_path / "all.onnx", tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize("operator", ["QuantizeLinear", "DynamicQuantizeLinear", "ConvInteger"])
def test_a_quantised_model_is_refused_in_a_sentence(operator, tmp_path):
    net = Net()
    if operator == "QuantizeLinear":
        scale, zero = net.tensor("s", np.float32(0.1)), net.tensor("z", np.uint8(128))
        net.node("DequantizeLinear", [net.node("QuantizeLinear", ["x", scale, zero], "q"), scale, zero], "v")
        net.conv("v", "y", 16, 3)
    else:
        net.node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"])
        net.node("ConvInteger", ["q", net.tensor("w", np.ones((4, 3, 1, 1), np.uint8))], "i")
        net.node("Cast", ["i"], "y", to=1)
    source = net.save(tmp_path / "m.onnx", "y")
    with pytest.raises(ModelError, match=r"is quantised already: \w+ at .*; permute the float model"):
        permute_model(source, tmp_path / "p.onnx")


def test_operators_in_local_functions_freeze_what_they_read(tmp_path):
    cumulate = helper.make_function(
        "own",
        "Mix",
        ["a"],
        ["b"],
        [
            helper.make_node("Constant", [], ["one"], value=numpy_helper.from_array(np.array(1))),
            helper.make_node("CumSum", ["a", "one"], ["b"]),
        ],
        [helper.make_opsetid("", 18)],
    )
    net = Net()
    net.conv("x", "first", 16, 3)
    net.node("Mix", ["first"], "mid", domain="own")
    net.conv("mid", "second", 16, 16)
    net.conv("first", "side", 24, 16)
    source = net.save(tmp_path / "m.onnx", "second", "side", functions=[cumulate])
    with pytest.raises(SparsityError, match="CumSum at 'mid/CumSum#1' depends on the order"):
        permute_model(source, tmp_path / "p.onnx")


def test_outputs_that_change_leave_nothing_behind(tmp_path, monkeypatch):
    source = small(tmp_path / "m.onnx", 16)
    take = permute_graph._permuted

    def forgets_biases(tensor, model, orders):
        return take(tensor, model, {} if tensor.name.endswith("bias") else orders)

    monkeypatch.setattr(permute_graph, "_permuted", forgets_biases)
    with pytest.raises(DifferenceError, match="differs by"):
        permute_model(source, tmp_path / "p.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert main(["permute", str(source)]) == 5


def test_the_command_prints_a_row_per_space_and_json(tmp_path, capsys):
    net = Net()
    source = net.save(tmp_path / "m.onnx", residual(net))
    assert main(["permute", str(source), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["relation"] == "permuted"
    assert found["moved"] == sum(space["moved"] for space in found["spaces"]) == 3
    assert found["output"] == str(tmp_path / "m.permuted.onnx")
    assert (
        main(["permute", str(source), "-o", str(tmp_path / "b.onnx"), "--pattern", "1:4", "--no-compare"])
        == 0
    )
    out = capsys.readouterr().out
    assert "channel spaces permuted; 1:4 keeps" in out
    assert "outputs were not compared: not asked for" in out
    assert main(["permute", str(source), "-o", str(source)]) == 2
    assert main(["permute", str(source), "--min-channels", "1000"]) == 3
    assert main(["permute", str(source), "--pattern", "five"]) == 2
    assert main(["permute", str(source), "--seed", "-1"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_pruning_after_the_permutation_keeps_more(tmp_path):
    net = Net()
    source = net.save(tmp_path / "m.onnx", residual(net))
    nm2trt.permute(source, tmp_path / "p.onnx")
    kept = {}
    for name in ("m", "p"):
        nm2trt.prune(tmp_path / f"{name}.onnx", tmp_path / f"{name}2.onnx")
        kept[name] = sum(np.abs(w).sum() for w in stored(tmp_path / f"{name}2.onnx").values())
    assert kept["p"] > kept["m"]
    assert [e.relation for e in read_lineage(load(tmp_path / "p2.onnx").proto)] == ["permuted", "subset"]


def rare(path):
    """A network that gives probabilities near 0, of sums whose rounding is large beside them."""

    def layers():
        net = Net()
        bias = net.tensor("first.bias", np.linspace(900, 1100, 64, dtype=np.float32))
        net.node("Conv", ["x", net.random("first.weight", 64, 3, 1, 1), bias], "first")
        net.node("Relu", ["first"], "r")
        net.conv("r", "second", 5, 64)
        net.node("Mul", ["second", net.tensor("factor", np.float32(0.05))], "scaled")
        return net

    scaled = run_reference(layers().save(path.with_name("plain.onnx"), "scaled")).outputs["scaled"]
    net = layers()
    net.node("Sub", ["scaled", net.tensor("top", scaled.max((0, 2, 3), keepdims=True) + 9)], "logits")
    net.node("Sigmoid", ["logits"], "s")
    net.node("Reshape", ["s", net.ints("flat", 1, -1)], "p")
    return net.save(path, "p")


def test_probabilities_near_0_are_judged_before_the_sigmoid(tmp_path):
    report = permute_model(rare(tmp_path / "m.onnx"), tmp_path / "p.onnx")
    (output,) = report.differences
    assert 0 < output.max_abs < 1e-6
    assert output.max_relative > 1e-5  # which refuses any other output


def test_a_fault_is_seen_before_the_sigmoid(tmp_path, monkeypatch):
    source = rare(tmp_path / "m.onnx")
    take = permute_graph._permuted

    def forgets_biases(tensor, model, orders):
        return take(tensor, model, {} if tensor.name.endswith("bias") else orders)

    monkeypatch.setattr(permute_graph, "_permuted", forgets_biases)
    with pytest.raises(DifferenceError, match="where the graph was changed: output 'logits' differs by"):
        permute_model(source, tmp_path / "p.onnx")
    assert not (tmp_path / "p.onnx").exists()
