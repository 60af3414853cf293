"""A bounded part of `make fuzz`, and its own judges: the limits and the second reader see planted faults."""

import collections
import itertools
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest

import nm2trt
from tests.hostile import forms, fuzz, mutants, reader
from tests.hostile.limits import limited, memory, resident

pytest.importorskip("tensorrt_rtx")
RUNS = int(os.environ.get("NM2TRT_FUZZ_RUNS", "30"))


def test_commands_answer_or_refuse_whatever_they_read(fuzzer):
    fuzzer.counts = fuzz.Counts()
    for number in range(RUNS):
        fuzzer.run(number)
    assert fuzzer.counts.faults == []
    assert sum(fuzzer.counts.runs.values()) == RUNS
    assert len(fuzzer.counts.runs) > 5
    assert fuzzer.counts.statuses[0] > RUNS / 10


def test_the_fuzzer_sees_a_wrong_verdict_and_an_internal_error(fuzzer, monkeypatch):
    number = next(n for n in range(10**6) if _is_plain_verify(n))
    fuzzer.counts = fuzz.Counts()
    fuzzer.run(number)
    assert fuzzer.counts.verdicts["same"] > 0
    assert fuzzer.counts.faults == []
    monkeypatch.setattr(reader, "counted", lambda *_: "not what it is")
    fuzzer.run(number)
    assert {kind for kind, *_ in fuzzer.counts.faults} == {"wrong verdict"}
    fuzzer.counts = fuzz.Counts()
    monkeypatch.setattr("nm2trt.pipeline.verify.verify", lambda *_, **__: 1 / 0)
    fuzzer.run(number)
    assert {kind for kind, *_ in fuzzer.counts.faults} == {"internal error"}


def _is_plain_verify(number):
    """Tell whether a run verifies a model that is hardly changed."""
    draw = random.Random(number)
    if draw.random() >= 0.65:
        return False
    proto, _ = mutants.mutant(draw)
    if draw.random() < 0.1 or draw.random() >= 0.3:
        return False
    try:
        onnx.checker.check_model(proto)
    except Exception:
        return False
    return bool(list(reader.verdicts(proto))) and not proto.metadata_props


@pytest.mark.parametrize(
    ("function", "over"),
    [
        (lambda: all(True for _ in itertools.count()), "0.2 s"),
        (lambda: time.sleep(60), "0.3 s of waiting"),
        (lambda: subprocess.call([sys.executable, "-c", "while True: pass"]), "0.2 s"),
        (lambda: np.ones(1 << 27) is None or time.sleep(60), "100 MB"),
        (
            lambda: subprocess.call(
                [sys.executable, "-c", "import time; b = b'1' * (1 << 28); time.sleep(60)"]
            ),
            "100 MB",
        ),
    ],
    ids=["processor", "waiting", "processor of a child", "memory", "memory of a child"],
)
def test_limits_end_a_run(function, over):
    waiting = 0.3 if "waiting" in over else 600
    ended = limited(function, seconds=60 if over == "100 MB" else 0.2, megabytes=100, waiting=waiting)
    assert (ended.over, ended.status) == (over, -9)


def test_a_process_that_is_not_yet_another_program_counts_once():
    child = os.fork()
    if child == 0:
        time.sleep(60)
    try:
        assert memory([os.getpid(), child]) < 1.5 * resident()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize(
    ("weight", "axis", "verdict"),
    [
        ([[1, 2, 0, 0], [0, 0, 3, 4]], 1, "holds"),
        ([[1, 2, 0, 0], [0, 5, 3, 4]], 1, "broken"),
        ([[1, 2, 0, 0], [0, 0, 3, 4]], 0, "not-groupable"),
        ([[1], [2], [0], [0]], 0, "holds"),
        ([[np.nan], [2], [0], [1]], 0, "broken"),
    ],
)
def test_the_reader_counts_groups(weight, axis, verdict):
    assert reader.counted(np.array(weight), axis) == verdict


def test_the_reader_counts_each_part_of_a_sum_by_itself():
    weight = np.array([[1], [0], [0], [0], [0], [0], [1], [1]])
    assert reader.counted(weight, 0, 1) == "holds"
    assert reader.counted(weight, 0, 4) == "not-groupable"
    assert reader.counted(np.array([[1], [1], [0], [1]] + [[0]] * 4), 0, 2) == "broken"


def test_a_product_of_constants_has_no_weight_for_the_reader():
    """Not even if one of them is too large to be computed here."""
    value = onnx.helper.make_tensor_value_info
    nodes = [
        onnx.helper.make_node("ConstantOfShape", ["s"], ["big"], name="big"),
        onnx.helper.make_node("MatMul", ["w", "big"], ["h"], name="of constants"),
        onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="of an input"),
    ]
    stored = {"w": np.ones((16, 16), "f4"), "s": np.array([16, 1 << 30])}
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", 1, ["n", 16])], [value("y", 1, None)], tensors)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    assert list(reader.verdicts(proto)) == [("of an input", 1, "broken")]


@pytest.mark.parametrize("form", ["conv-transpose", "einsum", "lstm", "gru", "rnn"])
def test_the_reader_judges_forms_as_verify_does(form, tmp_path):
    for number in range(4):
        proto, _ = forms.sound(random.Random(number), form)
        onnx.save(proto, tmp_path / "m.onnx")
        own = collections.Counter((name, found) for name, _, found in reader.verdicts(proto))
        report = nm2trt.verify(tmp_path / "m.onnx")
        assert own == collections.Counter((row.consumer, row.pattern) for row in report.weights)
        assert len(own) > 1
