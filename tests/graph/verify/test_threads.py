"""Large weights are counted in threads: verdicts, their order and the mask hash are those of one thread."""

import threading

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from nm2trt.errors import ModelError
from nm2trt.graph.storage import threads
from nm2trt.graph.storage.model import load
from nm2trt.graph.verify import verdicts
from nm2trt.graph.verify.verify_model import verify_model, without_verdicts

WIDTH = 512


def model(*, broken=(), nonfinite=()):
    rng = np.random.default_rng(0)
    nodes, stored, last = [], [], "x"
    for layer in range(7):
        weight = rng.standard_normal((WIDTH, WIDTH)).astype(np.float16 if layer % 2 else np.float32)
        weight.reshape(WIDTH // 4, 4, WIDTH)[:, :2] = 0
        if layer in broken:
            weight[WIDTH - 4 : WIDTH, layer] = 1
        if layer in nonfinite:
            weight[3, 5], weight[2, 6], weight[2, 7] = np.inf, -np.inf, np.nan
        stored.append(numpy_helper.from_array(weight, f"w{layer}"))
        nodes += [
            helper.make_node("Cast", [last], [f"c{layer}"], to=stored[-1].data_type),
            helper.make_node("MatMul", [f"c{layer}", f"w{layer}"], [f"y{layer}"], f"mul{layer}"),
        ]
        last = f"y{layer}"
    values = [helper.make_tensor_value_info(n, t, ["n", WIDTH]) for n, t in (("x", 1), (last, 1))]
    return helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], stored))


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch):
    """Let the models here, which are small, be counted in threads."""
    monkeypatch.setattr(verdicts, "_MANY", 1 << 18)


@pytest.mark.parametrize("stored", ["memory", "file"])
def test_threads_change_nothing(tmp_path, monkeypatch, stored):
    made = model(broken=(2, 5), nonfinite=(4,))
    source = made if stored == "memory" else tmp_path / "model.onnx"
    if stored == "file":
        onnx.save(made, source)
    found = {}
    for count in (1, 4):
        monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _, n=count: range(n))
        found[count] = verify_model(source)
    assert found[1].weights == found[4].weights
    assert found[1].mask_sha256 == found[4].mask_sha256
    masks = without_verdicts(load(source))
    assert (masks.mask_sha256, masks.weights) == (found[1].mask_sha256, ())
    weights = found[4].weights
    assert [w.weight for w in weights] == [f"w{layer}" for layer in range(7)]
    assert [w.broken_groups for w in weights] == [0, 0, 1, 0, 0, 1, 0]
    assert [w.nonfinite for w in weights] == [0, 0, 0, 0, 3, 0, 0]
    assert weights[5].first_broken == (WIDTH - 4, 5)


def test_a_damaged_weight_is_named_from_a_thread(monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: range(4))
    made = model()
    made.graph.initializer[3].raw_data = made.graph.initializer[3].raw_data[:-2]
    for check in (verify_model, lambda made: without_verdicts(load(made))):
        with pytest.raises(ModelError, match="'w3'"):
            check(made)


def test_what_was_verified_is_not_read_again():
    opened = load(model(broken=(2,)))
    whole = verify_model(opened)
    assert without_verdicts(opened) is whole


@pytest.mark.parametrize(("most", "pools"), [(1 << 18, 1), (1 << 26, 0)])
def test_a_small_model_starts_no_thread(monkeypatch, most, pools):
    """Threads take longer than one: a ResNet-50 is small in that sense."""
    from concurrent import futures

    started, pool = [], futures.ThreadPoolExecutor
    monkeypatch.setattr(futures, "ThreadPoolExecutor", lambda cores: started.append(cores) or pool(cores))
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: range(4))
    monkeypatch.setattr(verdicts, "_MANY", most)
    verify_model(model())
    assert len(started) == pools


def test_what_is_computed_from_weights_is_counted_in_one_thread(monkeypatch):
    """Its bounds on time and memory are those of one thread."""
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: range(4))
    made, counted = model(), {}
    made.graph.node.insert(0, helper.make_node("Transpose", ["w1"], ["turned"], perm=[1, 0]))
    next(node for node in made.graph.node if node.name == "mul1").input[1] = "turned"
    judge = verdicts.WeightJudge._counted

    def told(self, case):
        counted[case.consumer.value] = threading.current_thread() is threading.main_thread()
        return judge(self, case)

    monkeypatch.setattr(verdicts.WeightJudge, "_counted", told)
    for check in (verify_model, lambda made: without_verdicts(load(made))):
        counted.clear()
        check(made)
        assert [name for name, alone in counted.items() if alone] == ["turned"]
        assert len(counted) == 7
