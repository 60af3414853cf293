"""Benchmarks: turns, warm-up, percentiles, files of others, and what conditions forbid."""

import contextlib
import json
from types import SimpleNamespace

import numpy as np
import pytest

from nm2trt.backends.cuda import Gpu
from nm2trt.backends.protocol import TensorSpec
from nm2trt.cli import main
from nm2trt.errors import BackendError, DataError, InputError
from nm2trt.measure import (
    Clocked,
    Latency,
    ServerTime,
    WarmUp,
    blocks_in_turn,
    interleaved,
    rounds,
    warm_up,
    warm_up_for,
)
from nm2trt.tables.layout import lay_out
from nm2trt.validation.latency import machine_state
from nm2trt.validation.latency.bench import bench_sessions, ratio_of
from nm2trt.validation.latency.bench_files import compare_with, read_trtexec, with_recorded
from nm2trt.validation.latency.benchmark import Benchmark, Timing
from nm2trt.validation.latency.machine_state import parse_gpu_query
from nm2trt.validation.samples.feeder import first_batch
from tests.validation.validation_fakes import Lookup, one_hot

TABLE = one_hot([0, 1, 2, 0])


def feeds(session, size):
    return {"row": np.arange(size, dtype=np.float32) % 4}


def benched(*names, **options):
    given = {"runs": 7, "warmup": 0, **options}
    return bench_sessions({name: Lookup(TABLE) for name in names}, feeds, **given)


def test_sessions_take_turns_and_none_always_follows_the_same():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    assert [set(taken) for taken in rounds(calls, 6)] == [set("abc")] * 6
    assert "".join(order) == "abcbcacab" * 2


def test_percentiles_are_numpys():
    seconds = np.random.default_rng(0).random(50)
    found = Latency.of(seconds)
    assert [found.p50_ms, found.p90_ms, found.p95_ms, found.p99_ms] == pytest.approx(
        1e3 * np.percentile(seconds, [50, 90, 95, 99])
    )
    low, high = np.percentile(seconds, [25, 75])
    assert found.spread == pytest.approx((high - low) / np.median(seconds))


class Clock:
    """Time that passes only when a call says so."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("nm2trt.measure.time.perf_counter", lambda: self.now)

    def call(self, durations):
        durations = iter(durations)

        def run():
            self.now += next(durations)

        return run


def test_warm_up_ends_when_medians_settle(monkeypatch):
    clock = Clock(monkeypatch)
    slow_start = [5.0] * 10 + [2.0] * 10 + [1.0] * 30
    found = warm_up({"a": clock.call(slow_start), "b": clock.call([1.0] * 50)}, least=5, most=50, most_s=1e9)
    assert (found.runs, found.stable) == (40, True)


def test_warm_up_lasts_until_the_clocks_are_up(monkeypatch):
    clock = Clock(monkeypatch)
    rising = [0.05 - 0.001 * i for i in range(40)] + [0.01] * 200
    found = warm_up_for({"a": clock.call(rising)}, least_s=0.1, least=2)
    assert found.stable
    assert 40 < found.runs < 80
    assert clock.now > sum(rising[:40])


@pytest.mark.parametrize("one_s", [0.001, 0.7])
def test_warm_up_by_time_has_its_shortest_time_and_its_longest(monkeypatch, one_s):
    clock = Clock(monkeypatch)
    assert warm_up_for({"a": clock.call([one_s] * 5000)}, least_s=0.5, least=1).stable
    assert clock.now >= 0.5
    doubling = [one_s * 1.5**i for i in range(100)]
    assert not warm_up_for({"a": clock.call(doubling)}, least_s=0.5, least=1, most_s=1.0).stable


def test_blocks_last_their_time_and_have_their_runs(monkeypatch):
    clock = Clock(monkeypatch)
    calls = {"a": clock.call([0.01] * 10000), "b": clock.call([0.03] * 10000)}
    blocks = blocks_in_turn(calls, blocks=5, runs=1, seconds=2.0)
    assert clock.now >= 4.0
    assert len(blocks) == 5
    assert all(block["a"].runs == block["b"].runs for block in blocks)
    many = blocks_in_turn(calls, blocks=5, runs=21, seconds=0.0)
    assert sum(block["a"].runs for block in many) >= 21


def test_a_call_with_a_clock_of_its_own_is_timed_by_it(monkeypatch):
    clock = Clock(monkeypatch)
    slow = clock.call([5.0] * 10)

    def device():
        slow()  # copies and waits, which the GPU's clock does not count
        return 0.25

    assert list(rounds({"gpu": Clocked(device)}, 2)) == [{"gpu": 0.25}] * 2


def test_warm_up_has_its_fewest_runs(monkeypatch):
    clock = Clock(monkeypatch)
    found = warm_up({"a": clock.call([1.0] * 100)}, least=45, most=100, most_s=1e9)
    assert (found.runs, found.stable) == (50, True)


def test_one_run_of_warm_up_leaves_two_medians_to_compare():
    assert benched("a", runs=1, warmup=1).warmup.runs == 20


def test_warm_up_has_ends_though_it_never_settles(monkeypatch):
    clock = Clock(monkeypatch)
    doubling = [2.0 ** (index // 10) for index in range(100)]
    assert not warm_up({"a": clock.call(doubling)}, least=5, most=50, most_s=1e9).stable
    clock = Clock(monkeypatch)
    found = warm_up({"a": clock.call(doubling)}, least=15, most=100, most_s=20.0)
    assert (found.runs, found.stable) == (20, False)


def test_interleaved_still_gives_latencies_by_name(monkeypatch):
    clock = Clock(monkeypatch)
    found = interleaved(
        {"a": clock.call([9.0, 1.0, 1.0]), "b": clock.call([9.0, 2.0, 2.0])}, runs=2, warmup=1
    )
    assert {name: (t.p50_ms, t.runs) for name, t in found.items()} == {"a": (1000.0, 2), "b": (2000.0, 2)}


def test_every_session_is_timed_at_every_batch():
    found = benched("a", "b", batches=(1, 4), conditions={"backend": "lookup"})
    assert [(t.name, t.batch, t.latency.runs) for t in found.timings] == [
        ("a", 1, 7), ("b", 1, 7), ("a", 4, 7), ("b", 4, 7),
    ]  # fmt: skip
    for timing in found.timings:
        assert timing.per_second == pytest.approx(1e3 * timing.batch / timing.latency.p50_ms)
        assert len(timing.samples_ms) == 7
    assert [(r.name, r.base, r.batch) for r in found.ratios] == [("b", "a", 1), ("b", "a", 4)]
    assert all((r.low, r.high, r.processes) == (None, None, ()) for r in found.ratios)
    assert (found.conditions["backend"], found.conditions["CUDA graphs"]) == ("lookup", "none")
    assert "host to host" in found.conditions["transfers"]
    assert set(found.to_json()["latencies"]) == {"a (batch 1)", "a (batch 4)", "b (batch 1)", "b (batch 4)"}


def test_a_session_whose_batch_is_fixed_runs_its_own_once():
    fixed = Lookup(TABLE)
    fixed.inputs = (TensorSpec("row", "float32", (3,)),)
    found = bench_sessions({"fixed": fixed, "free": Lookup(TABLE)}, feeds, runs=3, warmup=0, batches=(1, 8))
    assert sorted((t.name, t.batch) for t in found.timings) == [("fixed", 3), ("free", 1), ("free", 8)]
    assert found.ratios == ()


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"batches": (0,)}, {"warmup": -1}, {"batches": ()}], ids=str)
def test_refuses_counts(wrong):
    with pytest.raises(InputError, match="cannot be timed"):
        benched("a", **wrong)


def test_rounds_before_a_session_died_are_kept():
    dying = Lookup(TABLE, dies_after=5, error=BackendError("the engine died"))
    with pytest.raises(BackendError, match="the engine died; the runs before it are kept") as caught:
        bench_sessions({"a": Lookup(TABLE), "b": dying}, feeds, runs=10, warmup=0)
    partial = caught.value.partial
    assert {t.latency.runs for t in partial.timings} == {5}
    assert partial.stopped == "the engine died"


def test_an_error_keeps_what_it_carries():
    class LadenError(BackendError):
        def __init__(self, *, rows):
            super().__init__("the engine died")
            self.rows = rows

    dying = Lookup(TABLE, dies_after=5, error=LadenError(rows=[1]))
    with pytest.raises(LadenError, match="the runs before it are kept") as caught:
        bench_sessions({"a": Lookup(TABLE), "b": dying}, feeds, runs=10, warmup=0)
    assert (caught.value.rows, caught.value.partial.stopped) == ([1], "the engine died")


def test_ratio_is_that_of_medians_and_has_no_interval():
    rng = np.random.default_rng(0)
    a, b = 2.0 + rng.exponential(1.0, 400), 1.0 + rng.exponential(1.0, 400)
    found = ratio_of("a", "b", 1, a, b)
    assert found.p50 == pytest.approx(np.median(a) / np.median(b))
    assert (found.low, found.high) == (None, None)


TIMES = [
    {
        "startComputeMs": 1.0,
        "endComputeMs": 2.0,
        "h2dMs": 0.1,
        "computeMs": 1.0,
        "d2hMs": 0.1,
        "latencyMs": ms,
    }
    for ms in (1.0, 1.2, 1.4)
]


def test_times_of_trtexec_are_read(tmp_path):
    (tmp_path / "times.json").write_text(json.dumps(TIMES))
    found = read_trtexec(tmp_path / "times.json")
    assert (found.latency.p50_ms, found.latency.runs, found.batch) == (pytest.approx(1.2), 3, None)
    assert found.per_second is None


def test_no_ratio_to_times_of_unknown_conditions_unless_asked():
    other = Timing("times.json", None, Latency.of([0.001, 0.002]), (1.0, 2.0), source="trtexec")
    here = benched("a")
    silent = with_recorded(here, (other,), anyway=False)
    assert silent.ratios == ()
    assert "times.json: taken by trtexec, which records no conditions" in silent.notes[0]
    asked = with_recorded(here, (other,), anyway=True)
    assert [(r.name, r.base) for r in asked.ratios] == [("times.json", "a")]


@pytest.mark.parametrize(
    ("content", "match"),
    [("[]", "holds no time"), ("{}", "holds no time"), ("[1]", "no times of trtexec"), ("nonsense", "not sound JSON"), ('[{"ms": 1}]', "no times")],
)  # fmt: skip
def test_other_json_is_refused(content, match, tmp_path):
    (tmp_path / "times.json").write_text(content)
    with pytest.raises(DataError, match=match):
        read_trtexec(tmp_path / "times.json")


def saved(path, bench, **conditions):
    data = bench.to_json()
    data["conditions"].update(conditions)
    path.write_text(json.dumps(data))
    return path


def test_an_earlier_benchmark_is_compared_where_conditions_are_the_same(tmp_path):
    now = benched("a", batches=(1, 4))
    found = compare_with(now, saved(tmp_path / "old.json", now), anyway=False)
    assert [(r.name, r.batch, r.p50) for r in found.ratios] == [("a", 1, 1.0), ("a", 4, 1.0)]
    assert found.differences == ()


def test_an_earlier_benchmark_under_other_conditions_is_refused_by_name(tmp_path):
    now = benched("a")
    old = saved(tmp_path / "old.json", now, processor="another", threads="7")
    with pytest.raises(
        InputError,
        match=r"under other conditions \(processor: another then, .*; threads: 7 then, none now\); --anyway",
    ):
        compare_with(now, old, anyway=False)
    found = compare_with(now, old, anyway=True)
    assert len(found.ratios) == 1
    assert len(found.differences) == 2


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        '{"conditions": {}, "latencies": []}',
        '{"conditions": [1], "latencies": {}}',
        '{"conditions": {}, "latencies": {"a": {"name": "a"}}}',
        '{"conditions": {}, "latencies": {"a": {"name": "a", "batch": true, "samples_ms": [1.0]}}}',
        '{"conditions": {}, "latencies": {"a": {"name": "a", "batch": 1, "samples_ms": ["1"]}}}',
    ],
)
def test_a_file_that_is_no_benchmark_is_refused(content, tmp_path):
    (tmp_path / "old.json").write_text(content)
    with pytest.raises(DataError, match="is not a benchmark"):
        compare_with(benched("a"), tmp_path / "old.json", anyway=True)


def test_a_benchmark_of_other_models_is_refused(tmp_path):
    with pytest.raises(
        DataError, match="has times of other at batch 1, but of nothing that was measured now"
    ):
        compare_with(benched("a"), saved(tmp_path / "old.json", benched("other")), anyway=True)


def test_gpu_queries_are_read_as_nvidia_smi_writes_them():
    fields = ("name", "clocks.sm", "temperature.gpu", "power.draw", "clocks_throttle_reasons.active")
    text = "NVIDIA H100 80GB HBM3, 1980, 34, 118.32, 0x0000000000000001\nNVIDIA H100 80GB HBM3, 1, 2, 3, 4\n"
    assert parse_gpu_query(fields, text) == {
        "gpu name": "NVIDIA H100 80GB HBM3",
        "gpu clocks.sm": "1980 MHz",
        "gpu temperature.gpu": "34 C",
        "gpu power.draw": "118.32 W",
        "gpu clocks_throttle_reasons.active": "0x0000000000000001",
    }
    assert parse_gpu_query(("power.draw",), "[N/A]\n") == {"gpu power.draw": "[N/A]"}
    assert parse_gpu_query(fields, "") == {}


def test_the_gpu_is_named_where_nvidia_smi_is_missing(tmp_path, monkeypatch):
    """Times of two GPUs are not compared, on a Jetson or in a container without that tool either."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine_state.gpu_conditions() == {}
    monkeypatch.setattr(machine_state, "probe_gpus", lambda: ((Gpu("Orin", "sm87", True),), "a driver"))
    assert machine_state.gpu_conditions() == {"gpu name": "Orin"}


def test_a_tool_that_fails_is_no_gpu(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine_state.gpu_state() == {}
    tool.write_text("#!/bin/sh\necho '1500, 5001, 40, 90.1, 0x0'\n")
    assert machine_state.gpu_state()["gpu clocks.sm"] == "1500 MHz"


@pytest.mark.parametrize(
    "known", ["clocks_event_reasons.active", "clocks_throttle_reasons.active", "neither"]
)
def test_a_field_that_the_driver_renamed_costs_no_other(tmp_path, monkeypatch, known):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        f"#!/bin/sh\ncase $1 in *{known}*) echo '1500, 5001, 40, 90.1, 0x4';; *reasons*) exit 2;; "
        "*) echo '1500, 5001, 40, 90.1';; esac\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    state = machine_state.gpu_state()
    assert state["gpu clocks.sm"] == "1500 MHz"
    assert state.get(f"gpu {known}") == (None if known == "neither" else "0x4")


def test_the_clocks_are_those_of_the_gpu_that_runs(tmp_path, monkeypatch):
    """CUDA puts the fastest GPU first, nvidia-smi the first on the bus."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\ncase \"$*\" in *--id=GPU-b*) echo '1980, 2619, 60, 500.0, 0x0';; "
        "*) echo '345, 405, 30, 20.0, 0x1';; esac\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine_state, "probe_gpus", lambda: ((Gpu("Fast", "sm90", True, "GPU-b"),), ""))
    assert machine_state.gpu_state()["gpu clocks.sm"] == "1980 MHz"


class OnAGpu(Lookup):
    """A session with a GPU's clock: kernels take 2 ms, copies 7 ms, and the wall clock says nothing of either."""

    def on_device(self, feeds):
        self.feeds = feeds
        return SimpleNamespace(device_seconds=lambda: 2e-3, host_seconds=lambda: 9e-3, no_graph="")


def test_engines_are_timed_by_the_gpu_and_beside_a_cpu_from_host_to_host():
    engines = {"a": OnAGpu(TABLE), "b": OnAGpu(TABLE)}
    found = bench_sessions(engines, feeds, runs=7, warmup=0)
    assert [timing.latency.p50_ms for timing in found.timings] == pytest.approx([2.0, 2.0])
    assert found.conditions["transfers"].startswith("none: the GPU's own time")
    mixed = bench_sessions({"a": OnAGpu(TABLE), "cpu": Lookup(TABLE)}, feeds, runs=7, warmup=0)
    assert mixed.timings[0].latency.p50_ms == pytest.approx(9.0)
    assert mixed.conditions["transfers"].startswith("host to host")


def model(path, *, shape='"n", 3'):
    import onnx

    text = f"g (float[{shape.replace(chr(34), '')}] x) => (float[{shape.replace(chr(34), '')}] y) {{ y = Add(x, x) }}"
    graph = onnx.parser.parse_graph(text)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), path
    )
    return str(path)


def test_the_command_writes_what_it_prints_and_compares_with_it(tmp_path, capsys):
    a, old = model(tmp_path / "a.onnx"), str(tmp_path / "old.json")
    assert main(["bench", a, a, "--batch", "1,4", "--runs", "5", "--warmup", "1", "--json", "-o", old]) == 0
    out, _ = capsys.readouterr()
    assert json.loads(out) == {**json.loads((tmp_path / "old.json").read_text())}
    names = {entry["name"] for entry in json.loads(out)["latencies"].values()}
    assert names == {a, f"{a} #2"}
    capsys.readouterr()
    assert main(["bench", a, a, "--runs", "5", "--warmup", "1", "--compare", old]) == 0
    out, err = capsys.readouterr()
    assert f"{a} / {old}, batch 1: p50 ratio" in out
    assert "samples/s" in out
    assert main(["bench", a, a, "--runs", "5", "--threads", "1", "--compare", old]) == 2
    out, err = capsys.readouterr()
    assert "p50 ms" in out  # what was measured is not lost
    assert "under other conditions" in err
    assert "threads: the library's default then, 1 now" in err
    assert main(["bench", a, a, "--runs", "5", "--threads", "1", "--compare", old, "--anyway"]) == 0
    assert "not the same conditions: threads" in capsys.readouterr().err


def test_the_command_reads_real_samples(tmp_path, capsys):
    a = model(tmp_path / "a.onnx")
    np.savez(tmp_path / "d.npz", x=np.ones((2, 3), np.float32))
    assert main(["bench", a, "--data", str(tmp_path / "d.npz"), "--batch", "3", "--runs", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["conditions"]["inputs"] == "real samples"
    assert list(found["batch"].values()) == [3]


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        pytest.param(["none.onnx"], 2, "none.onnx does not exist", id="missing"),
        pytest.param(
            ["a.onnx", "--batch", "1,x"],
            2,
            "'1,x' is not a list of numbers; write them as in 1,8,32",
            id="batches",
        ),
        pytest.param(
            ["a.onnx", "--batch", "0"], 2, "--batch 0 is out of range; give 1 or more", id="batch-0"
        ),
        pytest.param(["a.onnx", "--runs", "0"], 2, "--runs 0 is out of range; give 1 to 1000000", id="runs"),
        pytest.param(["free.onnx"], 2, "leaves the size of n?xm free; give it: --shape x:1x", id="free-size"),
        pytest.param(["free.onnx", "--shape", "y:1x2"], 2, "the model has no input 'y'", id="unknown-input"),
        pytest.param(["a.onnx", "--compare", "none.json"], 2, "none.json does not exist", id="no-earlier"),
        pytest.param(["a.onnx", "-o", "no/where.json"], 2, "the folder no does not exist", id="output"),
        pytest.param(["http://127.0.0.1:9/m"], 7, "127.0.0.1:9", id="no-server"),
    ],
)
def test_bad_input_is_one_sentence(words, status, sentence, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if words[0].startswith("http"):
        pytest.importorskip("tritonclient")
    model("a.onnx")
    model("free.onnx", shape='"n", "m"')
    assert main(["bench", *words, *([] if "--runs" in words else ["--runs", "2"])]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence.replace("n?xm", "nxm") in err
    assert err.count("\n") == 1


def test_first_batch_is_what_bench_feeds():
    from nm2trt.validation.samples.samples import ArraySamples

    samples = ArraySamples({"row": np.arange(4, dtype=np.float32)})
    found = bench_sessions(
        {"a": Lookup(TABLE)}, lambda s, n: first_batch(s, samples, n), runs=1, warmup=0, batches=(6,)
    )
    assert found.timings[0].batch == 6


@pytest.mark.parametrize("size", [1 << 30, 10**12])
def test_a_batch_that_no_memory_holds_is_refused_before_it_is_made(size):
    from nm2trt.validation.samples.samples import ArraySamples

    samples = ArraySamples({"row": np.arange(4, dtype=np.float32)})
    with pytest.raises(DataError, match=rf"a batch of {size} samples \(--batch\) takes .* --sample-memory"):
        first_batch(Lookup(TABLE), samples, size)


def test_samples_of_another_size_are_another_condition(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model("m.onnx", shape='"n", "m"')
    words = ["bench", "m.onnx", "--runs", "3", "--warmup", "1"]
    assert main([*words, "--shape", "x:1x3", "-o", "old.json"]) == 0
    assert main([*words, "--shape", "x:1x5", "--compare", "old.json"]) == 2
    assert "samples of m.onnx: x 3 then, x 5 now" in capsys.readouterr().err


def test_the_report_does_not_replace_a_model(tmp_path, capsys):
    a = model(tmp_path / "a.onnx")
    assert main(["bench", a, "--runs", "3", "-o", a]) == 2
    assert "a.onnx is an input, and would be replaced" in capsys.readouterr().err


class Served:
    """A session whose server tells its own time."""

    inputs = (TensorSpec("x", "float32", (1,)),)
    outputs = (TensorSpec("y", "float32", (1,)),)

    def run(self, feeds):
        return {"y": feeds["x"]}

    def server_time(self, work, requests):
        work()
        return ServerTime(requests, 1.0, 0.0, 0.2, 0.6, 0.2)


def test_requests_for_the_servers_own_time_count_as_work(monkeypatch):
    steps = []

    class Shown:
        def update(self, done, total=None, description=None):
            steps.append((done, description))

    totals = []
    monkeypatch.setattr(
        "nm2trt.validation.latency.bench.bar",
        lambda _, total: totals.append(total) or contextlib.nullcontext(Shown()),
    )
    sessions = {"one": Served(), "two": Served()}
    feeds = {"x": np.zeros(1, np.float32)}
    timed = bench_sessions(sessions, lambda _session, _batch: feeds, runs=3, warmup=0)
    assert all(timing.server is not None for timing in timed.timings)
    assert totals == [9]  # three rounds of both, and three requests to each
    assert steps == [*((n, "timing") for n in (1, 2, 3)), *((n, "server ms") for n in range(4, 10))]


def test_names_of_served_models_are_whole_on_a_narrow_terminal():
    """They differ in the scheme, which a name that is cut at the front loses."""
    names = ("model.onnx", "http://127.0.0.1:8000/net", "grpc+shm://127.0.0.1:8001/net")
    latency, own = Latency.of([0.0123] * 9), ServerTime(9, 4.5, 0.0, 1.0, 2.0, 1.0)
    timings = [Timing(name, 1, latency, (12.3,) * 9, server=own) for name in names]
    benchmark = Benchmark(tuple(timings), (), WarmUp(0, stable=True), {}, {}, {}, "")
    (table,) = benchmark.tables()
    for width, percentiles in ((80, ("p50", "p99")), (160, ("p50", "p90", "p95", "p99"))):
        lines = [line for line, _ in lay_out(table, width).lines()]
        assert all(any(line.startswith(name) for line in lines) for name in names)
        assert [p for p in ("p50", "p90", "p95", "p99") if any(p in line for line in lines)] == list(
            percentiles
        )
