"""Clocks of the twin build, on a driver whose time only kernels and copies move: each shows what it should."""

from dataclasses import replace

import numpy as np
import pytest

from nm2trt.backends import cuda
from nm2trt.engine.twin.clocks import Effort, clock_sessions
from nm2trt.errors import BackendError
from tests.backends import gpu_double as double

COST_MS = {"dense": 1.5, "sparse-off": 1.5, "sparse-on": 1.0}
EFFORT = Effort(runs=20, warmup=2, seconds=2.0, warmup_seconds=0.5)


@pytest.fixture(scope="module")
def library_path(tmp_path_factory):
    return double.compiled(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def driver(library_path, tmp_path, monkeypatch):
    driver = double.loaded(library_path, tmp_path, monkeypatch)
    monkeypatch.setattr("time.perf_counter", lambda: driver.now() / 1e3)
    yield driver
    cuda._driver.cache_clear()


@pytest.fixture
def sessions(driver):
    opened = {name: double.session_of(double.Engine(driver, cost)) for name, cost in COST_MS.items()}
    yield opened
    for session in opened.values():
        session.close()


def speed(comparisons):
    return {(pair.name, pair.against): pair.speedup for pair in comparisons}


@pytest.mark.parametrize("copies_ms", [0.0, 10.0])
def test_slow_copies_change_the_second_number_and_not_the_headline(driver, sessions, copies_ms):
    driver.copies_take(copies_ms)
    found = clock_sessions(sessions, double.batch(4), EFFORT, dict)
    assert found.clock == "device"
    assert {name: latency.p50_ms for name, latency in found.latencies.items()} == pytest.approx(
        COST_MS, rel=1e-3
    )
    assert speed(found.comparisons)["sparse-on", "sparse-off"] == pytest.approx(1.5, rel=1e-3)
    assert speed(found.comparisons)["sparse-off", "dense"] == pytest.approx(1.0, rel=1e-3)
    others = {other.clock: other for other in found.others}
    # One copy in and one out: (1.5 + 2 c) / (1 + 2 c).
    host = (1.5 + 2 * copies_ms) / (1 + 2 * copies_ms)
    assert speed(others["host"].comparisons)["sparse-on", "sparse-off"] == pytest.approx(host, rel=1e-3)
    assert speed(others["graph"].comparisons)["sparse-on", "sparse-off"] == pytest.approx(1.5, rel=1e-3)
    assert found.notes == ()


def test_one_engine_alone_has_its_times_by_clock_and_no_comparison(driver, sessions):
    driver.copies_take(1.0)
    found = clock_sessions({"sparse-on": sessions["sparse-on"]}, double.batch(4), EFFORT, dict)
    times = {clock: latency.p50_ms for clock, latency in found.of("sparse-on").items()}
    assert times == pytest.approx({"device": 1.0, "graph": 1.0, "host": 3.0}, rel=1e-3)
    assert not any(clock.comparisons for clock in (found, *found.others))


@pytest.mark.parametrize("warm_s", [0.5, 9.0])
def test_each_is_warmed_up_and_timed_for_long_enough(driver, sessions, warm_s):
    states, effort = [], replace(EFFORT, warmup_seconds=warm_s)
    clock_sessions(sessions, double.batch(4), effort, lambda: states.append(driver.now()) or {})
    before_ms, spent_ms = states[0], states[1] - states[0]
    least_ms = 1e3 * warm_s + 3 * 2000
    assert least_ms <= spent_ms < 1.5 * least_ms
    assert before_ms < 500, "time before the first state is not warm-up"


def test_launches_that_cost_more_than_kernels_are_told(driver, sessions, monkeypatch):
    enqueue = double.Context.execute_async_v3
    capturing = []

    def launched(self, stream):
        if not capturing:
            driver.gpu_works(1.0)  # the GPU waits for the host
        return enqueue(self, stream)

    capture = cuda.Device.capture

    def captured(self, work):
        capturing.append(True)
        try:
            return capture(self, work)
        finally:
            capturing.clear()

    monkeypatch.setattr(double.Context, "execute_async_v3", launched)
    monkeypatch.setattr(cuda.Device, "capture", captured)
    (note,) = clock_sessions(sessions, double.batch(4), EFFORT, dict).notes
    assert note.startswith(
        "the GPU waits for the host to launch kernels: dense takes 2.500 ms, as a CUDA graph 1.500"
    )


def test_without_graphs_the_other_clocks_stand(driver, sessions):
    driver.refuse_graphs(1)
    found = clock_sessions(sessions, double.batch(4), EFFORT, dict)
    assert [other.clock for other in found.others] == ["host"]
    assert "not timed as a CUDA graph, dense: " in found.notes[0]


def test_a_gpu_lost_in_the_middle_is_one_sentence(driver, sessions):
    polls = iter(range(100))

    def state():
        if next(polls):
            driver.lose(999)
        return {}

    with pytest.raises(BackendError, match="the GPU was lost while it ran"):
        clock_sessions(sessions, double.batch(4), EFFORT, state)


def test_one_session_without_the_gpu_s_clock_has_all_timed_from_host_to_host(driver, sessions):
    class OnTheCpu:
        def run(self, feeds):
            driver.gpu_works(3.0)
            return {"y": np.zeros(1)}

    driver.copies_take(1.0)
    found = clock_sessions({**sessions, "dense": OnTheCpu()}, double.batch(4), EFFORT, dict)
    assert (found.clock, found.others) == ("host", ())
    assert found.latencies["dense"].p50_ms == pytest.approx(3.0, rel=1e-3)
    assert found.latencies["sparse-on"].p50_ms == pytest.approx(3.0, rel=1e-3)
