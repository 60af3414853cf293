"""Build logs that somebody made to take long: each is read in about the time that its size needs."""

import pytest

from nm2trt.engine.evidence.build_log import parse_build_log
from tests.hostile.limits import limited

RUNNER = "--------------- Timing Runner: {} (CaskConvolution[0x80000009])"
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
