"""Build logs that somebody made to fail: each is read in about the time that its size needs, without an error."""

import pytest

from nm2trt.engine.evidence.build_log import identify_log, parse_build_log
from tests.hostile.limits import limited

RUNNER = "--------------- Timing Runner: {} (CaskConvolution[0x80000009])"
CHOSEN = "[V] (Sparsity) Chose 1 layer(s) using sparse tactics: a"
MESSAGES = {
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
LOGS = {
    "an id without end": [RUNNER.format("conv"), "Tactic: " + "a" * 400_000],
    "a long name with many timings": [
        RUNNER.format(" + ".join(["conv"] * 20_000)),
        *["Tactic: 0x1 Time: 1.5"] * 10_000,
    ],
    "nested names": [
        RUNNER.format("PWN(" * 60 + "a, " * 20_000 + ")" * 60),
        *["Tactic: 0x1 Time: 1.5"] * 3_000,
    ],
}


@pytest.mark.parametrize("lines", LOGS.values(), ids=LOGS)
def test_a_log_that_would_take_quadratic_time(lines):
    def read():
        parse_build_log(lines, builder="trt", version="8.6.0")
        return 0

    # Quadratic, these take minutes; the bound is of processor time, whatever else runs.
    assert limited(read, seconds=20, megabytes=1000).status == 0


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_what_follows_a_hostile_message_is_read(message):
    """In processor time as above: quadratic, the longest of these take over a minute."""

    def read():
        lines = ["[V] TensorRT version: 10.14.1", *message.split("\n"), CHOSEN]
        assert identify_log(lines) == "10.14.1"
        identify_log(lines[1:])
        assert parse_build_log(lines, builder="trt", version="10.14.1").chosen.count == 1
        return 0

    assert limited(read, seconds=20, megabytes=1000).status == 0
