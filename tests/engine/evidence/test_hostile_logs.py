"""Build logs that anybody may send: read in linear time, and never an internal error."""

import pytest

from nm2trt.engine.evidence.build_log import identify_log, parse_build_log

CHOSEN = "[V] (Sparsity) Chose 1 layer(s) using sparse tactics: a"
LOGS = {
    "an-op-that-never-ends": "[V] " + "Autotuning op " * 60_000 + "(key: 0x12!",
    "a-key-that-never-ends": "[V] " + "Autotuning op (key: 0x" * 60_000,
    "keys-without-an-end": "[V] Autotuning op " + "(key: 0x" + "f" * 1_000_000,
    "spaces-for-a-version": "TensorRT version:" + " " * 1_000_000,
    "versions-without-numbers": "TensorRT version " * 60_000,
    "brackets": "[V] (Sparsity) Chose 3 layer(s) using sparse tactics: " + "(" * 1_000_000,
    "a-count-of-5000-digits": f"[V] (Sparsity) Found {'9' * 5000} layer(s) eligible to use sparse tactics: a, b",
    "a-time-that-is-no-number": "[V] Autotuning op a(key: 0x12):\n 0, 1.2.3, 1.0, 0.5, sm80_xmma_sparse_x, 0x12",
    "a-time-beyond-floats": "[V] Autotuning op a(key: 0x12):\n 0, 1e999, 1.0, 0.5, sm80_xmma_sparse_x, 0x12",
    "zeros": "\0" * 100_000,
}


@pytest.mark.parametrize("case", LOGS)
def test_it_is_read_without_an_internal_error(case):
    # Over a minute, and thus noticed, where the time is quadratic.
    lines = ["[V] TensorRT version: 10.14.1", *LOGS[case].split("\n"), CHOSEN]
    assert identify_log(lines) == "10.14.1"
    identify_log(lines[1:])
    evidence = parse_build_log(lines, builder="trt", version="10.14.1")
    assert evidence.chosen.count == 1
